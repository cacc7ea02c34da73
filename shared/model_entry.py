"""What every model of a lab has, whatever it makes: where its weights are, what it runs on, what it takes and costs.

`catalogue` has the language models and `diffusion_catalogue` those that draw.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from shared.container_images import HUGGINGFACE_GPU, HUGGINGFACE_TRAINING, LMI, image_uri
from shared.display import Output, table
from shared.instances import GIB, INSTANCES, PRICE_NOTE, TRAINING_PRICE_NOTE, dollars, price_per_hour
from shared.model_files import WHAT_ELSE

EMBEDDED = "embedded"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What a serving process takes beside the weights: Python, torch, transformers.
MEMORY_OVERHEAD = 0.75 * GIB
MEMORY_FACTOR = 1.2
# What a container with a large download needs to start.
LARGE = {"container_startup_health_check_timeout_in_seconds": 1200}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class UnknownModel(ValueError):
    """The name is no catalogue entry, no Hub id and no folder, or names a model of another kind."""


class ModelDoesNotFit(RuntimeError):
    """Memory or disk do not suffice; raised before anything is downloaded."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model as the labs see it.

    `model_id` is what a person calls it: a Hub id, or its folder. `weights` is the local folder that goes into
    model.tar.gz, or None when the container fetches `model_id` from the Hub. `download_bytes` is what that container
    (or, for a folder, the archive) moves. `environment` is the container's. `scored_by` says how its answers are
    judged.

    It is fine-tuned on `training_instance_type`. `fine_tuning` holds the hyperparameters of its lab's script that have
    to be others than for the embedded model.
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
    scored_by: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    variant_options: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    training_instance_type: str = "ml.g5.xlarge"
    fine_tuning: Mapping[str, int | float | str] = field(default_factory=dict, hash=False)

    def memory_needed(self, gpu: bool) -> int:
        """Bytes of memory that serving it takes, as an estimate: of a GPU, or without one.

        On a CPU the labs' handlers may compute in float32, whatever the files hold.
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
        """The URI of the image that serves it after fine-tuning: Hugging Face's, whatever serves the base."""
        return image_uri(HUGGINGFACE_GPU if self.image == LMI else self.image, region)

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
            self._check_available()

    def _check_available(self) -> None:
        """Raise ModelUnavailable unless this machine has the Hub model or could fetch it now."""
        raise TypeError(f"{type(self).__name__} does not say how its Hub models are found")

    def _facts(self) -> list[tuple[str, str]]:
        price = "price unknown" if self.price_per_hour is None else f"{dollars(self.price_per_hour)} an hour on AWS"
        return [
            ("id", self.model_id),
            ("parameters", f"{self.parameters:,} ({self.dtype})"),
            ("download", "none, it is in this repository" if self.name == EMBEDDED else size(self.download_bytes)),
            ("memory", f"{size(self.memory_needed(True))} on a GPU, {size(self.memory_needed(False))} without"),
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


Entry = TypeVar("Entry", bound=ModelEntry)


def find_entry(
    model: str | os.PathLike[str], hub_models: Mapping[str, Entry], *,
    embedded: Callable[[], Entry], from_folder: Callable[[Path], Entry], from_hub: Callable[[str], Entry], example: str,
) -> Entry:  # fmt: skip
    """The entry for `model`: "embedded", a name or Hub id of `hub_models`, a folder, or any other Hub id.

    Raises UnknownModel for what is none of these; `example` is a Hub id of the right kind.
    """
    text = os.fspath(model)
    if text == EMBEDDED:
        return embedded()
    if text in hub_models:
        return hub_models[text]
    folder = Path(text).expanduser()
    if folder.is_dir():
        return from_folder(folder.resolve())
    for known in hub_models.values():
        if text.lower() == known.model_id.lower():
            return known
    if _HUB_ID.fullmatch(text):
        return from_hub(text)
    raise _unknown(text, [EMBEDDED, *hub_models], example)


def _unknown(text: str, names: Iterable[str], example: str) -> UnknownModel:
    """The error for a name that is nothing: with the nearest `names`, and `example`, a Hub id of the right kind."""
    names = list(names)
    near = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return UnknownModel(
        f"no model {text!r}. {hint}MODEL is one of {', '.join(repr(name) for name in names)}, "
        f"a Hugging Face Hub id such as {example!r}, or the path of a folder that exists."
    )


def size(number: float) -> str:
    """Bytes for people: 1.9 MB, 12.1 GB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _check_instance(model: ModelEntry, instance_type: str) -> None:
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
            f"{model.name} needs about {size(needed)} of {where} ({model.parameters:,} parameters), but "
            f"{instance_type} has {size(memory * GIB)}."
        )


def _check_this_machine(model: ModelEntry) -> None:
    memory, needed = psutil.virtual_memory(), model.memory_needed(gpu=False)
    if needed > memory.available and not model.memory_needed(gpu=True) <= _gpu_memory():
        raise ModelDoesNotFit(
            f"{model.name} needs about {size(needed)} of memory ({model.parameters:,} parameters in float32, as the "
            f"labs' handler computes without a GPU), but of this machine's {size(memory.total)} only "
            f"{size(memory.available)} are free. {WHAT_ELSE} On AWS the same model runs on {model.instance_type} "
            '(BACKEND = "sagemaker").'
        )
    folder = _cache_folder() if model.weights is None else Path.cwd()
    free = shutil.disk_usage(folder).free
    if model.disk_needed > free:
        raise ModelDoesNotFit(
            f"{model.name} needs {size(model.disk_needed)} of disk, but {folder} has {size(free)} free. {WHAT_ELSE}"
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
