"""How large a model is, before anybody loads or downloads it: from a folder's files, or from the Hugging Face Hub."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WHAT_ELSE = 'Use MODEL = "embedded", which needs no download, or the path of a folder that holds a model.'

_DTYPES = {"BF16": "bfloat16", "F16": "float16"}
_FETCHED = (".safetensors", ".json", ".txt", ".model", ".jinja")


class ModelUnavailable(RuntimeError):
    """The Hub cannot be reached, or does not hand out this model."""


@dataclass(frozen=True)
class Figures:
    """The number of parameters, the dtype of most of them ("float32", "float16", "bfloat16"), and the bytes to move."""

    parameters: int
    dtype: str
    size: int


def of_folder(folder: Path) -> Figures:
    """The figures of a folder as `save_pretrained` writes it, from the headers of its safetensors files."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return of_weights(folder.glob("*.safetensors"), size)


def of_weights(files: Iterable[Path], size: int) -> Figures:
    """The figures of a model whose weights are these safetensors files, by their headers; `size` bytes to move."""
    counts: dict[str, int] = {}
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    return Figures(sum(counts.values()), _dtype(counts), size)


def of_hub(model_id: str) -> Figures:
    """The figures of a Hub model, from its cached files (nothing left to move) or else from the Hub's metadata.

    Raises ModelUnavailable: the Hub cannot be reached, has no such model, has it gated, or without safetensors weights.
    """
    cached = cached_snapshot(model_id)
    if cached and list(cached.glob("*.safetensors")):
        figures = of_folder(cached)
        return Figures(figures.parameters, figures.dtype, 0)
    info = ask_hub(model_id)
    if not info.safetensors:
        raise ModelUnavailable(f"{model_id!r} has no safetensors weights, so its size cannot be known. {WHAT_ELSE}")
    fetched = (file for file in info.siblings if "/" not in file.rfilename and file.rfilename.endswith(_FETCHED))
    return Figures(
        info.safetensors.total, _dtype(info.safetensors.parameters), sum(file.size or 0 for file in fetched)
    )


def check_available(model_id: str, revision: str | None = None) -> None:
    """Raise ModelUnavailable when `model_id` is neither in this machine's cache nor to be had from the Hub now."""
    if not cached_snapshot(model_id, revision):
        ask_hub(model_id, revision)


def cached_snapshot(model_id: str, revision: str | None = None) -> Path | None:
    """The folder of the complete model in the Hub's cache on this machine, None when it is missing or incomplete."""
    folder = cached_files(model_id, revision)
    if folder is None:
        return None
    for weights in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{weights}.index.json"
        files = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {weights}
        if (folder / "config.json").is_file() and all((folder / file).is_file() for file in files):
            return folder
    return None


def cached_files(model_id: str, revision: str | None = None) -> Path | None:
    """The folder of what the Hub's cache on this machine has of the model, complete or not; None without any."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def ask_hub(model_id: str, revision: str | None = None):
    """huggingface_hub's ModelInfo with file sizes; raises ModelUnavailable."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    gated = (
        f"the Hugging Face Hub hands out {model_id!r} only to those who accepted its licence: accept it on "
        f"https://huggingface.co/{model_id} and set HF_TOKEN, or choose another model. {WHAT_ELSE}"
    )
    try:
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=15)
    except GatedRepoError as error:
        raise ModelUnavailable(gated) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelUnavailable(f"the Hugging Face Hub has no public model {model_id!r}. {WHAT_ELSE}") from error
    except Exception as error:  # the transport's errors differ between versions of huggingface_hub
        raise ModelUnavailable(
            f"the Hugging Face Hub cannot be reached ({type(error).__name__}), {model_id!r} is not in this machine's "
            f"cache, and no folder has that name. {WHAT_ELSE}"
        ) from error
    if info.gated and not os.environ.get("HF_TOKEN"):
        raise ModelUnavailable(gated)
    return info


def _dtype(counts: dict[str, int]) -> str:
    return _DTYPES.get(max(counts, key=counts.__getitem__), "float32")
