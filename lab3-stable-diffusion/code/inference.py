"""SageMaker handlers that serve a Stable Diffusion pipeline: `model_fn`, `input_fn`, `predict_fn`, `output_fn`.

They follow the contract of the Hugging Face inference toolkit
(https://github.com/aws/sagemaker-huggingface-inference-toolkit). A server that calls `predict_fn` from several threads
gets its requests batched; one that sends a generator's items as they come gets previews while a picture is made. The
Hugging Face image does neither: there a streamed answer is one body of the same lines.

Request and answer are described in `picture_request.py` and this lab's README. The model archive holds a pipeline as
diffusers saves it, or none; beside it, if wanted, LoRAs and learned tokens (`adapted_weights.py`), an upscaler
(`upscaler/`), and `generation_defaults.json`, the settings of requests that leave them out. Environment variables:

    DIFFUSION_MODEL_ID      Hub id or folder, used where the archive holds no model_index.json; else HF_MODEL_ID
    DIFFUSION_MODEL_VARIANT which of its weight files, such as "fp16"
    HF_MODEL_REVISION       its revision
    MODEL_NAME              what the pictures say they were made by (default: the Hub id)
    GENERATION_DEFAULTS     as generation_defaults.json, which it overrides
    DTYPE                   auto (default), float32, bfloat16, float16
    MAX_BATCH_SIZE          pictures made together (default 8)
    MAX_CONCURRENT_REQUESTS requests that may wait (default 64)
    MAX_PIXELS              width times height of a picture (default: four times the model's own, or 1536 x 1536)
    MAX_TOTAL_PIXELS        of all pictures of an answer (default 3 x 1024 x 1024)
    MAX_INPUT_PIXELS        of a picture that is sent (default 4096 x 4096)
    MAX_STEPS, MAX_IMAGES   of one request (default 150, 8)
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

# First, because it imports the libraries quickly.
import library_imports
from picture_answers import PictureService, PictureStream
from picture_engine import PictureEngine
from picture_request import Abilities, Limits, parse_body
from picture_sampling import PictureSampler
from pipeline_loading import load_defaults, load_pipeline
from upscaler import load_upscaler

_JSON, _JSON_LINES, _PNG = "application/json", "application/jsonlines", "image/png"


def model_fn(model_dir, context=None) -> PictureService:
    """Load the pipeline in `model_dir`, or the one that DIFFUSION_MODEL_ID names, and check that it makes a picture.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: an environment variable or a file beside the model holds something else than described above.
    """
    start = time.perf_counter()
    folder = Path(model_dir)
    source = _model_source(folder)
    folders = [folder] if source == str(folder) else [folder, Path(source)]
    options = (os.environ.get(name) or None for name in ("HF_MODEL_REVISION", "DIFFUSION_MODEL_VARIANT"))
    pipeline, weights, note = load_pipeline(source, os.environ.get("DTYPE") or "auto", *options, folders)
    upscaler = None
    if (folder / "upscaler").is_dir():
        upscaler = load_upscaler(folder / "upscaler", pipeline._execution_device)
    defaults = load_defaults(pipeline, folders[::-1])
    abilities = Abilities(
        multiple=pipeline.vae_scale_factor,
        loras=weights.names,
        upscale=upscaler.scale if upscaler else None,
        needs_mask=pipeline.unet.config.in_channels == 9,
    )
    most_pixels = max(defaults.area, min(4 * defaults.area, 1536 * 1536))
    limits = Limits(
        max_pixels=_setting("MAX_PIXELS", most_pixels),
        max_total_pixels=_setting("MAX_TOTAL_PIXELS", Limits.max_total_pixels),
        max_input_pixels=_setting("MAX_INPUT_PIXELS", Limits.max_input_pixels),
        max_steps=_setting("MAX_STEPS", Limits.max_steps),
        max_images=_setting("MAX_IMAGES", Limits.max_images),
    )
    engine = PictureEngine(
        PictureSampler(pipeline, weights),
        max_batch_size=_setting("MAX_BATCH_SIZE", 8),
        max_waiting=_setting("MAX_CONCURRENT_REQUESTS", 64),
    )
    service = PictureService(engine, _model_name(source), limits, defaults, abilities, upscaler)
    service.try_out()
    seconds = time.perf_counter() - start
    print(f"Imports took {library_imports.SECONDS:.2f} s, loading {source} {seconds:.2f} s: {note}", flush=True)
    return service


def input_fn(input_data, content_type, context=None):
    """Decode a JSON body. Raises ValueError (HTTP 400) for another content type or broken JSON."""
    if content_type and content_type.split(";")[0].strip().lower() not in (_JSON, _JSON_LINES):
        raise ValueError(f'Content type "{content_type}" is not supported; send application/json.')
    return parse_body(input_data)


def predict_fn(data, model: PictureService, context=None):
    """Make the pictures: a `Pictures`, or for a request with `"stream": true` a `PictureStream` of the answer's lines.

    Raises:
        ValueError: the request is not valid; the message says why.
        EngineError: the picture could not be made.
    """
    return model.answer(data)


def output_fn(prediction, accept, context=None) -> str | bytes | tuple[Iterator[str], str]:
    """Encode an answer: JSON, the first picture as image/png, or a streamed one as JSON lines (one string, or lines
    and content type to a server that sends lines as they come). Raises ValueError where none of them is accepted.
    """
    accepted = {part.split(";")[0].strip() for part in (accept or "*/*").lower().split(",")}
    streamed = isinstance(prediction, PictureStream)
    if not streamed and accepted & {_PNG, "image/*"}:
        return prediction.files[0]
    if accepted.isdisjoint({"*/*", "application/*", _JSON, _JSON_LINES}):
        kinds = _JSON_LINES if streamed else f"{_JSON} or {_PNG}"
        raise ValueError(f'This answer comes as {kinds}, not as "{accept}"; change the Accept header.')
    if not streamed:
        return json.dumps(prediction.as_dict(), ensure_ascii=False)
    lines = _encode_lines(prediction)
    return (lines, _JSON_LINES) if _can_stream(context) else "".join(lines)


def _encode_lines(stream: PictureStream) -> Iterator[str]:
    try:
        for line in stream:
            yield json.dumps(line, ensure_ascii=False) + "\n"
    finally:
        stream.close()


def _can_stream(context) -> bool:
    # The model server of the Hugging Face images cannot send a generator, and an unknown one may not be able to either.
    return getattr(context, "system_properties", {}).get("server_name") == "sagemaker-local"


def _model_source(model_dir: Path) -> str:
    if (model_dir / "model_index.json").is_file():
        return str(model_dir)
    if model_id := os.environ.get("DIFFUSION_MODEL_ID") or os.environ.get("HF_MODEL_ID"):
        return model_id
    raise FileNotFoundError(
        f"{model_dir} holds no model_index.json and DIFFUSION_MODEL_ID is not set: put a pipeline saved by "
        "save_pretrained at the top of model.tar.gz, or set DIFFUSION_MODEL_ID to a Hub id or a folder."
    )


def _model_name(source: str) -> str:
    """What pictures say they were made by. A folder's name says nothing: in a container it is always "model"."""
    return os.environ.get("MODEL_NAME") or ("a Stable Diffusion pipeline" if Path(source).is_dir() else source)


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"The environment variable {name} must be a whole number of at least 1; it is {text!r}.")
    return int(text)
