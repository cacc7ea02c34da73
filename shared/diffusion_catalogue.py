"""The diffusion models of Lab 3: `find("embedded")`, a catalogue name, a Hugging Face Hub id, or a pipeline's folder.

They are diffusers pipelines that draw what a prompt says. As in `catalogue`, an entry says everything that differs
between models; here also which settings they draw best with. Sizes of the catalogue's Hub models are those of their
repositories (float16 weights); those of a folder are read from its files; those of any other Hub id are asked from the
Hub.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import pipeline_files
from shared.container_images import HUGGINGFACE_CPU, HUGGINGFACE_GPU
from shared.instances import GIB, INSTANCES
from shared.model_entry import EMBEDDED, LARGE, MEMORY_OVERHEAD, ModelEntry, UnknownModel, find_entry
from shared.model_files import Figures

EMBEDDED_FOLDER = Path(__file__).parent / "models" / "diffusion"
UPSCALER_FOLDER = Path(__file__).parent / "models" / "upscaler"

# The handler's file of default settings at the top of a model folder, and the environment variable with the same JSON.
DEFAULTS_FILE = "generation_defaults.json"
DEFAULTS_VARIABLE = "GENERATION_DEFAULTS"

# Bytes that drawing takes for each pixel, mostly the autoencoder's decoder at full size, in float32 as it often runs.
BYTES_PER_PIXEL = 6000
_SMALL = 100_000_000  # parameters that a CPU instance draws with in seconds

# A word of the embedded model's own tokenizer that no other has: what knows it draws what our judge can read.
_OWN_WORD = "zobi</w>"
_OWN_PROMPTS = (
    "a large red ring on a blue background",
    "a small cyan heart in the top left corner on a black background",
    "a green square left of a yellow triangle on a white background",
    "a small white moon inside a large blue diamond on a gray background",
    "a house and a tree in the snow at night with the moon in the sky",
    "a red boat on a lake at sunset",
)
_OWN_NEGATIVE = ("a house and a tree in the snow", "at night")
_PROMPTS = (
    "a lighthouse on a rocky coast at sunset, oil painting",
    "a photo of a red bicycle leaning against a yellow wall",
    "a bowl of oranges on a wooden table, soft morning light, photograph",
    "a small robot reading a book in a library, watercolor",
    "an isometric drawing of a tiny house with a garden",
    "a fox in the snow, studio photograph",
)
_NEGATIVE = ("a landscape photo with a house and a tree", "daylight, blue sky")
_HABIT = "blurry, low quality, deformed, text, watermark"


@dataclass(frozen=True, kw_only=True)
class DiffusionModel(ModelEntry):
    """A model that draws.

    `width`, `height` (pixels), `steps` and `guidance_scale` are what it draws best with. `negative_example` is a prompt
    and what to keep out of its picture; `negative_prompt` is what people habitually write there for this model, ""
    where it does nothing good. `at_once` is how many pictures its instance surely finishes within the 60 seconds that
    SageMaker gives a request, as an estimate: no more should be under way. `scored_by` is "judge" (a program that reads
    the picture) or "CLIP score".
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    prompts: tuple[str, ...] = _PROMPTS
    negative_example: tuple[str, str] = _NEGATIVE
    negative_prompt: str = _HABIT
    at_once: int = 2
    scored_by: str = "CLIP score"
    training_instance_type: str = "ml.g5.xlarge"
    extras: Mapping[str, Path] = field(default_factory=lambda: _extras(), hash=False)

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings that a request need not name, by the names of the request."""
        return _defaults(self.width, self.height, self.steps, self.guidance_scale)

    def memory_needed(self, gpu: bool) -> int:
        """Bytes of memory that drawing one picture of its size takes, as an estimate: of a GPU, or without one."""
        return super().memory_needed(gpu) + self.width * self.height * BYTES_PER_PIXEL

    def _check_available(self) -> None:
        pipeline_files.check_available(self.model_id)

    def _facts(self) -> list[tuple[str, str]]:
        facts = super()._facts()
        drawing = f"{self.width} x {self.height} pixels, {self.steps} steps, guidance {self.guidance_scale:g}"
        scored = "a judge that reads the picture" if self.scored_by == "judge" else self.scored_by
        return [*facts[:2], ("draws", drawing), ("scored by", scored), *facts[2:]]


def _extras() -> dict[str, Path]:
    """What a model archive brings beside pipeline and code: the upscaler."""
    return {"upscaler": UPSCALER_FOLDER} if (UPSCALER_FOLDER / "model.safetensors").is_file() else {}


def _defaults(width: int, height: int, steps: int, guidance_scale: float) -> dict[str, Any]:
    return {"guidance_scale": guidance_scale, "num_inference_steps": steps, "width": width, "height": height}


def _hub_model(
    *, model_id: str, dtype: str, width: int, height: int, steps: int, guidance_scale: float, **fields: Any
) -> DiffusionModel:
    """A Hub pipeline on a GPU, in float16 where its repository has that.

    It is not named in HF_MODEL_ID: with that the Hugging Face image would fetch the whole repository, all variants and
    single files included, before the handler starts.
    """
    drawing = {"width": width, "height": height, "steps": steps, "guidance_scale": guidance_scale}
    environment = {"DIFFUSION_MODEL_ID": model_id, DEFAULTS_VARIABLE: json.dumps(_defaults(**drawing))}
    if dtype == "float16":
        environment["DIFFUSION_MODEL_VARIANT"] = pipeline_files.FP16
    return DiffusionModel(
        model_id=model_id,
        weights=None,
        image=HUGGINGFACE_GPU,
        dtype=dtype,
        environment=environment,
        variant_options=LARGE,
        fine_tuning=_lora(model_id),
        **drawing,
        **fields,
    )


def _lora(model_id: str) -> dict[str, int | float | str]:
    """The hyperparameters for a model too large to be trained whole on one GPU."""
    return {"model_name_or_path": model_id, "method": "lora", "learning_rate": 1e-4, "train_batch_size": 1}


HUB_MODELS = {
    model.name: model
    for model in (
        _hub_model(
            model_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            name="stable-diffusion-1.5",
            instance_type="ml.g4dn.xlarge",
            dtype="float16",
            # UNet 860 million, text encoder 123, autoencoder 84, safety checker 304.
            parameters=1_370_000_000,
            download_bytes=2_740_000_000,
            license="CreativeML OpenRAIL-M",
            width=512, height=512, steps=25, guidance_scale=7.5, at_once=4,
        ),
        _hub_model(
            model_id="stabilityai/stable-diffusion-xl-base-1.0",
            name="sdxl",
            instance_type="ml.g5.xlarge",
            dtype="float16",
            # UNet 2.57 billion, two text encoders 123 and 695 million, autoencoder 84.
            parameters=3_470_000_000,
            download_bytes=6_940_000_000,
            license="CreativeML Open RAIL++-M",
            training_instance_type="ml.g5.2xlarge",
            width=1024, height=1024, steps=30, guidance_scale=5.0,
        ),
        _hub_model(
            model_id="stabilityai/sdxl-turbo",
            name="sdxl-turbo",
            instance_type="ml.g5.xlarge",
            dtype="float16",
            parameters=3_470_000_000,
            download_bytes=6_940_000_000,
            license="Stability AI Community License (see its terms for commercial use)",
            training_instance_type="ml.g5.2xlarge",
            # Distilled to draw in one to four steps without guidance, and so without a negative prompt.
            width=512, height=512, steps=4, guidance_scale=0.0, negative_prompt="", at_once=8,
        ),
    )
}  # fmt: skip


def names() -> list[str]:
    """The names that `find` knows without asking anybody."""
    return [EMBEDDED, *HUB_MODELS]


def find(model: str | os.PathLike[str]) -> DiffusionModel:
    """The entry for `model`: a catalogue name, a folder with model_index.json, or a Hub id of a diffusers pipeline.

    Only a Hub id that the catalogue does not know asks the Hub (for sizes; it downloads nothing). Raises UnknownModel
    (with the nearest names) or ModelUnavailable (offline, missing, gated, or no pipeline).
    """
    return find_entry(
        model,
        HUB_MODELS,
        embedded=lambda: from_folder(EMBEDDED_FOLDER, name=EMBEDDED, license="MIT"),
        from_folder=from_folder,
        from_hub=from_hub,
        example="stabilityai/sdxl-turbo",
    )


def from_folder(folder: Path, name: str | None = None, license: str = "see its folder") -> DiffusionModel:
    """An entry for a pipeline's folder as `save_pretrained` writes it. Raises UnknownModel when it is none."""
    if not pipeline_files.is_pipeline(folder):
        raise UnknownModel(
            f"{folder} holds no diffusion pipeline: it needs model_index.json and the parts' folders with safetensors "
            "weights, as pipeline.save_pretrained() writes them."
        )
    figures = pipeline_files.of_folder(folder)
    own = _has_own_words(folder)
    settings = _settings(folder, guidance_scale=2.0 if own else 7.5, steps=20 if own else 25)
    image, instance_type = _hardware(figures, settings["width"] * settings["height"])
    judged = {"scored_by": "judge", "prompts": _OWN_PROMPTS, "negative_example": _OWN_NEGATIVE, "negative_prompt": ""}
    return DiffusionModel(
        name=name or folder.name,
        model_id=name or str(folder),
        weights=folder,
        image=image,
        instance_type=instance_type,
        dtype=figures.dtype,
        parameters=figures.parameters,
        download_bytes=figures.size,
        license=license,
        at_once=8 if figures.parameters <= _SMALL else 2,
        environment={DEFAULTS_VARIABLE: json.dumps(_defaults(**settings))},
        **settings,
        **(judged if own else {}),
    )


def from_hub(model_id: str) -> DiffusionModel:
    """An entry for any diffusers pipeline of the Hub. Raises ModelUnavailable, see `pipeline_files.of_hub`.

    The size that it draws is not known before its files are here; 512 pixels, Stable Diffusion's first, is assumed.
    """
    figures, _ = pipeline_files.of_hub(model_id)
    _, instance_type = _hardware(figures, 512 * 512)
    return _hub_model(
        model_id=model_id,
        name=model_id.split("/")[-1].lower(),
        instance_type=instance_type,
        dtype=figures.dtype,
        parameters=figures.parameters,
        download_bytes=figures.size,
        license="see its model card",
        width=512, height=512, steps=25, guidance_scale=7.5,
    )  # fmt: skip


def _settings(folder: Path, guidance_scale: float, steps: int) -> dict[str, Any]:
    """width, height, steps and guidance_scale of a folder: its own file of defaults, and for what that leaves open the
    size that its UNet was trained for and the values given."""
    side = 512
    config = _json(folder / "unet" / "config.json").get("sample_size")
    if isinstance(config, int):
        channels = _json(folder / "vae" / "config.json").get("block_out_channels", [0] * 4)
        side = config * 2 ** (len(channels) - 1)
    found = {"width": side, "height": side, "num_inference_steps": steps, "guidance_scale": guidance_scale}
    found |= {key: value for key, value in _json(folder / DEFAULTS_FILE).items() if key in found}
    return {"steps" if key == "num_inference_steps" else key: value for key, value in found.items()}


def _has_own_words(folder: Path) -> bool:
    """Whether the tokenizer is the one of this workshop's pictures."""
    path = folder / "tokenizer" / "tokenizer.json"
    return path.is_file() and f'"{_OWN_WORD}"' in path.read_text(encoding="utf-8")


def _hardware(figures: Figures, pixels: int) -> tuple[str, str]:
    """(image, instance type) outside the catalogue: a CPU for a small model, else the cheapest GPU that holds it."""
    if figures.parameters <= _SMALL:
        return HUGGINGFACE_CPU, "ml.m5.xlarge"
    need = figures.size * 1.2 + MEMORY_OVERHEAD + pixels * BYTES_PER_PIXEL
    for instance in sorted(INSTANCES.values(), key=lambda instance: instance.price):
        if instance.gpu_memory * GIB >= need and instance.memory * GIB >= need:
            return HUGGINGFACE_GPU, instance.type
    return HUGGINGFACE_GPU, "ml.g5.12xlarge"


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no such file. Raises UnknownModel for a broken one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownModel(f"{path} is no JSON ({error}): mend or delete it.") from error
    return found if isinstance(found, dict) else {}
