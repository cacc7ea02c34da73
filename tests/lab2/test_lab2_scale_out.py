"""The helpers of notebook 4: the memory calculator against papers and real tensors, and the picture of the trials."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig

LAB = Path(__file__).parents[2] / "lab2-llm-finetuning"
MODEL = LAB.parent / "shared" / "models" / "language"
sys.path.insert(0, str(LAB))

from parallel_coordinates import parallel_coordinates  # noqa: E402
from training_memory import ModelShape, estimate, gradient_bytes, kept_activations  # noqa: E402

SEVEN = ModelShape("7B", layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32, vocabulary=32000)
SEVENTY = ModelShape("70B", layers=80, hidden=8192, inner=28672, heads=64, kv_heads=8, vocabulary=32000)
SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False}
GB = 1e9


@pytest.fixture(scope="module")
def embedded():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def kept(model, rows=2, length=48):
    """Bytes that autograd really keeps of a forward pass, without parameters, and those of the logits among them."""
    parameters = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = (storage, storage.nbytes())  # held, so that no address comes twice
        return tensor

    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    model.config.use_cache = False
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids).loss  # noqa: B018
    return sum(size for _, size in found.values()), rows * length * model.config.vocab_size * 4


def test_parameters_of_llama_2():
    assert SEVEN.parameters == 6_738_415_616
    assert SEVENTY.parameters == 68_976_648_192


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"head_dim": 32, "num_key_value_heads": 4}])
def test_parameters_of_a_configuration(changes):
    config = LlamaConfig(**SMALL | changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert ModelShape.of("small", config).parameters == sum(weight.numel() for weight in model.parameters())


def test_lora_parameters_are_those_of_peft():
    peft = pytest.importorskip("peft")
    config = LlamaConfig(**SMALL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        lora = peft.LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, lora)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert ModelShape.of("small", config).lora_parameters(5) == trained


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="not built like Llama"):
        ModelShape.of("gpt2", GPT2Config())


def test_the_figures_of_the_zero_paper():
    """Figure 1 there: 7.5 billion parameters on 64 GPUs take 120, 31.4, 16.6 and 1.9 GB for the model states."""
    shape = ModelShape("7.5B", layers=1, hidden=1, inner=1, heads=1, kv_heads=1, vocabulary=3_749_999_995)
    assert shape.parameters == pytest.approx(7.5e9)
    for sharding, gigabytes in {"ddp": 120, "zero1": 31.4, "zero2": 16.6, "fsdp": 1.9}.items():
        memory = estimate(shape, sharding=sharding, gpus=64)
        states = memory.weights + memory.gradients + memory.optimizer
        assert states / GB == pytest.approx(gigabytes, rel=0.02)


def test_states_of_a_real_step(embedded):
    ids = torch.randint(0, 2560, (1, 16))
    optimizer = torch.optim.AdamW(embedded.parameters())
    embedded(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    memory = estimate(ModelShape.of("embedded", embedded.config), precision="fp32")
    assert memory.weights == sum(weight.nbytes for weight in embedded.parameters())
    assert memory.gradients == sum(weight.grad.nbytes for weight in embedded.parameters())
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert memory.optimizer == sum(average.nbytes for average in averages)
    embedded.zero_grad(set_to_none=True)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_that_autograd_keeps(precision, checkpointing):
    config = LlamaConfig(**SMALL)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    real, logits = kept(model)
    expected = kept_activations(ModelShape.of("small", config), 2 * 48, precision, checkpointing)
    assert real - logits == pytest.approx(expected, rel=0.05)


def test_activations_with_frozen_weights(embedded):
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL))
    lora = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    real, logits = kept(peft.get_peft_model(model.float(), lora))
    expected = kept_activations(ModelShape.of("embedded", embedded.config), 2 * 48, "fp32", frozen=True)
    assert real - logits == pytest.approx(expected, rel=0.05)


def test_what_divides_what():
    one = estimate(SEVEN)
    zero1, zero2, fsdp = (estimate(SEVEN, sharding=sharding, gpus=8) for sharding in ("zero1", "zero2", "fsdp"))
    assert estimate(SEVEN, gpus=8) == one  # every GPU holds everything
    assert (zero1.weights, zero1.gradients) == (one.weights, one.gradients)
    assert zero1.optimizer == one.optimizer / 8
    assert (zero2.weights, zero2.gradients) == (one.weights, one.gradients / 8)
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (one.weights / 8, one.gradients / 8, one.optimizer / 8)
    assert fsdp.gathered > 0 == zero2.gathered
    assert fsdp.activations == one.activations  # each GPU has its own tokens
    assert estimate(SEVEN, sharding="fsdp", gpus=1) == one


def test_the_ways_to_save():
    full, lora, qlora = (estimate(SEVEN, method=method) for method in ("full", "lora", "qlora"))
    assert full.total > lora.total > qlora.total
    assert lora.weights / GB == pytest.approx(13.6, rel=0.02)
    assert qlora.weights / GB == pytest.approx(4.0, rel=0.05)
    assert estimate(SEVEN, checkpointing=True).activations < full.activations / 10
    assert estimate(SEVEN, tokens=8192).activations == 2 * full.activations
    # Dettmers et al.: 65 billion parameters can be fine-tuned on one GPU of 48 GB (a card's are 2**30 bytes each).
    shape = ModelShape("65B", layers=80, hidden=8192, inner=22016, heads=64, kv_heads=64, vocabulary=32000)
    assert estimate(shape, method="qlora", checkpointing=True, tokens=512, rank=64).total < 48 * 2**30
    assert gradient_bytes(SEVEN) == 2 * SEVEN.parameters > 50 * gradient_bytes(SEVEN, "lora")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "half"}, "method='half'"),
        ({"sharding": "zero4"}, "sharding='zero4'"),
        ({"precision": "int8"}, "precision='int8'"),
        ({"gpus": 0}, "gpus=0"),
        ({"tokens": 0}, "tokens=0"),
        ({"rank": 0}, "rank=0"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        estimate(SEVEN, **values)


TRIALS = [{"rate": 10.0**-n, "rows": 4 * n, "loss": 1.0 / n} for n in range(1, 6)]


def test_the_best_trial_is_drawn_thick_and_dark():
    figure = parallel_coordinates([*TRIALS, {"rate": 1, "rows": 4, "loss": float("nan")}], {"rate": "log"}, "loss")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert len(lines) == len(TRIALS)
    thick = max(lines, key=lambda line: line.get_linewidth())
    assert list(thick.get_ydata()) == [0.0, 0.0]  # the smallest rate and the smallest loss
    assert thick is lines[-1]
    # On a logarithmic axis, powers of ten are at equal distances.
    assert sorted(round(line.get_ydata()[0], 6) for line in lines) == [0, 0.25, 0.5, 0.75, 1]


def test_the_best_of_a_maximised_objective():
    figure = parallel_coordinates(TRIALS, {"rows": "linear"}, "loss", minimize=False)
    thick = max(figure.axes[0].lines, key=lambda line: line.get_linewidth())
    assert thick.get_ydata()[-1] == 1.0


def test_one_trial_and_equal_values_can_be_drawn():
    figure = parallel_coordinates(TRIALS[:1], {"rate": "log", "rows": "linear"}, "loss")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.1", "4", "1"]


@pytest.mark.parametrize(
    ("trials", "axes", "message"),
    [
        ([], {"rate": "log"}, "no trial"),
        ([{"rate": 1.0, "loss": float("nan")}], {"rate": "log"}, "no trial"),
        ([{"rate": 0.0, "loss": 1.0}], {"rate": "log"}, "not above 0"),
        (TRIALS, {"rate": "cubic"}, "linear or log"),
    ],
)
def test_what_cannot_be_drawn(trials, axes, message):
    with pytest.raises(ValueError, match=message):
        parallel_coordinates(trials, axes, "loss")
