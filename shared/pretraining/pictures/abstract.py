"""Pictures of nothing in particular: overlapping polygons, ellipses and strokes of any colour. An autoencoder that has
seen them too can keep pictures that the captions do not speak of."""

from __future__ import annotations

import math
from random import Random

from PIL import Image

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.outlines import ellipse


def abstract(rng: Random, side: int = 128) -> Image.Image:
    """A picture (RGB, `side` × `side`) of two to nine random pieces on a plain or shaded ground."""
    canvas = Canvas(side, _colour(rng))
    if rng.random() < 0.4:
        canvas.gradient(((0.0, _colour(rng)), (rng.uniform(0.5, 1.0), _colour(rng))))
    for _ in range(rng.randint(2, 9)):
        centre = (rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95))
        canvas.polygon(rng.choice(_PIECES)(rng), _colour(rng), centre=centre, scale=rng.uniform(0.1, 0.6))
    return canvas.image()


def _colour(rng: Random) -> tuple[int, int, int]:
    return tuple(rng.randint(0, 255) for _ in range(3))


def _ellipse(rng: Random):
    return _turned(ellipse(0.5, rng.uniform(0.15, 0.5)), rng)


def _polygon(rng: Random):
    corners = rng.randint(3, 7)
    angles = sorted(rng.uniform(0, 2 * math.pi) for _ in range(corners))
    return [(rng.uniform(0.3, 0.6) * math.cos(a), rng.uniform(0.3, 0.6) * math.sin(a)) for a in angles]


def _stroke(rng: Random):
    half = rng.uniform(0.02, 0.15)
    return _turned(((-0.6, -half), (0.6, -half), (0.6, half), (-0.6, half)), rng)


def _turned(points, rng: Random):
    angle = rng.uniform(0, math.pi)
    c, s = math.cos(angle), math.sin(angle)
    return [(c * x - s * y, s * x + c * y) for x, y in points]


_PIECES = (_ellipse, _polygon, _stroke)
