"""LoRA adapters on one endpoint: the answers are those of peft, in batches of any mixture."""

import json
import threading
import warnings

import inference
import pytest
import torch
from generation_request import Limits, parse_request
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

ARCHITECTURES = ("llama", "gpt2", "gptj", "mistral")
# By adapter: the layers that it changes and how, for Llama and Mistral, GPT-2, GPT-J.
ATTENTION = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"], "gptj": ["q_proj", "v_proj"]}
ADAPTERS = {
    "everything": lambda layers: LoraConfig(r=4, lora_alpha=6, target_modules="all-linear"),
    "attention": lambda layers: LoraConfig(r=2, lora_alpha=2, target_modules=layers, use_rslora=True),
    "one-layer": lambda layers: LoraConfig(
        r=3, lora_alpha=5, target_modules=layers, layers_to_transform=[1], rank_pattern={layers[0]: 5},
        alpha_pattern={layers[0]: 9},
    ),
}  # fmt: skip
REQUEST = {"parameters": {"max_new_tokens": 12, "details": True, "top_n_tokens": 2}}


def save_adapter(model, config, folder, seed=0):
    """What training leaves: peft's files, with a B that is not zero."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(folder)
    return adapted.unload()


@pytest.fixture(scope="module")
def adapted_dirs(tmp_path_factory):
    """Folders of tiny models with three adapters each, by architecture."""
    folders = {}
    for architecture in ARCHITECTURES:
        folder = save_tiny_model(tmp_path_factory.mktemp(architecture), architecture)
        layers = ATTENTION.get(architecture, ATTENTION["llama"])
        for seed, (name, config) in enumerate(ADAPTERS.items()):
            model = AutoModelForCausalLM.from_pretrained(folder)
            save_adapter(model, config(layers), folder / "adapters" / name, seed)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="module")
def adapted(adapted_dirs):
    """The generators of those, by architecture."""
    loaded = {name: inference.model_fn(folder) for name, folder in adapted_dirs.items()}
    yield loaded
    for generator in loaded.values():
        generator.engine.close()


def ask(generator, inputs, **fields):
    return inference.predict_fn(REQUEST | {"inputs": inputs} | fields, generator)


def tokens(answer):
    return [token["id"] for token in answer["details"]["tokens"]]


def log_probs(answer):
    return torch.tensor([[top["log_prob"] for top in row] for row in answer["details"]["top_tokens"]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_gives_what_peft_gives(adapted, adapted_dirs, architecture, name):
    folder = adapted_dirs[architecture]
    answer = ask(adapted[architecture], "The cat and the", adapter=name)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), folder / "adapters" / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The cat and the", return_tensors="pt").input_ids
    with torch.inference_mode():
        whole = torch.cat([ids, torch.tensor([tokens(answer)])], 1)
        expected = model(input_ids=whole).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
    assert tokens(answer) == expected.argmax(-1).tolist()
    torch.testing.assert_close(log_probs(answer), expected.topk(2).values, rtol=1e-3, atol=1e-3)
    assert tokens(answer) != tokens(ask(adapted[architecture], "The cat and the"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_of_all_adapters_gives_each_its_own(adapted, architecture):
    names = [*ADAPTERS, "", "everything", ""]
    prompts = ["The cat", "a", "The dog ran to the river", "x" * 20, "Once upon a time", "blue bird"]
    together = ask(adapted[architecture], prompts, adapters=names)
    for prompt, name, answer in zip(prompts, names, together, strict=True):
        alone = ask(adapted[architecture], prompt, adapters=name)
        assert tokens(answer) == tokens(alone)
        torch.testing.assert_close(log_probs(answer), log_probs(alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_an_adapter_nothing_changes(adapted, generators, architecture):
    prompts = ["The cat", "Once upon a time there was"]
    with_adapters, without = ask(adapted[architecture], prompts), ask(generators[architecture], prompts)
    for one, other in zip(with_adapters, without, strict=True):
        assert tokens(one) == tokens(other)
        torch.testing.assert_close(log_probs(one), log_probs(other), rtol=1e-5, atol=1e-5)
    assert not hasattr(generators[architecture].engine._model, "adapters")


def test_requests_that_come_together_share_their_steps(adapted):
    generator = adapted["llama"]
    seen, select = [], generator.engine._adapters.select
    names = list(ADAPTERS) * 3
    answers, barrier = {}, threading.Barrier(len(names))

    def call(number, name):
        barrier.wait()
        answers[number] = ask(generator, "The cat", adapter=name, parameters={"max_new_tokens": 60, "details": True})

    generator.engine._adapters.select = lambda rows: (seen.append(rows := tuple(rows)), select(rows))
    try:
        threads = [threading.Thread(target=call, args=item) for item in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        generator.engine._adapters.select = select
    assert max(len(set(rows)) for rows in seen) == len(ADAPTERS)
    for number, name in enumerate(names):
        first = answers[names.index(name)]
        assert tokens(answers[number]) == tokens(first)


def test_a_streamed_answer_uses_its_adapter(adapted):
    body = {"inputs": "The cat", "adapters": "everything", "stream": True, "parameters": {"max_new_tokens": 12}}
    lines = list(inference.predict_fn(body, adapted["gpt2"]))
    assert [line["token"]["id"] for line in lines] == tokens(ask(adapted["gpt2"], "The cat", adapter="everything"))


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_with_other_weights(adapted_dirs, monkeypatch, dtype):
    monkeypatch.setenv("DTYPE", dtype)
    generator = inference.model_fn(adapted_dirs["llama"])
    prompts = ["The cat", "a", "The dog ran"]
    names = ["everything", "", "attention"]
    together = ask(generator, prompts, adapters=names)
    plain = ask(generator, prompts)
    generator.engine.close()
    assert together[1] == plain[1] or dtype == "bfloat16"
    assert tokens(together[0]) != tokens(plain[0]) and tokens(together[2]) != tokens(plain[2])


def test_the_log_names_the_adapters(adapted_dirs, capsys):
    inference.model_fn(adapted_dirs["llama"]).engine.close()
    assert "adapters attention, everything, one-layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"adapter": "evrything"},
            'Unknown adapter "evrything". Did you mean "everything"? This endpoint has: attention',
        ),
        ({"adapters": ["attention", "none"]}, 'Unknown adapter "none"'),
        ({"adapters": ["attention"]}, "names 1 adapters for 2 prompts"),
        ({"adapters": 3}, "must be the name of an adapter or a list of names, not an integer"),
        ({"adapter": "attention", "adapters": "attention"}, "mean the same; give one"),
        ({"adaptor": "attention"}, 'Did you mean "adapter"?'),
    ],
)
def test_a_wrong_adapter_is_refused(adapted, fields, message):
    with pytest.raises(ValueError) as error:
        ask(adapted["llama"], ["a", "b"], **fields)
    assert message in str(error.value)


def test_an_endpoint_without_adapters_says_where_they_go(llama):
    with pytest.raises(ValueError, match="This endpoint has none.*adapters/NAME"):
        ask(llama, "a", adapter="attention")
    assert ask(llama, "a", adapter="") == ask(llama, "a", adapters=None) == ask(llama, "a")


def test_one_name_is_for_all_prompts_and_a_list_has_one_for_each():
    def adapters(**fields):
        return parse_request({"inputs": ["a", "b"]} | fields, Limits(), ("x", "y")).adapters

    assert adapters(adapter="x") == adapters(adapters="x") == ("x", "x")
    assert adapters(adapters=["", "y"]) == (None, "y")
    assert adapters(adapters=["", ""]) == adapters(adapter=None) == adapters() == ()


@pytest.fixture
def model_dir(tmp_path):
    """A tiny model whose adapter a test may break: folder of the model, folder of the adapter."""
    folder = save_tiny_model(tmp_path, "llama")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    save_adapter(AutoModelForCausalLM.from_pretrained(folder), config, folder / "adapters" / "mine")
    return folder, folder / "adapters" / "mine"


def changed_config(adapter, **values):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def changed_tensors(adapter, change):
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


BROKEN = {
    "its peft_type is 'PROMPT_TUNING'": lambda adapter: changed_config(adapter, peft_type="PROMPT_TUNING"),
    "its use_dora is True": lambda adapter: changed_config(adapter, use_dora=True),
    "its modules_to_save is": lambda adapter: changed_config(adapter, modules_to_save=["lm_head"]),
    "No such file": lambda adapter: (adapter / "adapter_model.safetensors").unlink(),
    "adapter_config.json": lambda adapter: (adapter / "adapter_config.json").unlink(),
    "Expecting": lambda adapter: (adapter / "adapter_config.json").write_text("{"),
    "cannot be served": lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"broken"),
    "not finite": lambda adapter: changed_tensors(adapter, lambda all: {k: v / 0 for k, v in all.items()}),
    "it changes nothing": lambda adapter: changed_tensors(adapter, lambda all: {}),
    "do not fit a layer of 32 inputs": lambda adapter: changed_tensors(
        adapter, lambda all: {k: v[:, :-1].contiguous() for k, v in all.items()}
    ),
    "the model has no linear layer": lambda adapter: changed_tensors(
        adapter, lambda all: {k.replace("q_proj", "query"): v for k, v in all.items()}
    ),
    "only LoRA matrices of linear layers": lambda adapter: changed_tensors(
        adapter, lambda all: all | {"base_model.model.lm_head.weight": torch.ones(2, 2)}
    ),
    "only one of the two matrices": lambda adapter: changed_tensors(
        adapter, lambda all: {k: v for k, v in all.items() if "_A" in k}
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_an_adapter_that_cannot_be_served_is_named_when_the_model_is_loaded(model_dir, message):
    folder, adapter = model_dir
    BROKEN[message](adapter)
    with pytest.raises(ValueError, match="The adapter mine in .*adapters cannot be served") as error:
        inference.model_fn(folder)
    assert message in str(error.value)


def test_hidden_folders_and_files_are_no_adapters(model_dir):
    folder, adapter = model_dir
    (folder / "adapters" / "README.md").write_text("Two adapters.")
    (folder / "adapters" / ".cache").mkdir()
    generator = inference.model_fn(folder)
    generator.engine.close()
    assert generator.adapter_names == ("mine",)


def test_a_soft_prompt_is_refused(tmp_path):
    folder = save_tiny_model(tmp_path, "llama")
    config = PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(folder / "adapters" / "soft")
    with pytest.raises(ValueError, match="soft.*its peft_type is 'PREFIX_TUNING'"):
        inference.model_fn(folder)
