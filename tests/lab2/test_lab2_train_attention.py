"""Attention in pieces, which train.py uses in bfloat16 on processors: the numbers of PyTorch's own operator."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM

CODE = Path(__file__).resolve().parents[2] / "lab2-llm-finetuning" / "code"
sys.path.insert(0, str(CODE))

from blockwise_attention import NAME, use_blockwise_attention  # noqa: E402

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 2048}
CONFIGS = {
    "llama": LlamaConfig(vocab_size=50, intermediate_size=48, **SIZES),
    "fewer keys": LlamaConfig(vocab_size=50, intermediate_size=48, num_key_value_heads=2, **SIZES),
    "gpt2": GPT2Config(
        vocab_size=50, n_embd=32, n_head=4, n_layer=2, n_positions=2048, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    ),
}


def two_models(name):
    torch.manual_seed(0)
    model, other = (AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa") for _ in range(2))
    other.load_state_dict(model.state_dict())
    assert use_blockwise_attention(other)
    return model.train(), other.train()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 300])
def test_loss_and_gradients_are_those_of_the_operator(name, tokens):
    ids = torch.randint(50, (3, tokens))
    ours, theirs = [], []
    for model, found in zip(two_models(name), (theirs, ours), strict=True):
        output = model(input_ids=ids, use_cache=False)
        torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), ids.flatten()).backward()
        found += [output.logits.detach(), *(weights.grad for weights in model.parameters())]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_it_is_as_near_to_float32_as_the_operator():
    ids = torch.randint(50, (3, 200))
    plain, blockwise = two_models("llama")
    exact = plain(input_ids=ids).logits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        errors = [(model(input_ids=ids).logits.float() - exact).square().mean() for model in (plain, blockwise)]
    assert 0 < errors[1] < 2 * errors[0]


def test_padding_goes_to_the_operator_and_generation_is_the_same():
    ids, mask = torch.randint(1, 50, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    mask[0, :5] = 0
    made = [
        model.eval().generate(
            ids, attention_mask=mask, max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        for model in two_models("llama")
    ]
    assert torch.equal(*made)


def test_no_token_sees_a_later_one():
    _, model = two_models("llama")
    ids = torch.randint(50, (1, 200))
    changed = ids.clone()
    changed[0, 150] = (ids[0, 150] + 1) % 50
    one, other = (model(input_ids=tokens, use_cache=False).logits[0] for tokens in (ids, changed))
    assert torch.equal(one[:150], other[:150])
    assert not torch.equal(one[150:], other[150:])


def test_dropout_of_attention_is_kept_in_training_only():
    config = GPT2Config(vocab_size=50, n_embd=32, n_head=4, n_layer=1, attn_pdrop=0.5, resid_pdrop=0, embd_pdrop=0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    assert use_blockwise_attention(model)
    ids = torch.randint(50, (1, 20))
    one, other = (model.train()(input_ids=ids).logits for _ in range(2))
    assert not torch.equal(one, other)
    one, other = (model.eval()(input_ids=ids).logits for _ in range(2))
    assert torch.equal(one, other)


def test_it_leaves_other_attention_alone_and_is_not_saved(tmp_path):
    eager = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    assert not use_blockwise_attention(eager)
    assert eager.config._attn_implementation == "eager"
    _, model = two_models("llama")
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation != NAME
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), LlamaForCausalLM)
