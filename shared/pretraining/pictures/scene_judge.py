"""Reads scenes: the time by the sky, the ground by its colour, the parts by templates of their colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.colours import lab, nearest
from shared.pretraining.pictures.description import Named
from shared.pretraining.pictures.scenery import GROUND, PART_DRAWINGS, SKY, SKY_DRAWINGS
from shared.pretraining.pictures.vocabulary import PART_COLOURS, PARTS, SKY_PARTS

_SIDE = 64
# A pixel fits a template's when it is no further from it (ΔE), and stands out from it when it is further.
_ALIKE = 22.0
_LEAST = {"house": 0.62, "tree": 0.75, "mountain": 0.52, "boat": 0.84, "sun": 0.7, "moon": 0.7}
# Where a part's middle may be: from and to, across and down.
_WITHIN = {
    "house": (0.12, 0.88, 0.5, 0.72), "tree": (0.12, 0.88, 0.46, 0.7), "mountain": (0.2, 0.8, 0.36, 0.6),
    "boat": (0.12, 0.88, 0.52, 0.74), "sun": (0.08, 0.92, 0.08, 0.5), "moon": (0.08, 0.92, 0.08, 0.34),
}  # fmt: skip
_LEAST_LIGHT = 18  # pixels of a sun or moon; true ones have 40 and more
_SCALES = (0.92, 1.0, 1.08)
_POINTS = 90


@dataclass(frozen=True)
class _Template:
    """Points of a part, as pixels from its middle (dy, dx), with their CIELAB colours; and points just outside it."""

    inside: np.ndarray
    colours: np.ndarray
    outside: np.ndarray
    nearest_inside: np.ndarray


def judge_scene(picture: Image.Image, named: Named) -> dict[str, bool]:
    """Which of the attributes `time`, `ground`, `parts`, `colour` and `sky` that a caption names are right.

    The parts must be all of those named and no others; a sun or moon must be there when named.
    """
    pixels = _pixels(picture)
    time = read_time(pixels)
    found = {}
    if named.time:
        found["time"] = time == named.time
    if named.ground:
        found["ground"] = read_ground(pixels, time) == named.ground
    colours = lab(pixels)
    seen = read_parts(colours, time)
    found["parts"] = set(seen) == {part for part, _ in named.parts}
    if any(colour for _, colour in named.parts):
        found["colour"] = all(colour in (None, seen.get(part)) for part, colour in named.parts)
    if named.sky:
        sky = SKY_PARTS[time]
        found["sky"] = sky == named.sky and _fit(colours, sky, None, time) >= _LEAST[sky]
    return found


def read_time(pixels: np.ndarray) -> str:
    """The time of day by the sky's colour near the top (64 × 64 × 3)."""
    return nearest(np.median(pixels[1:5], (0, 1)), {time: sky[0] for time, sky in SKY.items()})


def read_ground(pixels: np.ndarray, time: str) -> str:
    """The ground by its colour near the bottom."""
    return nearest(np.median(pixels[58:63], (0, 1)), {ground: times[time][0] for ground, times in GROUND.items()})


def read_parts(colours: np.ndarray, time: str) -> dict[str, str | None]:
    """The parts seen (CIELAB, 64 × 64 × 3), each with its colour where it has one."""
    seen = {}
    for part in PARTS:
        scores = {colour: _fit(colours, part, colour, time) for colour in PART_COLOURS.get(part, (None,))}
        best = max(scores, key=scores.get)
        if scores[best] >= _LEAST[part]:
            seen[part] = best
    return seen


def count_lights(picture: Image.Image) -> int:
    """How many suns, or at night moons, stand in the sky: patches of their colour above the ground.

    `judge_scene` does not ask for one only, since no caption does.
    """
    from scipy import ndimage

    pixels = _pixels(picture)
    time = read_time(pixels)
    template = _template(SKY_PARTS[time], None, time, 1.0)
    colour = np.median(template.colours, 0)
    alike = np.square(lab(pixels[: _SIDE // 2 + 2]) - colour).sum(-1) < _ALIKE**2
    patches, count = ndimage.label(alike)
    sizes = ndimage.sum(alike, patches, range(1, count + 1))
    return int((sizes >= _LEAST_LIGHT).sum())


def _pixels(picture: Image.Image) -> np.ndarray:
    """The picture as it is read: 64 × 64 × 3, fp32."""
    return np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def _fit(colours: np.ndarray, part: str, colour: str | None, time: str) -> float:
    """How well a part fits at the place and scale where it fits best: the share of the points inside it that have the
    right colour, less the share of the points around it that have the colour of the part beside them."""
    return max(_best_place(colours, template, _WITHIN[part]) for template in _templates(part, colour, time))


def _best_place(colours: np.ndarray, template: _Template, within: tuple[float, float, float, float]) -> float:
    left, right, top, bottom = (round(value * _SIDE) for value in within)
    ys, xs = np.mgrid[top : bottom + 1, left : right + 1]

    def at(points):
        rows = np.clip(ys[:, :, None] + points[:, 0], 0, _SIDE - 1)
        columns = np.clip(xs[:, :, None] + points[:, 1], 0, _SIDE - 1)
        return colours[rows, columns]

    inside = (np.square(at(template.inside) - template.colours).sum(-1) < _ALIKE**2).mean(-1)
    # The places that could matter only: the rest of the work is for nothing where the inside does not fit.
    chosen = inside >= max(0.55, float(inside.max()) - 0.1)
    if not chosen.any():
        return float(inside.max()) - 1
    ys, xs = ys[chosen][:, None], xs[chosen][:, None]
    around = (np.square(at(template.outside)[:, 0] - template.nearest_inside).sum(-1) < _ALIKE**2).mean(-1)
    return float((inside[chosen] - np.maximum(0, around - 0.25)).max())


@cache
def _templates(part: str, colour: str | None, time: str) -> tuple[_Template, ...]:
    return tuple(_template(part, colour, time, scale) for scale in _SCALES)


def _template(part: str, colour: str | None, time: str, scale: float) -> _Template:
    # Drawn on black and on white, a part shows where it is opaque.
    drawn = []
    for shade in (0, 255):
        canvas = Canvas(_SIDE, (shade,) * 3)
        if part in SKY_DRAWINGS:
            SKY_DRAWINGS[part](canvas, 0.5, 0.5, scale, time)
        else:
            PART_DRAWINGS[part](canvas, 0.5, 0.7, scale, time, colour)
        drawn.append(canvas.pixels)
    opaque = 1 - (drawn[1] - drawn[0]).mean(-1) / 255
    if part == "mountain":
        opaque[round(_SIDE * 0.66) :] = 0  # its foot is behind the ground
    inside = np.argwhere(opaque > 0.9)
    middle = np.rint((inside.min(0) + inside.max(0)) / 2).astype(int)
    outside = np.array(list(_ring(opaque)))
    chosen, around = (points[np.linspace(0, len(points) - 1, _POINTS).astype(int)] for points in (inside, outside))
    beside = inside[np.abs(inside[None] - around[:, None]).sum(-1).argmin(1)]
    painted = lab(drawn[0])
    return _Template(chosen - middle, painted[tuple(chosen.T)], around - middle, painted[tuple(beside.T)])


def _ring(opaque: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pixels two or three steps outside a part."""
    from scipy import ndimage

    near, far = (ndimage.binary_dilation(opaque > 0.02, iterations=steps) for steps in (1, 3))
    return map(tuple, np.argwhere(far & ~near))
