"""The language models that a lab can deploy: `find("embedded")`, a catalogue name, a Hugging Face Hub id, or a folder.

An entry says everything that differs between models, so that neither the notebooks' prose nor their cells need a
branch: which container image and instance serve it on AWS, how much there is to download, how much memory it takes,
what it costs an hour, which prompts suit it. Sizes of the catalogue's Hub models are those of their model cards; the
sizes of a folder are read from its files; those of any other Hub id are asked from the Hub.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shared import model_files
from shared.container_images import HUGGINGFACE_CPU, HUGGINGFACE_GPU, HUGGINGFACE_TRAINING, LMI, image_uri
from shared.display import Output, table
from shared.instances import GIB, INSTANCES, PRICE_NOTE, TRAINING_PRICE_NOTE, dollars, price_per_hour
from shared.model_files import WHAT_ELSE, Figures

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "models" / "language"

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What a serving process takes beside the weights: Python, torch, transformers, the cache of keys and values.
MEMORY_OVERHEAD = 0.75 * GIB
MEMORY_FACTOR = 1.2

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
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


class UnknownModel(ValueError):
    """The name is no catalogue entry, no Hub id and no folder."""


class ModelDoesNotFit(RuntimeError):
    """Memory or disk do not suffice; raised before anything is downloaded."""


@dataclass(frozen=True)
class Model:
    """One model as the labs see it.

    `model_id` is what a person calls it: a Hub id, or its folder. `weights` is the local folder that goes into
    model.tar.gz, or None when the container fetches `model_id` from the Hub. `download_bytes` is what that container
    (or, for a folder, the archive) moves. `environment` is the container's. `template` wraps a text in the markers that
    an instruct model was trained with. `scored_by` says how its answers are judged: "judge" or "exact match".

    It is fine-tuned on `training_instance_type`, which holds it with LoRA and, up to half a billion parameters, whole.
    `fine_tuning` holds the hyperparameters of Lab 2's script that have to be others than for the embedded model.
    """

    name: str
    model_id: str
    weights: Path | None
    image: str
    instance_type: str
    dtype: str
    parameters: int
    download_bytes: int
    license: str
    prompts: tuple[str, ...]
    scored_by: str = "exact match"
    template: str = "{prompt}"
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    variant_options: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    training_instance_type: str = "ml.g5.xlarge"
    fine_tuning: Mapping[str, int | float | str] = field(default_factory=dict, hash=False)

    def memory_needed(self, gpu: bool) -> int:
        """Bytes of memory that serving it takes, as an estimate: of a GPU, or without one.

        On a CPU the labs' handler computes in float32, whatever the files hold.
        """
        width = BYTES[self.dtype] if gpu else BYTES["float32"]
        return int(self.parameters * width * MEMORY_FACTOR + MEMORY_OVERHEAD)

    @property
    def disk_needed(self) -> int:
        """Bytes of disk: the download, and for a folder the archive and its extracted copy."""
        return self.download_bytes * (2 if self.weights else 1)

    @property
    def price_per_hour(self) -> float | None:
        """USD per hour of its endpoint on AWS, see `price_note`; None for an instance type not in the table."""
        return price_per_hour(self.instance_type)

    @property
    def price_note(self) -> str:
        """Where and when the price was noted, and where to check it."""
        return PRICE_NOTE

    @property
    def training_price_per_hour(self) -> float | None:
        """USD per hour of a training job on AWS on one `training_instance_type`; None when not in the table."""
        return price_per_hour(self.training_instance_type)

    @property
    def training_price_note(self) -> str:
        """Where and when the price of training was noted, and where to check it."""
        return TRAINING_PRICE_NOTE

    @property
    def channels(self) -> dict[str, str]:
        """The training channel that brings its weights: {"model": folder}; none where the job fetches them."""
        return {} if self.weights is None else {"model": str(self.weights)}

    def image_uri(self, region: str) -> str:
        """The URI of the AWS container image that serves it in `region`."""
        return image_uri(self.image, region)

    def training_image_uri(self, region: str) -> str:
        """The URI of the AWS container image that trains it in `region`: Hugging Face's, for GPUs."""
        return image_uri(HUGGINGFACE_TRAINING, region)

    def tuned_image_uri(self, region: str) -> str:
        """The URI of the image that serves it after Lab 2's fine-tuning: Hugging Face's, whatever serves the base."""
        return image_uri(HUGGINGFACE_GPU if self.image == LMI else self.image, region)

    def prompt(self, text: str) -> str:
        """`text` as this model wants it: unchanged for a base model, in its chat markers for an instruct model."""
        return self.template.format(prompt=text)

    def check_fits(self, instance_type: str | None = None) -> None:
        """Say so now if it cannot run: on this machine, or on an AWS `instance_type`. Downloads nothing.

        Raises ModelDoesNotFit with the numbers; for this machine also ModelUnavailable when the model would have to be
        downloaded and cannot be.
        """
        if instance_type:
            _check_instance(self, instance_type)
            return
        _check_this_machine(self)
        if self.weights is None:
            model_files.check_available(self.model_id, self.environment.get("HF_MODEL_REVISION"))

    def _facts(self) -> list[tuple[str, str]]:
        price = "price unknown" if self.price_per_hour is None else f"{dollars(self.price_per_hour)} an hour on AWS"
        return [
            ("id", self.model_id),
            ("parameters", f"{self.parameters:,} ({self.dtype})"),
            ("download", "none, it is in this repository" if self.name == EMBEDDED else _size(self.download_bytes)),
            ("memory", f"{_size(self.memory_needed(True))} on a GPU, {_size(self.memory_needed(False))} without"),
            ("image", self.image),
            ("instance", f"{self.instance_type}, {price}"),
            ("licence", self.license),
        ]

    def _card(self) -> Output:
        return table(self._facts(), columns=["model", self.name])

    def __str__(self) -> str:
        return self._card().text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return self._card()._repr_mimebundle_()


_LARGE = {"container_startup_health_check_timeout_in_seconds": 1200}
# The LMI image is built with CUDA 13: it needs driver 580, and the default machine image of g5 and g6 has an older one.
_LARGE_LMI = _LARGE | {"inference_ami_version": "al2023-ami-sagemaker-inference-gpu-4-1"}


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
            variant_options=_LARGE,
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
    text = os.fspath(model)
    if text == EMBEDDED:
        return from_folder(EMBEDDED_FOLDER, name=EMBEDDED, license="MIT", prompts=_OPENINGS, scored_by="judge")
    if text in HUB_MODELS:
        return HUB_MODELS[text]
    folder = Path(text).expanduser()
    if folder.is_dir():
        return from_folder(folder.resolve())
    for known in HUB_MODELS.values():
        if text.lower() == known.model_id.lower():
            return known
    if _HUB_ID.fullmatch(text):
        return from_hub(text)
    near = difflib.get_close_matches(text.lower(), names(), n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    raise UnknownModel(
        f"no model {text!r}. {hint}MODEL is one of {', '.join(repr(name) for name in names())}, "
        "a Hugging Face Hub id such as 'Qwen/Qwen3-0.6B', or the path of a folder that exists."
    )


def from_folder(folder: Path, name: str | None = None, license: str = "see its folder", **fields) -> Model:
    """An entry for a folder as `save_pretrained` writes it (config.json, *.safetensors, tokenizer files).

    Raises UnknownModel when the folder does not hold that.
    """
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
        variant_options=_LARGE if figures.parameters > 1e9 else {},
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


def _check_instance(model: Model, instance_type: str) -> None:
    instance = INSTANCES.get(instance_type)
    if instance is None:
        raise ModelDoesNotFit(
            f"the memory of {instance_type!r} is not in the table of shared/instances.py: add it there, or use one of "
            f"{', '.join(INSTANCES)}."
        )
    memory, where = (instance.gpu_memory, "GPU memory") if instance.gpu else (instance.memory, "memory")
    needed = model.memory_needed(gpu=bool(instance.gpu))
    if needed > memory * GIB:
        raise ModelDoesNotFit(
            f"{model.name} needs about {_size(needed)} of {where} ({model.parameters:,} parameters), but "
            f"{instance_type} has {_size(memory * GIB)}."
        )


def _check_this_machine(model: Model) -> None:
    memory, needed = psutil.virtual_memory(), model.memory_needed(gpu=False)
    if needed > memory.available and not model.memory_needed(gpu=True) <= _gpu_memory():
        raise ModelDoesNotFit(
            f"{model.name} needs about {_size(needed)} of memory ({model.parameters:,} parameters in float32, as the "
            f"labs' handler computes without a GPU), but of this machine's {_size(memory.total)} only "
            f"{_size(memory.available)} are free. {WHAT_ELSE} On AWS the same model runs on {model.instance_type} "
            '(BACKEND = "sagemaker").'
        )
    folder = _cache_folder() if model.weights is None else Path.cwd()
    free = shutil.disk_usage(folder).free
    if model.disk_needed > free:
        raise ModelDoesNotFit(
            f"{model.name} needs {_size(model.disk_needed)} of disk, but {folder} has {_size(free)} free. {WHAT_ELSE}"
        )


def _gpu_memory() -> int:
    """Bytes of memory of this machine's largest GPU, 0 without one. Imports torch, hence asked last."""
    import torch

    if not torch.cuda.is_available():
        return 0
    return max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def _cache_folder() -> Path:
    """The nearest existing folder above the Hub's cache: the disk that a download would fill."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _size(number: float) -> str:
    """Bytes for people: 1.9 MB, 12.1 GB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
