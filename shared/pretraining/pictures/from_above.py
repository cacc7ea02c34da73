"""Land seen from above, in six classes: another domain than that of the training, to fine-tune a model on.

The pictures imitate what a satellite sees, as a drawing does: fields, crowns, roofs and boats are plain pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.outlines import ellipse

RGB = tuple[int, int, int]
# What the ground is covered with.
SURFACES: dict[str, RGB] = {
    "trees": (44, 92, 52),
    "meadow": (126, 172, 84),
    "crops": (222, 196, 92),
    "soil": (150, 104, 70),
    "water": (44, 98, 158),
    "asphalt": (106, 110, 118),
    "pavement": (190, 188, 182),
    "roofs": (190, 82, 60),
}


def view_from_above(name: str, rng: Random, side: int = 128) -> Image.Image:
    """A picture (RGB, `side` × `side`) of a class. Raises ValueError for a class that is not known."""
    if name not in _DRAWINGS:
        raise ValueError(f"unknown class {name!r}: choose one of {', '.join(CLASSES)}")
    canvas = Canvas(side, (0, 0, 0))
    _DRAWINGS[name](canvas, rng)
    return canvas.image()


def _forest(canvas: Canvas, rng: Random) -> None:
    """Crown beside crown, some lighter; now and then a clearing."""
    _ground(canvas, "trees", rng, shade=0.8)
    spots = [(x / 8 + rng.uniform(-0.04, 0.04), y / 8 + rng.uniform(-0.04, 0.04)) for x in range(9) for y in range(9)]
    rng.shuffle(spots)
    clearing = (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)) if rng.random() < 0.4 else None
    if clearing:
        canvas.polygon(_blob(rng, 0.17), _shade("meadow", rng), centre=clearing)
    for spot in spots:
        if clearing is None or math.dist(spot, clearing) > 0.2:
            _tree(canvas, spot, rng.uniform(0.055, 0.085), rng)


def _farmland(canvas: Canvas, rng: Random) -> None:
    """Fields of several crops, with furrows, parted by narrow tracks; all turned by some angle."""
    _ground(canvas, "soil", rng, shade=1.15)
    turn = _turned(rng.uniform(-0.5, 0.5))
    columns, rows = _cuts(rng, 3, 4), _cuts(rng, 3, 5)
    kinds = ("crops", "meadow", "soil", "crops", "meadow")
    for left, right in zip(columns, columns[1:], strict=False):
        for top, bottom in zip(rows, rows[1:], strict=False):
            kind = rng.choice(kinds)
            colour = _shade(kind, rng, 0.12)
            edge = 0.009
            box = (left + edge, top + edge, right - edge, bottom - edge)
            canvas.polygon(turn(_box(*box)), colour)
            dark = tuple(0.88 * value for value in colour)
            along = rng.random() < 0.5
            start, end = (box[0], box[2]) if along else (box[1], box[3])
            at = start + 0.02
            while at + 0.016 < end:
                furrow = (at, box[1], at + 0.016, box[3]) if along else (box[0], at, box[2], at + 0.016)
                canvas.polygon(turn(_box(*furrow)), dark)
                at += 0.045


def _river(canvas: Canvas, rng: Random) -> None:
    """A winding river with light banks through meadows, with some trees beside it."""
    _ground(canvas, "meadow", rng)
    for _ in range(rng.randint(2, 4)):
        patch = (rng.random(), rng.random())
        canvas.polygon(_blob(rng, rng.uniform(0.12, 0.22)), _shade("meadow", rng, 0.12), centre=patch)
    turn = _turned(rng.uniform(0, math.pi))
    bend, phase, width = rng.uniform(0.08, 0.17), rng.uniform(0, 6.3), rng.uniform(0.13, 0.19)
    waves, off = rng.uniform(0.7, 1.1), rng.uniform(-0.08, 0.08)
    line = [(t, 0.5 + off + bend * math.sin(6.283 * waves * t + phase)) for t in np.linspace(-0.35, 1.35, 70)]
    for _ in range(rng.randint(8, 16)):
        x = rng.uniform(-0.2, 1.2)
        middle = 0.5 + off + bend * math.sin(6.283 * waves * x + phase)
        y = middle + rng.choice((-1, 1)) * (width / 2 + rng.uniform(0.13, 0.4))
        _tree(canvas, turn(((x, y),))[0], rng.uniform(0.045, 0.065), rng)
    canvas.polygon(turn(_band(line, width + 0.05)), _shade("crops", rng, 0.05))
    canvas.polygon(turn(_band(line, width)), _shade("water", rng))


def _motorway(canvas: Canvas, rng: Random) -> None:
    """Two carriageways with lane marks and cars, straight or in a wide bend, through meadows."""
    _ground(canvas, "meadow", rng)
    for _ in range(rng.randint(1, 3)):
        colour, patch = _shade(rng.choice(("crops", "trees")), rng), (rng.random(), rng.random())
        canvas.polygon(_blob(rng, 0.2), colour, centre=patch)
    turn = _turned(rng.uniform(0, math.pi))
    bend = rng.uniform(-0.35, 0.35)
    off = rng.uniform(-0.08, 0.08)

    def lane(shift: float) -> list:
        return [(t, 0.5 + off + shift + bend * (t - 0.5) ** 2) for t in np.linspace(-0.4, 1.4, 50)]

    asphalt = _shade("asphalt", rng)
    for shift in (-0.115, 0.115):
        canvas.polygon(turn(_band(lane(shift), 0.19)), asphalt)
        points = lane(shift)
        for first in range(0, 48, 6):
            canvas.polygon(turn(_band(points[first : first + 4], 0.03)), (240, 240, 236))
        track = lane(shift + rng.choice((-0.05, 0.05)))
        at = rng.randint(13, 33)
        colour = rng.choice(((230, 230, 232), (200, 50, 46), (40, 44, 56), (60, 90, 190)))
        canvas.polygon(turn(_band(track[at : at + 4], 0.065)), colour)


def _town(canvas: Canvas, rng: Random) -> None:
    """Houses with red roofs along light streets; here and there a green square with trees instead."""
    _ground(canvas, "pavement", rng)
    turn = _turned(rng.uniform(-0.6, 0.6))
    columns, rows = _cuts(rng, 3, 4), _cuts(rng, 3, 4)
    for left, right in zip(columns, columns[1:], strict=False):
        for top, bottom in zip(rows, rows[1:], strict=False):
            box = (left + 0.04, top + 0.04, right - 0.04, bottom - 0.04)
            if rng.random() < 0.2:
                canvas.polygon(turn(_box(*box)), _shade("meadow", rng))
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                _tree(canvas, turn((middle,))[0], 0.07, rng)
            else:
                _house(canvas, turn, rng, box)


def _house(canvas: Canvas, turn: Callable, rng: Random, box: tuple[float, float, float, float]) -> None:
    """A roof seen from above, its far side in the shade."""
    left, top, right, bottom = box
    roof = _shade("roofs", rng, 0.1)
    canvas.polygon(turn(_box(*box)), roof)
    canvas.polygon(turn(_box(left, top, right, (top + bottom) / 2)), tuple(0.78 * value for value in roof))


def _harbor(canvas: Canvas, rng: Random) -> None:
    """A paved quay with red-roofed sheds at one side, piers into the water, white boats beside them."""
    _ground(canvas, "water", rng)
    turn = _turned(rng.choice((0, 1, 2, 3)) * math.pi / 2 + rng.uniform(-0.15, 0.15))
    quay = rng.uniform(0.22, 0.32)
    canvas.polygon(turn(_box(-0.4, -0.4, 1.4, quay)), _shade("pavement", rng))
    at = rng.uniform(-0.15, -0.02)
    while at < 1.1:
        long = rng.uniform(0.14, 0.24)
        canvas.polygon(turn(_box(at, quay - 0.17, at + long, quay - 0.07)), _shade("roofs", rng, 0.1))
        at += long + rng.uniform(0.06, 0.12)
    at = rng.uniform(0.06, 0.2)
    while at < 1.0:
        end = quay + rng.uniform(0.38, 0.52)
        canvas.polygon(turn(_box(at, quay - 0.01, at + 0.07, end)), _shade("pavement", rng))
        for y in np.arange(quay + 0.11, end - 0.02, 0.17):
            for side in (-1, 1):
                if rng.random() < 0.75:
                    _boat(canvas, turn, (at + 0.035 + side * 0.115, float(y)))
        at += rng.uniform(0.4, 0.46)


def _boat(canvas, turn, at: tuple[float, float]) -> None:
    x, y = at
    hull = ((x - 0.07, y - 0.04), (x + 0.03, y - 0.04), (x + 0.08, y), (x + 0.03, y + 0.04), (x - 0.07, y + 0.04))
    canvas.polygon(turn(hull), (246, 246, 244))


_DRAWINGS: dict[str, Callable[[Canvas, Random], None]] = {
    "farmland": _farmland, "forest": _forest, "harbor": _harbor, "motorway": _motorway, "river": _river, "town": _town,
}  # fmt: skip
CLASSES = tuple(_DRAWINGS)


def _ground(canvas: Canvas, surface: str, rng: Random, shade: float = 1.0) -> None:
    canvas.polygon(_box(0, 0, 1, 1), tuple(shade * value for value in _shade(surface, rng)))


def _shade(surface: str, rng: Random, by: float = 0.06) -> tuple[float, ...]:
    factor = rng.uniform(1 - by, 1 + by)
    return tuple(factor * value for value in SURFACES[surface])


def _tree(canvas: Canvas, centre, radius: float, rng: Random) -> None:
    colour = _shade("trees", rng, 0.2)
    canvas.polygon(ellipse(radius), colour, centre=centre)
    lit = tuple(1.3 * value for value in colour)
    canvas.polygon(ellipse(0.55 * radius), lit, centre=(centre[0] - 0.25 * radius, centre[1] - 0.25 * radius))


def _box(left: float, top: float, right: float, bottom: float) -> tuple:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _blob(rng: Random, radius: float) -> list:
    """A rounded outline around (0, 0)."""
    phases = [rng.uniform(0, 6.3) for _ in range(2)]
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    reach = [radius * (1 + 0.18 * math.sin(2 * a + phases[0]) + 0.1 * math.sin(3 * a + phases[1])) for a in angles]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(reach, angles, strict=True)]


def _band(line: list, width: float) -> list:
    """The outline of a line of this width."""
    points = np.asarray(line)
    along = np.gradient(points, axis=0)
    across = np.stack((-along[:, 1], along[:, 0]), -1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
    return [*map(tuple, points + across), *map(tuple, (points - across)[::-1])]


def _cuts(rng: Random, fewest: int, most: int) -> list[float]:
    """Where columns or rows begin and end, beyond the picture on both sides, since it may be turned."""
    count = rng.randint(fewest, most)
    step = 1 / count
    first = -0.5 + rng.uniform(0, step)
    return [first + step * (number + rng.uniform(-0.15, 0.15)) for number in range(2 * count + 1)]


def _turned(angle: float) -> Callable:
    """Turns points around the picture's middle."""
    c, s = math.cos(angle), math.sin(angle)

    def turn(points) -> tuple:
        return tuple((0.5 + c * (x - 0.5) - s * (y - 0.5), 0.5 + s * (x - 0.5) + c * (y - 0.5)) for x, y in points)

    return turn
