"""The pipeline to start from: where its files are, how it is loaded, and the defaults that suit it."""

import argparse
import atexit
import json
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from training_failure import InputError

_KINDS = {"StableDiffusionPipeline": StableDiffusionPipeline, "StableDiffusionXLPipeline": StableDiffusionXLPipeline}
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_PREDICTIONS = ("epsilon", "v_prediction")
_LARGE = 50e6  # parameters of a UNet; the embedded model has a few million, Stable Diffusion 860
# By method: learning rate and steps of a model as small as the embedded one, and customary ones of a large model.
# Measured with five pictures of a star: LoRA at 1e-3 drew none, at 4e-3 most; at 8e-3 nothing else came out right.
_SETTINGS = {
    "lora": ((4e-3, 150), (1e-4, 500)),
    "dreambooth": ((5e-4, 180), (2e-6, 400)),
    "textual_inversion": ((3e-2, 150), (2e-3, 2000)),
    "full": ((5e-4, 200), (1e-5, 1000)),
}


@dataclass
class BasePipeline:
    """The loaded pipeline. `dtype` is that of its files, in which results are saved; `compute` that of the products."""

    pipe: DiffusionPipeline
    folder: Path
    name: str
    device: torch.device
    dtype: torch.dtype
    compute: torch.dtype
    noise_scheduler: DDPMScheduler

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders, pooled text and sizes, as SDXL."""
        return isinstance(self.pipe, StableDiffusionXLPipeline)

    @property
    def text_encoders(self) -> dict[str, torch.nn.Module]:
        """By the names that the pipeline has for them."""
        names = ("text_encoder", "text_encoder_2")
        return {name: encoder for name in names if (encoder := getattr(self.pipe, name, None)) is not None}

    @property
    def small(self) -> bool:
        """Whether it is as small as the embedded model: what is customary for Stable Diffusion does not suit it."""
        return _count(self.pipe.unet) < _LARGE

    @property
    def parameters(self) -> int:
        """How many there are in UNet, text encoders and autoencoder."""
        return sum(map(_count, (self.pipe.unet, self.pipe.vae, *self.text_encoders.values())))

    def tokenizer_of(self, encoder: str):
        """The tokenizer of the text encoder with this name."""
        return getattr(self.pipe, encoder.replace("text_encoder", "tokenizer"))

    def autocast(self) -> torch.autocast:
        """A context in which products are computed in `compute`."""
        return torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32)


def find_folder(options: argparse.Namespace) -> Path:
    """The folder with the pipeline's files: the model channel's, one given, or what is downloaded from the Hub.

    A model.tar.gz is unpacked into a temporary folder. Raises InputError where there is no pipeline.
    """
    if options.model is None:
        name = options.model_name_or_path
        if Path(name).is_dir():
            return _with_index(Path(name), f"the folder {name}")
        try:
            return Path(DiffusionPipeline.download(name, use_safetensors=True))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{name} is neither a folder nor a pipeline that could be had from the Hugging Face Hub: {error}"
            ) from error
    channel = options.model
    folder = channel.parent if channel.is_file() else channel
    archives = [channel] if channel.is_file() else sorted(channel.rglob("*.tar.gz"))
    if archives and (channel.is_file() or not any(channel.rglob("model_index.json"))):
        folder = Path(tempfile.mkdtemp(prefix="base-pipeline-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            with tarfile.open(archives[0]) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{archives[0].name} in the model channel cannot be unpacked: {reason}") from error
    return _with_index(folder, f"the model channel {channel}")


def check(folder: Path, name: str) -> None:
    """Raises InputError for a pipeline that this script cannot train. Reads JSON only."""
    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    if kind not in _KINDS:
        raise InputError(f"{name} is a {kind}; this script trains {' and '.join(_KINDS)}")
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    if unet.get("in_channels") != unet.get("out_channels"):
        raise InputError(
            f"the UNet of {name} takes {unet.get('in_channels')} channels, as those for inpainting do: "
            "train the text-to-image model, which inpaints as well"
        )


def load(folder: Path, name: str, options: argparse.Namespace) -> BasePipeline:
    """Load the pipeline and fill in the options that depend on it. Raises InputError where that fails."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    kind = _KINDS[index["_class_name"]]
    unused = {} if kind is StableDiffusionXLPipeline else {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipe = kind.from_pretrained(folder, **unused)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"the model {name} cannot be loaded: {error}") from error
    pipe.to(dtype=torch.float32).set_progress_bar_config(disable=True)
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    prediction = noise_scheduler.config.prediction_type
    if prediction not in _PREDICTIONS:
        raise InputError(f"the scheduler of {name} predicts {prediction}; this script trains epsilon and v")
    base = BasePipeline(pipe, folder, name, device, _stored_dtype(folder), torch.float32, noise_scheduler)
    base.compute = _precision(options, base)
    for module in (pipe.unet, *base.text_encoders.values()):
        module.requires_grad_(False)
        # On a GPU what is frozen is kept as it computes; the autoencoder is not: SDXL's overflows in 16 bits.
        module.to(device, base.compute if device.type == "cuda" else torch.float32)
    pipe.vae.requires_grad_(False).to(device)
    if base.small and device.type == "cpu":
        # A third of the time of scaled_dot_product_attention's backward pass at small sizes.
        pipe.unet.set_attn_processor(AttnProcessor())
        for encoder in base.text_encoders.values():
            encoder.set_attn_implementation("eager")
    _complete(options, base)
    return base


def _complete(options: argparse.Namespace, base: BasePipeline) -> None:
    """Options that are not given get the values that suit the method and the model."""
    rate, steps = _SETTINGS[options.method][0 if base.small else 1]
    unet, factor = base.pipe.unet, base.pipe.vae_scale_factor
    least = factor * 2 ** (len(unet.config.block_out_channels) - 1)
    own = unet.config.sample_size * factor
    whole_model = options.method in ("lora", "dreambooth") and not base.is_xl
    defaults = {
        "learning_rate": rate,
        "max_train_steps": None if options.num_train_epochs else steps,
        "train_batch_size": 4 if base.small else 1,
        "resolution": own,
        "lora_target_modules": "all" if base.small else "attention",
        # A model that has never seen the word needs its text encoder to take it in; SDXL's are large and know words.
        "train_text_encoder": whole_model or (options.method == "full" and base.small),
        "caption_dropout": 0.1 if options.method == "full" else 0.0,
        "guidance_scale": _generation_defaults(base.folder).get("guidance_scale", 5.0 if base.is_xl else 7.5),
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.resolution % least:
        raise InputError(f"--resolution {options.resolution}: {base.name} takes multiples of {least} pixels")


def _precision(options: argparse.Namespace, base: BasePipeline) -> torch.dtype:
    cuda = base.device.type == "cuda"
    chosen = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.get(options.precision)
    if chosen is torch.float16 and not cuda:
        raise InputError("--precision fp16 needs a GPU: give auto, bf16 or fp32")
    if chosen is not None:
        return chosen
    if cuda:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    flags = Path("/proc/cpuinfo")
    has_bf16 = flags.is_file() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if has_bf16 else torch.float32


def _with_index(folder: Path, what: str) -> Path:
    found = sorted(folder.rglob("model_index.json"), key=lambda path: len(path.parts))
    if not found:
        raise InputError(
            f"{what} holds no pipeline: there is no model_index.json in it, nor in a model.tar.gz. "
            "It should hold what a diffusers pipeline's save_pretrained writes"
        )
    return found[0].parent


def _stored_dtype(folder: Path) -> torch.dtype:
    for path in sorted((folder / "unet").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            return _DTYPES.get(file.get_slice(next(iter(file.keys()))).get_dtype(), torch.float32)
    return torch.float32


def _generation_defaults(folder: Path) -> dict:
    path = folder / "generation_defaults.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _count(module: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())
