"""Load a Stable Diffusion pipeline for the hardware at hand."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from adapted_weights import AdaptedWeights
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from noise_schedulers import NAMES
from packed_layers import pack_linear_layers
from picture_request import Defaults
from transformers.utils import logging as transformers_logging

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL = 20_000_000  # parameters below which a network beside the UNet takes no time worth saving by fewer bits
_WIDE = 192  # a UNet's channels from which channels last is faster on a CPU (measured: 64 slower, 320 faster)
DEFAULTS_FILE = "generation_defaults.json"


def load_pipeline(source: str, dtype_name: str, revision: str | None, variant: str | None, adapter_folders: list[Path]):
    """Load a pipeline for inference, with the LoRAs and learned tokens that lie beside it.

    Args:
        source: folder or Hub id.
        dtype_name: "auto" or a key of `_DTYPES`. Automatic is bfloat16 on a GPU or a CPU that computes with it,
            float16 on other GPUs, float32 on other CPUs.
        revision: of the Hub repository, or None.
        variant: such as "fp16": which of a repository's weight files to take, or None.
        adapter_folders: where to look for LoRAs and learned tokens.

    Returns:
        The pipeline in evaluation mode, its `AdaptedWeights`, and a sentence on dtype and device for the log.

    Raises:
        ValueError: an unknown dtype, a pipeline that this handler does not know, or a LoRA that does not fit.
        OSError: there is no such pipeline.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(dtype_name, device)
    with warnings.catch_warnings():
        # Its newest name, dtype, is unknown to the versions before, which SageMaker's images have.
        warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
        pipeline = DiffusionPipeline.from_pretrained(source, torch_dtype=dtype, revision=revision, variant=variant)
    pipeline = _known_kind(pipeline, source, dtype)
    pipeline.set_progress_bar_config(disable=True)
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    for network in networks:
        network.eval().requires_grad_(False)
        if network is not pipeline.unet and _parameters(network) < _SMALL:
            network.float()
    if dtype == torch.float16 and pipeline.vae.config.force_upcast:
        pipeline.vae.float()  # its numbers leave the range of float16
    note = f"{str(dtype).removeprefix('torch.')} on {device.type}"
    offloaded = device.type == "cuda" and not _fits(networks)
    if device.type == "cuda" and not offloaded:
        pipeline.to(device)
    weights = AdaptedWeights(pipeline, adapter_folders)
    packed = sum(arrange(network, device) for network in networks)
    if device.type == "cpu":
        note += f", {packed} linear layers packed, {torch.get_num_threads()} threads"
    if offloaded:
        pipeline.enable_model_cpu_offload()
        note += ", networks wait in the CPU's memory for their turn: the GPU's is too small for all of them"
    if weights.names:
        note += f", LoRAs {', '.join(weights.names)}"
    return pipeline, weights, note


def arrange(network: torch.nn.Module, device: torch.device) -> int:
    """Lay out a network's weights as its device computes fastest; returns how many linear layers were packed."""
    if isinstance(network, (UNet2DConditionModel, AutoencoderKL)):
        narrow = isinstance(network, UNet2DConditionModel) and network.config.block_out_channels[0] < _WIDE
        if device.type != "cpu" or not narrow:
            network.to(memory_format=torch.channels_last)
    return pack_linear_layers(network) if device.type == "cpu" else 0


def load_defaults(pipeline, folders: list[Path]) -> Defaults:
    """The settings that a request need not give: diffusers' conventions for the kind of model, then the file
    `generation_defaults.json` of the model folder, then the environment variable GENERATION_DEFAULTS (both JSON
    objects with fields of `Defaults`); later ones win.

    Raises:
        ValueError: one of them is no JSON object, or holds something else.
    """
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    turbo = isinstance(pipeline, StableDiffusionXLPipeline) and (
        # SDXL-Turbo, by how it was published: no other SDXL samples so.
        "Ancestral" in type(pipeline.scheduler).__name__ and pipeline.scheduler.config.timestep_spacing == "trailing"
    )
    if turbo:
        defaults = Defaults(guidance_scale=0.0, num_inference_steps=2, width=side, height=side)
    else:
        guidance = 5.0 if isinstance(pipeline, StableDiffusionXLPipeline) else 7.5
        defaults = Defaults(guidance_scale=guidance, num_inference_steps=25, width=side, height=side)
    for folder in folders:
        if (folder / DEFAULTS_FILE).is_file():
            text = (folder / DEFAULTS_FILE).read_text(encoding="utf-8")
            defaults = _changed(defaults, text, DEFAULTS_FILE, pipeline.vae_scale_factor)
    if text := os.environ.get("GENERATION_DEFAULTS"):
        defaults = _changed(defaults, text, "The environment variable GENERATION_DEFAULTS", pipeline.vae_scale_factor)
    return defaults


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format for "auto" or a name of `_DTYPES` on a device. Raises ValueError for another name."""
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise ValueError(f"The environment variable DTYPE must be auto or one of {', '.join(_DTYPES)}; it is {name!r}.")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that a computation on a device may still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


def _cpu_has_bfloat16() -> bool:
    try:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    except AttributeError:  # a torch without these questions
        return False


def _known_kind(pipeline, source: str, dtype: torch.dtype):
    kind = type(pipeline).__name__
    for known in (StableDiffusionXLPipeline, StableDiffusionPipeline):
        prefix = known.__name__.removesuffix("Pipeline")
        if kind in (f"{prefix}{task}Pipeline" for task in ("", "Img2Img", "Inpaint")):
            if pipeline.unet.config.time_cond_proj_dim is not None:
                raise ValueError(f"{source} takes the guidance scale as an input of its UNet, which is not supported.")
            return pipeline if isinstance(pipeline, known) else known.from_pipe(pipeline, torch_dtype=dtype)
    raise ValueError(
        f"{source} is a {kind}; this handler serves Stable Diffusion 1.x and 2.x, SDXL and SDXL-Turbo (pipelines "
        "StableDiffusion and StableDiffusionXL, with their Img2Img and Inpaint)."
    )


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _fits(networks: list[torch.nn.Module]) -> bool:
    """Whether the GPU holds all networks at once, with a quarter of its free memory left to compute in."""
    needed = sum(parameter.nbytes for network in networks for parameter in network.parameters())
    return needed < 0.75 * free_memory(torch.device("cuda"))


def _changed(defaults: Defaults, text: str, place: str, multiple: int) -> Defaults:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not valid JSON: {error}.") from error
    known = vars(defaults)
    if not isinstance(given, dict) or set(given) - set(known):
        raise ValueError(f"{place} must be a JSON object with some of {', '.join(known)}; it is {text[:200]}.")
    numbers = {name: value for name, value in given.items() if name not in ("scheduler", "negative_prompt")}
    for name, value in numbers.items():
        whole = name != "guidance_scale"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < whole:
            raise ValueError(f"{place}: {name} must be a {'whole ' if whole else ''}number; it is {value!r}.")
        if name in ("width", "height") and value % multiple:
            raise ValueError(f"{place}: {name} must be a multiple of {multiple}; it is {value}.")
    if given.get("scheduler") is not None and given["scheduler"] not in NAMES:
        raise ValueError(f"{place}: scheduler must be one of {', '.join(NAMES)}; it is {given['scheduler']!r}.")
    changed = replace(defaults, **given)
    return replace(changed, guidance_scale=float(changed.guidance_scale))
