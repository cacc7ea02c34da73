"""What notebook 2 edits, and how an edit is measured: what became right, what moved, what was left alone.

A model with the workshop's own words is marked by the judge, others by CLIP: see `prompt_adherence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from prompt_adherence import clip_scores

from shared.pretraining.pictures.description import Named
from shared.pretraining.pictures.judge import judge

# How far, of 255, the endpoint's watermark moves a pixel at most (code/watermark.py; 4 was the most in drawings).
WATERMARK = 8


@dataclass(frozen=True)
class Wish:
    """A prompt; `named` is what the judge looks for, None where CLIP marks."""

    prompt: str
    named: Named | None = None


@dataclass(frozen=True)
class Edit:
    """A picture's prompt before and after an edit; `title` says in words what changes."""

    title: str
    before: Wish
    after: Wish


def edits(model: Any) -> list[Edit]:
    """Edits of a whole picture that `model` (a catalogue entry) can be asked for: colour, shape, time of day."""
    if model.scored_by == "judge":
        ring, day = _one("large", "red", "ring", "blue"), _landscape("day")
        return [
            Edit("another colour", ring, _one("large", "green", "ring", "blue")),
            Edit("another shape", ring, _one("large", "red", "heart", "blue")),
            Edit("another time of day", day, _landscape("night")),
        ]
    bicycle = Wish("a photo of a red bicycle in front of a white wall")
    day = Wish("a photo of a house and a tree by day")
    return [
        Edit("another colour", bicycle, Wish("a photo of a green bicycle in front of a white wall")),
        Edit("another thing", bicycle, Wish("a photo of a red chair in front of a white wall")),
        Edit("another time of day", day, Wish("a photo of a house and a tree at night")),
    ]


def replacement(model: Any) -> Edit:
    """An edit of the right half of a picture: the left half stays."""
    if model.scored_by == "judge":
        return Edit(
            "another thing on the right",
            _two("red circle", "blue diamond", "white"),
            _two("red circle", "green heart", "white"),
        )
    left = "a photo of a red teapot on the left and {} on the right, on a white table"
    return Edit("another thing on the right", Wish(left.format("a clock")), Wish(left.format("a blue cup")))


def removal(model: Any) -> Edit:
    """An edit of the right half of the picture of `replacement`: what is there goes."""
    before = replacement(model).before
    if model.scored_by == "judge":
        circle = Named("single", things=((None, "red", "circle"),), background="white")
        return Edit("nothing on the right", before, Wish("a red circle on a white background", circle))
    return Edit("nothing on the right", before, Wish("a photo of a red teapot on an empty white table"))


def landscape(model: Any) -> Wish:
    """A picture that can go on to its left and right."""
    if model.scored_by == "judge":
        return _landscape("sunset")
    return Wish("a photo of a house and a tree in a wide meadow at sunset")


def shows(model: Any, picture: Image.Image, wish: Wish, *others: Wish) -> bool:
    """Whether a picture shows all that a wish names. Where CLIP marks: whether it fits better than the `others`."""
    if wish.named is not None:
        return judge(picture, wish.named).right
    scores = clip_scores([picture], [wish.prompt, *(other.prompt for other in others)])[0]
    return bool(scores[0] >= scores.max())


def moved(picture: Image.Image, other: Image.Image) -> float:
    """How far apart two pictures are: the mean difference of a pixel's red, green and blue (0 to 255).

    Raises ValueError when the sizes differ.
    """
    return float(_difference(picture, other).mean())


def changed(picture: Image.Image, other: Image.Image, where: Image.Image) -> tuple[int, int]:
    """Of the pixels where the mask `where` is white: how many differ, and how many there are.

    In pictures of 256 pixels a side and more, a difference that the endpoint's watermark can make does not count.
    """
    most = WATERMARK if min(picture.size) >= 256 else 0
    differ = _difference(picture, other).max(-1) > most
    inside = np.asarray(where.convert("L")) > 127
    if inside.shape != differ.shape:
        raise ValueError(f"a mask of {where.size} pixels does not fit a picture of {picture.size}")
    return int((differ & inside).sum()), int(inside.sum())


def steps_between_columns(picture: Image.Image) -> np.ndarray:
    """How much each column of pixels differs from the one before it: width - 1 values, 0 to 255. A seam is a peak."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    return np.abs(np.diff(pixels, axis=1)).mean((0, 2))


def _difference(picture: Image.Image, other: Image.Image) -> np.ndarray:
    if picture.size != other.size:
        raise ValueError(f"pictures of {picture.size} and {other.size} pixels cannot be compared: resize one")
    one, two = (np.asarray(image.convert("RGB"), np.float32) for image in (picture, other))
    return np.abs(one - two)


def _one(size: str, colour: str, shape: str, background: str) -> Wish:
    text = f"a {size} {colour} {shape} on a {background} background"
    return Wish(text, Named("single", things=((size, colour, shape),), background=background))


def _two(first: str, second: str, background: str) -> Wish:
    things = tuple((None, *thing.split()) for thing in (first, second))
    text = f"a {first} left of a {second} on a {background} background"
    return Wish(text, Named("pair", things=things, relation="left of", background=background))


def _landscape(time: str) -> Wish:
    parts = (("house", None), ("tree", None))
    when = {"day": "by day", "sunset": "at sunset", "night": "at night"}[time]
    return Wish(f"a house and a tree on grass {when}", Named("scene", time=time, ground="grass", parts=parts))
