"""The handlers as model servers call them, and how they choose model, settings and layers."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import fused_layers
import inference
import model_loading
import packed_linear
import pytest
import quantized_linear
import torch
from toolkit_calls import CODE, call_as_the_toolkit_does
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)
from transformers.pytorch_utils import Conv1D


def server(name):
    return types.SimpleNamespace(system_properties={"server_name": name})


def ids_of(answers):
    return [[token["id"] for token in answer["details"]["tokens"]] for answer in answers]


def test_called_one_at_a_time_as_in_the_hugging_face_image(model_dirs):
    answers = call_as_the_toolkit_does(model_dirs["gpt2"])
    assert answers["plain"] == answers["with context"]
    assert list(answers["plain"]) == ["generated_text"]
    lines = answers["streamed"]
    assert "".join(line["token"]["text"] for line in lines) == answers["plain"]["generated_text"]
    assert lines[-1]["generated_text"] == answers["plain"]["generated_text"]
    assert answers["error"].startswith('Unknown parameter "temprature". Did you mean "temperature"?')


def test_a_server_that_streams_gets_lines_and_their_content_type(llama):
    stream = inference.predict_fn({"inputs": "The cat", "stream": True}, llama)
    lines, content_type = inference.output_fn(stream, "application/json", server("sagemaker-local"))
    assert content_type == "application/jsonlines"
    lines = list(lines)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    stream = inference.predict_fn({"inputs": "The cat", "stream": True}, llama)
    assert inference.output_fn(stream, "application/json", server("MMS")) == "".join(lines)


def test_answers_are_json_in_utf_8(llama):
    answer = inference.predict_fn({"inputs": "你好", "parameters": {"return_full_text": True}}, llama)
    body = inference.output_fn(answer, "application/json")
    assert body.startswith('{"generated_text": "你好')
    assert json.loads(body) == answer


def test_what_cannot_be_answered_in_the_accepted_type_is_refused(llama):
    answer = inference.predict_fn({"inputs": "a"}, llama)
    for accept in (None, "*/*", "application/json", "application/jsonlines", "text/html, application/json;q=0.5"):
        assert json.loads(inference.output_fn(answer, accept)) == answer
    with pytest.raises(ValueError, match="text/csv"):
        inference.output_fn(answer, "text/csv")


def test_the_log_names_the_seconds_of_imports_and_of_loading(model_dirs, capsys):
    inference.model_fn(model_dirs["llama"]).engine.close()
    line = capsys.readouterr().out
    assert "Imports took" in line and "loading" in line and "float32 on cpu" in line


def test_hf_model_id_names_the_model_where_the_archive_holds_none(model_dirs, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_MODEL_ID", raising=False)
    with pytest.raises(FileNotFoundError, match="HF_MODEL_ID"):
        inference.model_fn(tmp_path)
    monkeypatch.setenv("HF_MODEL_ID", str(model_dirs["gpt2"]))
    generator = inference.model_fn(tmp_path)
    generator.engine.close()
    assert generator.engine._model.config.model_type == "gpt2"


def test_settings_come_from_the_environment_and_are_checked(model_dirs, monkeypatch):
    monkeypatch.setenv("MAX_TOTAL_TOKENS", "20")
    monkeypatch.setenv("MAX_CLIENT_BATCH_SIZE", "2")
    monkeypatch.setenv("MAX_BATCH_SIZE", "3")
    generator = inference.model_fn(model_dirs["llama"])
    with pytest.raises(ValueError, match="20"):
        inference.predict_fn({"inputs": "a", "parameters": {"max_new_tokens": 20}}, generator)
    with pytest.raises(ValueError, match="3 prompts"):
        inference.predict_fn({"inputs": ["a", "b", "c"]}, generator)
    assert generator.engine._max_batch_size == 3
    generator.engine.close()
    monkeypatch.setenv("MAX_BATCH_SIZE", "many")
    with pytest.raises(ValueError, match="MAX_BATCH_SIZE must be a whole number"):
        inference.model_fn(model_dirs["llama"])
    monkeypatch.delenv("MAX_BATCH_SIZE")
    monkeypatch.setenv("DTYPE", "float8")
    with pytest.raises(ValueError, match="DTYPE must be auto or one of float32"):
        inference.model_fn(model_dirs["llama"])


def test_dtypes_by_hardware(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert model_loading._choose_dtype("auto", cpu) == torch.float32
    assert model_loading._choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert model_loading._choose_dtype("int8", cpu) == torch.float32
    with pytest.raises(ValueError, match="without a GPU. Here, leave DTYPE at auto"):
        model_loading._choose_dtype("int8", gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert model_loading._choose_dtype("auto", gpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert model_loading._choose_dtype("auto", gpu) == torch.float16


def test_bfloat16_generates_too(model_dirs, monkeypatch):
    monkeypatch.setenv("DTYPE", "bfloat16")
    generator = inference.model_fn(model_dirs["llama"])
    answers = inference.predict_fn({"inputs": ["The cat", "a"], "parameters": {"details": True}}, generator)
    generator.engine.close()
    assert generator.engine._model.dtype == torch.bfloat16
    assert all(answer["details"]["generated_tokens"] > 0 for answer in answers)


@pytest.mark.parametrize("architecture", ["gpt2", "gptj", "llama"])
def test_int8_generates_the_same_alone_and_together(model_dirs, monkeypatch, capsys, architecture):
    monkeypatch.setenv("DTYPE", "int8")
    generator = inference.model_fn(model_dirs[architecture])
    model = generator.engine._model
    layers = [layer for layer in model.modules() if isinstance(layer, quantized_linear.QuantizedLinear)]
    note = re.search(
        r"int8 on cpu, (\d+) linear layers quantized, .* weights of ([\d,]+) bytes take ([\d,]+) in memory",
        capsys.readouterr().out,
    )
    before, after = (int(note[group].replace(",", "")) for group in (2, 3))
    assert int(note[1]) == len(layers) and after < before
    assert model.get_input_embeddings().weight.dtype == torch.float32
    prompts = ["The cat", "a", "The dog ran to the river", "x" * 20]
    request = {"parameters": {"details": True, "max_new_tokens": 20, "top_n_tokens": 3}}
    together = inference.predict_fn(request | {"inputs": prompts}, generator)
    alone = [inference.predict_fn(request | {"inputs": prompt}, generator) for prompt in prompts]
    generator.engine.close()
    for answers in (together, alone):
        assert all(len(answer["details"]["top_tokens"][0]) == 3 for answer in answers)
    assert ids_of(together) == ids_of(alone)


@pytest.mark.parametrize("levels", [127, 63, 0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_8_bit_layers_are_close_to_the_plain_ones_and_rows_do_not_matter_to_each_other(monkeypatch, levels, with_bias):
    """With inputs of 8 and of 7 bits, and with inputs left as they are."""
    monkeypatch.setattr(quantized_linear, "_input_levels", lambda: levels)
    torch.manual_seed(0)
    layer = torch.nn.Linear(192, 65, bias=with_bias)
    layer.weight.data[3] = 0
    layer.weight.data[4] *= 10
    quantized = quantized_linear.QuantizedLinear(layer.weight, layer.bias)
    inputs = torch.randn(2, 5, 192)
    inputs[0, 1] *= 10000
    inputs[1, 2] = 0
    with torch.inference_mode():
        outputs, expected = quantized(inputs), layer(inputs)
        sizes = inputs.norm(dim=-1)[..., None] * layer.weight.norm(dim=-1)
        assert outputs.shape == expected.shape
        assert ((outputs - expected).abs() <= 0.005 * sizes + 1e-6).all()
        torch.testing.assert_close(outputs[1, 3], quantized(inputs[1, 3:4])[0], rtol=1e-6, atol=1e-6)


def test_8_bit_weights_are_rounded_to_the_nearest():
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.27, -0.004, 0.016], [-2.54, 0.009, 2.53]])
    integers, scales = quantized_linear.quantize_channels(weight)
    assert integers.tolist() == [[0, 0, 0], [127, 0, 2], [-127, 0, 126]]
    torch.testing.assert_close(scales, torch.tensor([1.0, 0.01, 0.02]))


def test_8_bit_layers_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(quantized_linear, "_input_levels", lambda: 0)
    monkeypatch.setattr(quantized_linear, "_weight_only_works", lambda: False)
    with pytest.raises(RuntimeError, match="use DTYPE=bfloat16 or float32"):
        quantized_linear.QuantizedLinear(torch.ones(4, 4), None)
    with pytest.raises(ValueError, match="not of torch.bfloat16"):
        quantized_linear.QuantizedLinear(torch.ones(4, 4, dtype=torch.bfloat16), None)


def test_an_input_of_8_bits_is_refused_where_products_overflow(monkeypatch):
    """As on processors that add two products in 16 bits: the 7-bit inputs fit, the 8-bit ones do not."""
    multiply = quantized_linear._multiply

    def saturating(integers, levels, *arguments):
        outputs = multiply(integers, levels, *arguments)
        return outputs if levels == 63 else outputs.clamp(max=outputs.max() / 2)

    monkeypatch.setattr(quantized_linear, "_multiply", saturating)
    assert quantized_linear._input_levels.__wrapped__() in (63, 0)
    monkeypatch.setattr(quantized_linear, "_multiply", lambda *arguments: torch.ops.onednn.absent)
    assert quantized_linear._input_levels.__wrapped__() == 0


def test_a_model_with_another_state_than_keys_and_values_is_refused(tmp_path, model_dirs):
    MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_dirs["llama"] / name).read_bytes())
    with pytest.raises(ValueError, match="vLLM or LMI"):
        inference.model_fn(tmp_path)


@pytest.mark.parametrize(("architecture", "kind"), [("gpt2", GPT2LMHeadModel), ("llama", LlamaForCausalLM)])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_layers_compute_what_the_plain_ones_do(model_dirs, architecture, kind, tied):
    plain = kind.from_pretrained(model_dirs[architecture]).eval()
    packed = kind.from_pretrained(model_dirs[architecture]).eval()
    if not tied:
        for model in (plain, packed):
            model.lm_head.weight = torch.nn.Parameter(plain.get_input_embeddings().weight.detach().flip(0).clone())
    linear = [layer for layer in packed.modules() if type(layer) in (torch.nn.Linear, Conv1D)]
    count = packed_linear.pack_linear_layers(packed)
    assert count in (0, len(linear))
    ids = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_fused_layers_compute_what_the_plain_ones_do(model_dirs, architecture):
    """By the model's own forward pass, with hidden states, and by the short one: read, then one more token."""
    plain, fused = (AutoModelForCausalLM.from_pretrained(model_dirs[architecture]).eval() for _ in range(2))
    assert fused_layers.fuse_layers(fused.requires_grad_(False))
    ids = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        expected = plain(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
        got = fused(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
        seen = mask.bool()
        torch.testing.assert_close(got.logits[seen], expected.logits[seen], rtol=1e-4, atol=1e-4)
        assert len(got.hidden_states) == len(expected.hidden_states)
        cache = DynamicCache()
        read = fused.fused_forward(ids[:, :-1], positions[:, :-1], mask[:, :-1], cache)
        torch.testing.assert_close(read, expected.logits[:, -2], rtol=1e-4, atol=1e-4)
        step = fused.fused_forward(ids[:, -1:], positions[:, -1:], mask, cache)
        torch.testing.assert_close(step, expected.logits[:, -1], rtol=1e-4, atol=1e-4)


def test_architectures_without_fused_layers_keep_their_own(generators):
    fused = {name: hasattr(generator.engine._model, "fused_forward") for name, generator in generators.items()}
    assert fused == {"llama": True, "gpt2": True, "gptj": False, "mistral": False}


def test_layers_that_are_not_quite_known_stay(model_dirs):
    model = GPT2LMHeadModel.from_pretrained(model_dirs["gpt2"], add_cross_attention=True)
    assert not fused_layers.fuse_layers(model)
    assert not fused_layers.fuse_layers(LlamaForCausalLM.from_pretrained(model_dirs["llama"], hidden_act="gelu"))


def test_layers_stay_plain_where_packing_is_missing_or_wrong(model_dirs, monkeypatch):
    model = GPT2LMHeadModel.from_pretrained(model_dirs["gpt2"]).eval()
    for broken in (lambda self, inputs: inputs @ torch.zeros(inputs.shape[-1], 1), None):
        if broken:
            monkeypatch.setattr(packed_linear.PackedLinear, "forward", broken)
        else:
            monkeypatch.setattr(packed_linear.PackedLinear, "__init__", lambda *arguments: torch.ops.mkldnn.absent)
        assert packed_linear.pack_linear_layers(model) == 0
    assert type(model.lm_head) is torch.nn.Linear


def test_the_handlers_import_no_more_than_they_need():
    """scikit-learn and accelerate, where installed, would add seconds to every start."""
    code = (
        "import sys; import inference; "
        "print(sorted({'sklearn', 'accelerate', 'pandas', 'scipy', 'shared'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=CODE, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _image_python():
    """A Python 3.12 with the image's transformers and a torch, or the reason why there is none."""
    for candidate in (os.environ.get("IMAGE_PYTHON"), sys.executable, "python3.12"):
        if not candidate:
            continue
        probe = "import sys, torch, transformers; print(*sys.version_info[:2], transformers.__version__)"
        try:
            result = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.returncode == 0 and result.stdout.split() == ["3", "12", "5.5.3"]:
            return candidate, ""
    return None, "no Python 3.12 with torch and transformers 5.5.3 here (name one in IMAGE_PYTHON)"


def test_on_the_python_of_the_hugging_face_image(model_dirs):
    python, reason = _image_python()
    if python is None:
        pytest.skip(reason)
    script = Path(__file__).with_name("toolkit_calls.py")
    result = subprocess.run([python, script, model_dirs["gpt2"]], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == call_as_the_toolkit_does(model_dirs["gpt2"])
