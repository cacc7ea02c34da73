"""Load a causal language model and its tokenizer for the hardware at hand."""

import gc
import sys
import time
from contextlib import contextmanager
from pathlib import Path

_BEGIN = time.perf_counter()


@contextmanager
def _quick_imports(*unused: str):
    """Import faster inside the block: `unused` packages look absent unless they are loaded, no garbage collection.

    What was imported stays, so later collections leave it out.
    """
    absent = [name for name in unused if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        gc.freeze()
        if collecting:
            gc.enable()


# Transformers imports the two for assisted generation and for models spread over devices, neither of which is used
# here. A container starts 3.5 s sooner without them and without collecting garbage among a million new objects.
with _quick_imports("sklearn", "accelerate"):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

IMPORT_SECONDS = time.perf_counter() - _BEGIN

from fused_layers import fuse_layers  # noqa: E402
from lora_adapters import Adapters  # noqa: E402
from packed_linear import pack_linear_layers, weight_bytes  # noqa: E402

# With int8, the linear layers have 8-bit weights; the embedding, norms and attention stay float32.
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
}


def load_model(source: str, revision: str | None, dtype_name: str, adapters_folder: Path | None = None):
    """Load a model for inference.

    Args:
        source: folder or Hub id.
        revision: of the Hub repository, or None.
        dtype_name: "auto" or a key of `_DTYPES`. Automatic is bfloat16 on a GPU that has it, float16 on other GPUs and
            float32 on CPU. "int8" is for the CPU.
        adapters_folder: holds a folder for each LoRA adapter; with any in it the model gets an attribute `adapters`.

    Returns:
        The model in evaluation mode, its tokenizer, and a sentence on dtype, device, bytes and layers for the log.

    Raises:
        ValueError: unknown dtype, int8 on a GPU, a model that keeps another state than keys and values, or an adapter
            that cannot be served.
        OSError: transformers finds no such model.
    """
    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _choose_dtype(dtype_name, device)
    config = AutoConfig.from_pretrained(source, revision=revision)
    other_layers = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
    }
    if config.is_encoder_decoder or other_layers:
        what = "an encoder" if config.is_encoder_decoder else f"layers of type {', '.join(sorted(other_layers))}"
        raise ValueError(f"{source} has {what}, which this handler cannot batch; deploy it in a vLLM or LMI container.")
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype).eval().requires_grad_(False)
    model.to(device)
    adapters = Adapters(adapters_folder, model) if adapters_folder else None
    int8 = dtype_name == "int8"
    note = f"{'int8' if int8 else str(dtype).removeprefix('torch.')} on {device.type}"
    loaded = weight_bytes(model)
    if device.type == "cpu":
        fuse_layers(model)
        count = pack_linear_layers(model, int8)
        note += f", {count} linear layers {'quantized' if int8 else 'packed'}, {torch.get_num_threads()} threads"
    if adapters and adapters.names:
        adapters.attach(model)
        note += f", adapters {', '.join(adapters.names)}"
    note += f", weights of {loaded:,} bytes take {weight_bytes(model):,} in memory"
    return model, tokenizer, note


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "int8" and device.type != "cpu":
        raise ValueError(
            "DTYPE=int8 is for endpoints without a GPU. Here, leave DTYPE at auto, or deploy a model that is stored "
            "quantized (AWQ, GPTQ, FP8) in a vLLM or LMI container."
        )
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise ValueError(f"The environment variable DTYPE must be auto or one of {', '.join(_DTYPES)}; it is {name!r}.")
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
