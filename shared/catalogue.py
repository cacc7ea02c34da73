"""The language models that a lab can deploy: `find("embedded")`, a catalogue name, a Hugging Face Hub id, or a folder.

An entry says everything that differs between models, so that neither the notebooks' prose nor their cells need a
branch: which container image and instance serve it on AWS, how much there is to download, how much memory it takes,
what it costs an hour, which prompts suit it. Sizes of the catalogue's Hub models are those of their model cards; the
sizes of a folder are read from its files; those of any other Hub id are asked from the Hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from shared import model_files
from shared.container_images import HUGGINGFACE_CPU, HUGGINGFACE_GPU, LMI
from shared.instances import GIB, INSTANCES
from shared.model_entry import (
    BYTES,
    EMBEDDED,
    LARGE,
    MEMORY_FACTOR,
    MEMORY_OVERHEAD,
    ModelDoesNotFit,
    ModelEntry,
    UnknownModel,
    find_entry,
)
from shared.model_files import Figures

__all__ = ["EMBEDDED", "EMBEDDED_FOLDER", "HUB_MODELS", "Model", "ModelDoesNotFit", "UnknownModel", "find", "names"]

EMBEDDED_FOLDER = Path(__file__).parent / "models" / "language"

_CHATML = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
_CHATML_WITHOUT_THINKING = _CHATML + "<think>\n\n</think>\n\n"
_INSTRUCTIONS = (
    "Explain in two sentences what an Amazon SageMaker endpoint is.",
    "Write the first three sentences of a story about a lighthouse keeper.",
    "Name three uses of a paper clip.",
)
_OPENINGS = (
    "Once upon a time, in a small village by the sea,",
    "The old clock on the wall struck twelve, and",
    "In the middle of the forest there was a house where",
)


@dataclass(frozen=True, kw_only=True)
class Model(ModelEntry):
    """A language model.

    `template` wraps a text in the markers that an instruct model was trained with. `scored_by` is "judge" or "exact
    match". Its `training_instance_type` holds it with LoRA and, up to half a billion parameters, whole.
    """

    scored_by: str = "exact match"
    template: str = "{prompt}"

    def prompt(self, text: str) -> str:
        """`text` as this model wants it: unchanged for a base model, in its chat markers for an instruct model."""
        return self.template.format(prompt=text)

    def _check_available(self) -> None:
        model_files.check_available(self.model_id, self.environment.get("HF_MODEL_REVISION"))


# The LMI image is built with CUDA 13: it needs driver 580, and the default machine image of g5 and g6 has an older one.
_LARGE_LMI = LARGE | {"inference_ami_version": "al2023-ami-sagemaker-inference-gpu-4-1"}


def _lora(model_id: str) -> dict[str, int | float | str]:
    """The hyperparameters for a model too large to be trained whole on one GPU."""
    return {"model_name_or_path": model_id, "method": "lora", "learning_rate": 2e-4, "per_device_train_batch_size": 2}


HUB_MODELS = {
    model.name: model
    for model in (
        Model(
            name="distilgpt2",
            model_id="distilbert/distilgpt2",
            weights=None,
            image=HUGGINGFACE_CPU,
            instance_type="ml.m5.xlarge",
            dtype="float32",
            parameters=81_912_576,
            download_bytes=353_000_000,
            license="Apache 2.0",
            prompts=_OPENINGS,
            environment={"HF_MODEL_ID": "distilbert/distilgpt2", "HF_TASK": "text-generation"},
            fine_tuning={"model_name_or_path": "distilbert/distilgpt2", "learning_rate": 3e-4},
        ),
        Model(
            name="gpt-j-6b",
            model_id="EleutherAI/gpt-j-6b",
            weights=None,
            image=HUGGINGFACE_GPU,
            instance_type="ml.g5.2xlarge",
            dtype="float16",
            parameters=6_053_381_344,
            download_bytes=12_110_000_000,
            license="Apache 2.0",
            prompts=_OPENINGS,
            # The branch float16 holds half the bytes of the main one, which is in float32.
            environment={
                "HF_MODEL_ID": "EleutherAI/gpt-j-6b",
                "HF_MODEL_REVISION": "float16",
                "HF_TASK": "text-generation",
            },
            variant_options=LARGE,
            training_instance_type="ml.g5.2xlarge",
            fine_tuning=_lora("EleutherAI/gpt-j-6b"),
        ),
        Model(
            name="qwen3-4b-instruct",
            model_id="Qwen/Qwen3-4B-Instruct-2507",
            weights=None,
            image=LMI,
            instance_type="ml.g6.xlarge",
            dtype="bfloat16",
            parameters=4_022_468_096,
            download_bytes=8_060_000_000,
            license="Apache 2.0",
            prompts=tuple(_CHATML.format(prompt=text) for text in _INSTRUCTIONS),
            template=_CHATML,
            environment={"HF_MODEL_ID": "Qwen/Qwen3-4B-Instruct-2507", "OPTION_MAX_MODEL_LEN": "4096"},
            variant_options=_LARGE_LMI,
            training_instance_type="ml.g5.2xlarge",
            fine_tuning=_lora("Qwen/Qwen3-4B-Instruct-2507"),
        ),
        Model(
            name="qwen3-8b",
            model_id="Qwen/Qwen3-8B",
            weights=None,
            image=LMI,
            instance_type="ml.g5.2xlarge",
            dtype="bfloat16",
            parameters=8_190_735_360,
            download_bytes=16_400_000_000,
            license="Apache 2.0",
            prompts=tuple(_CHATML_WITHOUT_THINKING.format(prompt=text) for text in _INSTRUCTIONS),
            template=_CHATML_WITHOUT_THINKING,
            environment={"HF_MODEL_ID": "Qwen/Qwen3-8B", "OPTION_MAX_MODEL_LEN": "4096"},
            variant_options=_LARGE_LMI,
            training_instance_type="ml.g5.12xlarge",
            fine_tuning=_lora("Qwen/Qwen3-8B"),
        ),
    )
}


def names() -> list[str]:
    """The names that `find` knows without asking anybody."""
    return [EMBEDDED, *HUB_MODELS]


def find(model: str | os.PathLike[str]) -> Model:
    """The entry for `model`: a catalogue name, a folder with config.json and safetensors weights, or a Hub id.

    Only a Hub id that the catalogue does not know asks the Hub (for sizes; it downloads nothing). Raises UnknownModel
    (with the nearest names) or ModelUnavailable (offline, missing or gated).
    """
    return find_entry(
        model,
        HUB_MODELS,
        embedded=lambda: from_folder(
            EMBEDDED_FOLDER, name=EMBEDDED, license="MIT", prompts=_OPENINGS, scored_by="judge"
        ),
        from_folder=from_folder,
        from_hub=from_hub,
        example="Qwen/Qwen3-0.6B",
    )


def from_folder(folder: Path, name: str | None = None, license: str = "see its folder", **fields) -> Model:
    """An entry for a folder as `save_pretrained` writes it (config.json, *.safetensors, tokenizer files).

    Raises UnknownModel when the folder does not hold that.
    """
    if (folder / "model_index.json").is_file():
        raise UnknownModel(f"{folder} holds a diffusion pipeline, which draws: this lab needs a language model.")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UnknownModel(
            f"{folder} holds no model: it needs config.json and *.safetensors, as model.save_pretrained() writes them."
        )
    figures = model_files.of_folder(folder)
    image, instance_type = _hardware(figures)
    return Model(
        name=name or folder.name,
        model_id=name or str(folder),
        weights=folder,
        image=image,
        instance_type=instance_type,
        dtype=figures.dtype,
        parameters=figures.parameters,
        download_bytes=figures.size,
        license=license,
        **({"prompts": _OPENINGS} | fields),
    )


def from_hub(model_id: str) -> Model:
    """An entry for any text model of the Hugging Face Hub. Raises ModelUnavailable, see `model_files.of_hub`."""
    figures = model_files.of_hub(model_id)
    image, instance_type = _hardware(figures)
    return Model(
        name=model_id.split("/")[-1].lower(),
        model_id=model_id,
        weights=None,
        image=image,
        instance_type=instance_type,
        dtype=figures.dtype,
        parameters=figures.parameters,
        download_bytes=figures.size,
        license="see its model card",
        prompts=_OPENINGS,
        environment={"HF_MODEL_ID": model_id, "HF_TASK": "text-generation"},
        variant_options=LARGE if figures.parameters > 1e9 else {},
        training_instance_type=_training_instance(figures),
        fine_tuning=_lora(model_id) if figures.parameters > 5e8 else {"model_name_or_path": model_id},
    )


def _hardware(figures: Figures) -> tuple[str, str]:
    """(image, instance type) outside the catalogue: a CPU for a small model, else the smallest GPU that holds it."""
    if figures.parameters <= 1_000_000_000:
        return HUGGINGFACE_CPU, "ml.m5.xlarge"
    need = figures.parameters * BYTES[figures.dtype] * MEMORY_FACTOR + MEMORY_OVERHEAD
    for instance in INSTANCES.values():
        if instance.gpu_memory * GIB >= need and instance.memory * GIB >= need:
            return HUGGINGFACE_GPU, instance.type
    return HUGGINGFACE_GPU, "ml.g5.12xlarge"


def _training_instance(figures: Figures) -> str:
    """One that trains it: whole (16 bytes a weight) up to half a billion weights, with LoRA above."""
    if figures.parameters <= 5e8:
        return "ml.g5.xlarge"
    need = figures.parameters * BYTES[figures.dtype] * MEMORY_FACTOR + 4 * GIB
    return "ml.g5.2xlarge" if need <= INSTANCES["ml.g5.2xlarge"].gpu_memory * GIB else "ml.g5.12xlarge"
