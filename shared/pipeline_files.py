"""How large a diffusion pipeline is, before anybody loads or downloads it: a folder of folders, one for each part.

`model_index.json` at its top names the parts. A Hub repository holds more than a pipeline loads: the same weights in
single files for other programs, in float32 and in 16 bits. What counts here is what diffusers fetches: of each part the
16-bit safetensors (the variant "fp16") where there are any, else those without a variant.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from shared.model_files import WHAT_ELSE, Figures, ModelUnavailable, ask_hub, cached_files, of_weights

INDEX = "model_index.json"
FP16 = "fp16"
# diffusers' and transformers' names of weights: NAME[.VARIANT][-NUMBER-of-COUNT].safetensors in a part's folder.
_WEIGHTS = re.compile(
    r"(?P<part>[^/]+)/(?:model|diffusion_pytorch_model)(?:\.(?P<variant>fp16))?(?:-\d+-of-\d+)?\.safetensors"
)


def is_pipeline(folder: Path) -> bool:
    """Whether `folder` is one that diffusers' `save_pretrained` wrote, with safetensors weights in it."""
    return (folder / INDEX).is_file() and bool(_chosen(_names(folder)))


def of_folder(folder: Path) -> Figures:
    """The figures of a pipeline's folder, from the headers of its safetensors files."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return of_weights((folder / name for name in _chosen(_names(folder))), size)


def of_hub(model_id: str) -> tuple[Figures, str | None]:
    """The figures of a Hub pipeline, and the variant to load ("fp16", or None), without a download.

    From its cached files (nothing left to move) or else from the Hub's list of files. Raises ModelUnavailable: the Hub
    cannot be reached, has no such model, has it gated, or it is no pipeline with safetensors weights.
    """
    if cached := cached_pipeline(model_id):
        chosen = _chosen(_names(cached))
        figures = of_weights((cached / name for name in chosen), 0)
        return figures, _variant(chosen)
    sizes = {file.rfilename: file.size or 0 for file in ask_hub(model_id).siblings}
    chosen = _chosen(sizes)
    if INDEX not in sizes or not chosen:
        raise ModelUnavailable(
            f"{model_id!r} is no diffusion pipeline with safetensors weights: it has no {INDEX}, or no weights in the "
            f"folders of its parts. {WHAT_ELSE}"
        )
    variant = _variant(chosen)
    weights = sum(sizes[name] for name in chosen)
    figures = Figures(weights // (2 if variant else 4), "float16" if variant else "float32", weights)
    return figures, variant


def check_available(model_id: str) -> None:
    """Raise ModelUnavailable when `model_id` is neither in this machine's cache nor to be had from the Hub now."""
    if not cached_pipeline(model_id):
        ask_hub(model_id)


def cached_pipeline(model_id: str) -> Path | None:
    """The folder of the complete pipeline in the Hub's cache on this machine, None when a part is missing."""
    folder = cached_files(model_id)
    if folder is None or not (folder / INDEX).is_file():
        return None
    weights = {name.split("/")[0] for name in _chosen(_names(folder))}
    for part, source in json.loads((folder / INDEX).read_text()).items():
        if not isinstance(source, list) or source[0] is None:
            continue  # a setting of the pipeline, or a part that it does without
        files = folder / part
        if not files.is_dir() or ((files / "config.json").is_file() and part not in weights):
            return None
    return folder


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.safetensors"))]


def _chosen(names: Iterable[str]) -> list[str]:
    """The weights that diffusers loads with the variant fp16: of each part its 16-bit files, else the plain ones."""
    parts: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names):
        if found := _WEIGHTS.fullmatch(name):
            parts[found["part"]][found["variant"]].append(name)
    return [name for files in parts.values() for name in files.get(FP16) or files[None]]


def _variant(chosen: list[str]) -> str | None:
    return FP16 if any(f".{FP16}" in name for name in chosen) else None
