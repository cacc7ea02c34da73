"""SageMaker handlers that serve a causal language model: `model_fn`, `input_fn`, `predict_fn`, `output_fn`.

They follow the contract of the Hugging Face inference toolkit
(https://github.com/aws/sagemaker-huggingface-inference-toolkit) and need torch and transformers only. A server that
calls `predict_fn` from several threads gets its requests batched; one that sends a generator's items as they come gets
token streaming. The Hugging Face image does neither: there a streamed answer is one body of the same lines. LoRA
adapters, as peft saves them, lie in adapters/NAME/ beside the model; a request names the one that it wants.

Request and answer are described in `generation_request.py` and this lab's README. Environment variables:

    HF_MODEL_ID             Hub id or folder, used where the model archive holds no config.json
    HF_MODEL_REVISION       its revision
    DTYPE                   auto (default), float32, bfloat16, float16; int8 on CPU: linear layers with 8-bit weights
    MAX_TOTAL_TOKENS        prompt and output of one sequence (default: the model's context, 4096 at most)
    MAX_BATCH_SIZE          sequences generated together (default 16 on CPU, 64 on GPU)
    MAX_BATCH_TOTAL_TOKENS  tokens of all sequences in a batch, padding included (default 16384 on CPU, 65536 on GPU)
    MAX_CONCURRENT_REQUESTS prompts that may wait (default 512)
    MAX_CLIENT_BATCH_SIZE   prompts in one request (default 32)
    MAX_STOP_SEQUENCES      stop strings in one request (default 16)
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from generation_request import Limits, parse_body
from model_loading import IMPORT_SECONDS, load_model
from text_generator import TextGenerator, TokenStream

_JSON_LINES = "application/jsonlines"


def model_fn(model_dir, context=None) -> TextGenerator:
    """Load the model in `model_dir`, or the one that HF_MODEL_ID names, and check that it generates.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: an environment variable holds something else than described above.
    """
    start = time.perf_counter()
    source = _model_source(Path(model_dir))
    settings = os.environ.get("HF_MODEL_REVISION"), os.environ.get("DTYPE", "auto")
    model, tokenizer, note = load_model(source, *settings, Path(model_dir) / "adapters")
    on_cpu = model.device.type == "cpu"
    limits = Limits(
        max_total_tokens=_setting("MAX_TOTAL_TOKENS", Limits.max_total_tokens),
        max_client_batch_size=_setting("MAX_CLIENT_BATCH_SIZE", Limits.max_client_batch_size),
        max_stop_sequences=_setting("MAX_STOP_SEQUENCES", Limits.max_stop_sequences),
    )
    generator = TextGenerator(
        model,
        tokenizer,
        limits,
        max_batch_size=_setting("MAX_BATCH_SIZE", 16 if on_cpu else 64),
        max_batch_tokens=_setting("MAX_BATCH_TOTAL_TOKENS", 16384 if on_cpu else 65536),
        max_waiting=_setting("MAX_CONCURRENT_REQUESTS", 512),
    )
    generator.generate(*generator.parse({"inputs": "a", "parameters": {"max_new_tokens": 2}}))
    seconds = time.perf_counter() - start
    print(f"Imports took {IMPORT_SECONDS:.2f} s, loading {source} {seconds:.2f} s: {note}", flush=True)
    return generator


def input_fn(input_data, content_type, context=None):
    """Decode a JSON body. Raises ValueError (HTTP 400) for another content type or broken JSON."""
    if content_type and content_type.split(";")[0].strip().lower() not in ("application/json", _JSON_LINES):
        raise ValueError(f'Content type "{content_type}" is not supported; send application/json.')
    return parse_body(input_data)


def predict_fn(data, model: TextGenerator, context=None) -> dict | list[dict] | TokenStream:
    """Generate: the answer, or for a request with `"stream": true` the iterator of its lines.

    Raises:
        ValueError: the request is not valid; the message says why.
        EngineError: generation failed.
    """
    request, sequences = model.parse(data)
    return model.stream(request, sequences) if request.stream else model.generate(request, sequences)


def output_fn(prediction, accept, context=None) -> str | tuple[Iterator[str], str]:
    """Encode an answer as JSON, or a streamed one as JSON lines: one string, or (lines, content type) to a server
    that sends lines as they come. Raises ValueError where neither is accepted.
    """
    if accept and not any(kind in accept.lower() for kind in ("*/*", "application/*", "application/json")):
        raise ValueError(f'Answers come as application/json, not as "{accept}"; change the Accept header.')
    if not isinstance(prediction, TokenStream):
        return json.dumps(prediction, ensure_ascii=False)
    lines = _encode_lines(prediction)
    return (lines, _JSON_LINES) if _can_stream(context) else "".join(lines)


def _encode_lines(stream: TokenStream) -> Iterator[str]:
    try:
        for line in stream:
            yield json.dumps(line, ensure_ascii=False) + "\n"
    finally:
        stream.close()


def _can_stream(context) -> bool:
    # The model server of the Hugging Face images cannot send a generator, and an unknown one may not be able to either.
    return getattr(context, "system_properties", {}).get("server_name") == "sagemaker-local"


def _model_source(model_dir: Path) -> str:
    if (model_dir / "config.json").is_file():
        return str(model_dir)
    if model_id := os.environ.get("HF_MODEL_ID"):
        return model_id
    raise FileNotFoundError(
        f"{model_dir} holds no config.json and HF_MODEL_ID is not set: put a model saved by save_pretrained at the top "
        "of model.tar.gz, or set HF_MODEL_ID to a Hub id or a folder."
    )


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"The environment variable {name} must be a whole number of at least 1; it is {text!r}.")
    return int(text)
