"""The outlines of the shapes: polygons in a unit box around (0, 0), y downwards."""

from __future__ import annotations

import math
from functools import cache

Point = tuple[float, float]


@cache
def outline(shape: str) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """The polygon of a shape of diameter 1, and that of its hole (empty for all but the ring).

    Raises ValueError for a shape that is not known.
    """
    if shape not in _OUTLINES:
        raise ValueError(f"unknown shape {shape!r}: choose one of {', '.join(_OUTLINES)}")
    return _OUTLINES[shape]()


def ellipse(radius: float, height: float | None = None, centre: Point = (0.0, 0.0)) -> tuple[Point, ...]:
    """A circle, or with `height` an ellipse, as a polygon of 96 corners."""
    height = radius if height is None else height
    angles = (2 * math.pi * i / 96 for i in range(96))
    return tuple((centre[0] + radius * math.cos(a), centre[1] + height * math.sin(a)) for a in angles)


def _square():
    return ((-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)), ()


def _triangle():
    return ((0.0, -0.5), (0.54, 0.44), (-0.54, 0.44)), ()


def _diamond():
    return ((0.0, -0.56), (0.42, 0.0), (0.0, 0.56), (-0.42, 0.0)), ()


def _cross():
    a, b = 0.17, 0.5
    quarter = ((a, -b), (a, -a), (b, -a))
    # Each quarter is the one before turned by 90 degrees.
    points = [quarter]
    for _ in range(3):
        points.append(tuple((-y, x) for x, y in points[-1]))
    return tuple(point for corner in points for point in corner), ()


def _heart():
    """The curve x = 16 sin³t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t (https://mathworld.wolfram.com/HeartCurve.html)."""
    points = []
    for i in range(128):
        t = 2 * math.pi * i / 128
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 31, -(y + 2.5) / 31))
    return tuple(points), ()


def _moon():
    """A disc less a disc that covers its right part: both arcs run between the two points where the circles meet."""
    outer, inner, shift = 0.5, 0.42, 0.27
    x = (outer**2 - inner**2 + shift**2) / (2 * shift)
    far, near = math.acos(x / outer), math.acos((x - shift) / inner)
    steps = 64
    big = [far + (2 * math.pi - 2 * far) * i / steps for i in range(steps + 1)]
    small = [near + (2 * math.pi - 2 * near) * i / steps for i in range(steps, -1, -1)]
    points = [(outer * math.cos(a), -outer * math.sin(a)) for a in big]
    points += [(shift + inner * math.cos(a), -inner * math.sin(a)) for a in small]
    return tuple((px + 0.07, py) for px, py in points), ()


def _star():
    points = []
    for i in range(10):
        radius, angle = (0.24, 0.54)[i % 2 == 0], math.pi * i / 5 - math.pi / 2
        points.append((radius * math.cos(angle), 0.03 + radius * math.sin(angle)))
    return tuple(points), ()


_OUTLINES = {
    "circle": lambda: (ellipse(0.5), ()),
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": lambda: (ellipse(0.5), ellipse(0.28)),
    "heart": _heart,
    "moon": _moon,
    "star": _star,
}
