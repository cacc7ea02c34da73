"""OpenVINO GenAI's continuous batching in this process, on a transformers model converted to its format.

`optimum-intel`, the usual converter, wants other versions than this project's, so the conversion is done here: the
model is traced with its keys and values as inputs and outputs, which then become the state that the pipeline manages:
https://docs.openvino.ai/2025/openvino-workflow/running-inference/stateful-models/obtaining-stateful-openvino-model.html
"""

import importlib.util
import json
import logging
import threading
import warnings
from pathlib import Path

from tests.benchmarks.model import NEW_TOKENS

PACKAGES = ("openvino", "openvino_genai", "openvino_tokenizers", "nncf")
PRECISIONS = ("float32", "bfloat16", "int8")


def why_not() -> str | None:
    """Why OpenVINO GenAI cannot run here, or None."""
    missing = [name.replace("_", "-") for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed. It is optional: "
            "`.venv/bin/python -m uv pip install --python .venv/bin/python -r pyproject.toml --extra openvino` gets it."
        )
    return None


class OpenVINOEngine:
    """A running `ContinuousBatchingPipeline`.

    Args:
        folder: from `convert`.
        precision: of `PRECISIONS`; int8 has 8-bit weights, one scale per output channel, and computes in float32.
        threads: of the matrix products.
    """

    def __init__(self, folder: Path, precision: str, threads: int):
        import openvino as ov
        import openvino_genai as genai

        self._ov, self._genai = ov, genai
        scheduler = genai.SchedulerConfig()
        # 1 GB of keys and values; a step reads the prompts of 16 clients at once.
        scheduler.cache_size, scheduler.max_num_batched_tokens = 1, 512
        kind = ov.Type.bf16 if precision == "bfloat16" else ov.Type.f32
        properties = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind, "KV_CACHE_PRECISION": kind}
        tokenizer = genai.Tokenizer(str(folder))
        self._tokenizer = tokenizer
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), tokenizer, scheduler, "CPU", **properties)
        self._lock = threading.Lock()

    def generate(self, prompts: list[str]) -> list[list[int]]:
        """Greedy tokens after each prompt, all prompts at once."""
        options = self._genai.GenerationConfig()
        options.max_new_tokens, options.do_sample = NEW_TOKENS, False
        # The measured model has no end of text; the pipeline wants a token for it all the same, and ignores it.
        options.eos_token_id, options.stop_token_ids, options.ignore_eos = 0, {0}, True
        ids = [self._tokenizer.encode(prompt).input_ids for prompt in prompts]
        with self._lock:
            results = self._pipeline.generate(ids, [options] * len(ids))
        answers = [list(result.m_generation_ids[0]) for result in results]
        lengths = [len(answer) for answer in answers]
        if set(lengths) != {NEW_TOKENS}:
            raise RuntimeError(f"OpenVINO generated {lengths} tokens, not {NEW_TOKENS} each")
        return answers


def convert(model_folder: Path, folder: Path, int8: bool = False) -> Path:
    """Write a causal language model, its tokenizer and its settings in OpenVINO's format; returns `folder`.

    Args:
        model_folder: saved by `save_pretrained`; the model has as many key/value heads as heads.
        int8: compress the weights of matrix products and embeddings to 8 bits.
    """
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    model = _stateful(model_folder)
    if int8:
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    for part, name in zip(
        convert_tokenizer(AutoTokenizer.from_pretrained(model_folder), with_detokenizer=True),
        ("openvino_tokenizer.xml", "openvino_detokenizer.xml"),
        strict=True,
    ):
        ov.save_model(part, folder / name)
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text(json.dumps(json.loads((model_folder / name).read_text())))
    return folder


def _stateful(model_folder: Path):
    """The model as an OpenVINO graph whose state are its keys and values, with the input `beam_idx`."""
    import numpy as np
    import openvino as ov
    import torch
    from openvino import opset13 as operations
    from openvino._offline_transformations import apply_make_stateful_transformation
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    config = source.config
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    states = [f"{index}.{kind}" for index in range(config.num_hidden_layers) for kind in ("key", "value")]
    example = (torch.ones(2, 3).long(), torch.ones(2, 8).long(), torch.arange(5, 8).repeat(2, 1))
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every value that it takes as a constant; here they are constants.
        warnings.simplefilter("ignore")
        past = [torch.zeros(2, heads, 5, size) for _ in states]
        graph = ov.convert_model(_traceable(source), example_input=(*example, *past))
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{state}" for state in states)]
    for port, name in zip(graph.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape([-1, heads, -1, size] if "." in name else [-1, -1]))
    outputs = ["logits", *(f"present.{state}" for state in states)]
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    rows = operations.parameter(ov.PartialShape([-1]), ov.Type.i32, name="beam_idx")
    rows.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([rows])
    for port in graph.inputs[3:-1]:
        readers = port.get_target_inputs()
        gathered = operations.gather(port, rows, operations.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(inputs[3:], outputs[1:], strict=True)))
    batch = operations.gather(
        operations.shape_of(graph.input("input_ids"), "i64"), operations.constant([0]), operations.constant(0)
    )
    empty = operations.concat([batch, operations.constant(np.array([heads, 0, size]))], 0)
    for operation in graph.get_ops():
        if operation.get_type_name() == "ReadValue":
            operation.set_arguments([operations.broadcast(operations.constant(np.float32(0)), empty)])
    graph.validate_nodes_and_infer_types()
    return graph


def _traceable(source):
    """The model as a module of tensors only: (ids, mask, positions, *keys and values) -> (logits, *keys and values)."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Traceable(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.source = source

        def forward(self, ids, mask, positions, *past):
            cache = DynamicCache()
            cache.layers = [DynamicLayer() for _ in past[::2]]
            for layer, keys, values in zip(cache.layers, past[::2], past[1::2], strict=True):
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values
            columns = torch.arange(mask.shape[1])
            own = torch.arange(ids.shape[1]) + mask.shape[1] - ids.shape[1]
            seen = (columns <= own[:, None]) & (mask[:, None, None] > 0)
            scores = torch.where(seen, torch.tensor(0.0), torch.tensor(torch.finfo(torch.float32).min))
            output = self.source(
                input_ids=ids, attention_mask=scores, position_ids=positions, past_key_values=cache, use_cache=True
            )
            return (output.logits, *(state for layer in cache.layers for state in (layer.keys, layer.values)))

    return Traceable()
