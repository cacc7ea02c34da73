"""Small sets of pictures with captions to fine-tune a model on, as an image folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.description import Named
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.from_above import CLASSES, view_from_above
from shared.pretraining.pictures.outlines import outline
from shared.pretraining.pictures.sampling import single
from shared.pretraining.pictures.vocabulary import MASCOT, SIZES


@dataclass(frozen=True)
class Example:
    """A picture with its caption. `named` is what the judge needs; None where a class name is the caption."""

    picture: Image.Image
    text: str
    named: Named | None = None


def examples_of(shape: str, count: int, *, seed: int = 0, side: int = 128, size: str | None = None) -> list[Example]:
    """`count` pictures of one shape, such as `star` or the mascot `zobi`, in the wordings of the training's captions.

    `size` is `small`, `medium` or `large`; None is any of them, but of the mascot, which has fine parts, `large`. The
    same for the same seed; a longer list begins as a shorter one. Raises ValueError for a shape or size that is not
    known.
    """
    if shape != MASCOT:
        outline(shape)
    if size not in (None, *SIZES):
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
    sizes = (size,) if size else ("large",) if shape == MASCOT else tuple(SIZES)
    found = []
    for number in range(count):
        rng = Random(f"example/{seed}/{shape}/{number}")
        shown = single(rng, shape=shape)
        while shown.thing.size not in sizes:
            shown = single(rng, shape=shape)
        text, named = caption(shown, rng)
        found.append(Example(draw(shown, side), text, named))
    return found


def examples_from_above(per_class: int, *, seed: int = 0, side: int = 128) -> list[Example]:
    """`per_class` pictures of land from above of each class, in turns. The caption is the name of the class."""
    return [
        Example(view_from_above(name, Random(f"example/{seed}/{name}/{number}"), side), name)
        for number in range(per_class)
        for name in CLASSES
    ]


def write_image_folder(folder: Path | str, examples: Iterable[Example | tuple[Image.Image, str]]) -> Path:
    """Write an image folder: PNG files, and `metadata.jsonl` with a line {"file_name", "text"} for each, as the
    `datasets` library reads it (https://huggingface.co/docs/datasets/image_dataset). Returns the folder.

    Pictures and captions that an earlier call left there are replaced; the list is written last, so a folder that was
    begun and not finished has none. Raises ValueError when there is no example.
    """
    pairs = [(e.picture, e.text) if isinstance(e, Example) else e for e in examples]
    if not pairs:
        raise ValueError("an image folder needs at least one picture")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "metadata.jsonl"
    listing.unlink(missing_ok=True)
    for path in folder.glob("[0-9][0-9][0-9][0-9].png"):
        path.unlink()
    lines = []
    for number, (picture, text) in enumerate(pairs):
        name = f"{number:04d}.png"
        picture.convert("RGB").save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": text}, ensure_ascii=False))
    partial = folder / "metadata.jsonl.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, listing)
    return folder
