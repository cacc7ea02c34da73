"""Finds the mascot in a picture: its outline, and every part of it in the colour and at the place that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.colours import lab
from shared.pretraining.pictures.mascot import CORAL, DARK, MINT, WHITE, draw_mascot

# Masks are compared at this many pixels a side, of which the mascot covers this share.
_GRID, _FILL = 48, 0.25
_PARTS = (MINT, CORAL, WHITE, DARK)
# A pixel fits when it is no further (ΔE) from the part's colour.
_ALIKE = 26.0
# Of each part, the share of its inner pixels that must fit; ears and feet are small.
_LEAST_SHARE = {MINT: 0.6, CORAL: 0.4, WHITE: 0.5, DARK: 0.5}


@dataclass(frozen=True)
class FoundMascot:
    """`overlap`: intersection over union of the outline with the true one; centre (x, y) and diameter in pixels."""

    overlap: float
    centre: tuple[float, float]
    diameter: float


def find_mascot(rgb: np.ndarray, mask: np.ndarray) -> FoundMascot | None:
    """The mascot, when that is what a connected region shows: `rgb` height × width × 3 (0 to 255), `mask` height ×
    width (bool). None when a part is missing, or has another colour or place."""
    body = ndimage.binary_fill_holes(mask)
    area = float(body.sum())
    ys, xs = np.nonzero(body)
    cx, cy = xs.mean() + 0.5, ys.mean() + 0.5
    own = _template()
    step = math.sqrt(area / (_FILL * _GRID**2))
    left, top = cx - _GRID / 2 * step, cy - _GRID / 2 * step

    def sample(values: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(values, np.float32))
        transform = (step, 0, left, 0, step, top)
        return np.asarray(
            image.transform((_GRID, _GRID), Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)
        )

    normal = sample(body)
    overlap = np.minimum(own.silhouette, normal).sum() / np.maximum(own.silhouette, normal).sum()
    if overlap < 0.6:
        return None
    colours = lab(np.stack([sample(rgb[:, :, channel]) for channel in range(3)], -1))
    for part, least in _LEAST_SHARE.items():
        fits = np.linalg.norm(colours[own.parts[part]] - lab(part), axis=-1) < _ALIKE
        if fits.mean() < least:
            return None
    diameter = math.sqrt(area / own.area)
    centre = (float(cx) - own.centroid[0] * diameter, float(cy) - own.centroid[1] * diameter)
    return FoundMascot(float(overlap), centre, diameter)


@dataclass(frozen=True)
class _Template:
    silhouette: np.ndarray
    parts: dict[tuple[int, int, int], np.ndarray]
    centroid: tuple[float, float]
    area: float


@cache
def _template() -> _Template:
    """The outline of the mascot of diameter 1 and, by colour, the places well inside each part."""
    side, wide = 768, 1.25
    drawn = []
    for shade in (0, 255):
        canvas = Canvas(side, (shade,) * 3)
        draw_mascot(canvas, (0.5, 0.5), 1 / wide)
        drawn.append(canvas.pixels)
    opaque = 1 - (drawn[1] - drawn[0]).mean(-1) / 255
    ys, xs = (np.mgrid[:side, :side] + 0.5) / side * wide - wide / 2
    area = float(opaque.sum()) * (wide / side) ** 2
    centroid = tuple(float((opaque * at).sum() / opaque.sum()) for at in (xs, ys))
    scale = math.sqrt(_FILL * _GRID**2 / area)  # grid pixels per diameter
    per = side / wide / scale  # drawn pixels per grid pixel
    left, top = ((centroid[axis] + wide / 2) * side / wide - _GRID / 2 * per for axis in (0, 1))
    labels = np.linalg.norm(lab(drawn[0])[:, :, None] - lab(_PARTS), axis=-1).argmin(-1)
    inner = {part: ndimage.binary_erosion((labels == i) & (opaque > 0.9), iterations=round(per / 2))
             for i, part in enumerate(_PARTS)}  # fmt: skip

    def shrink(values: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(values, np.float32))
        box = (left, top, left + _GRID * per, top + _GRID * per)
        whole = image.transform((_GRID * 8,) * 2, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
        return np.asarray(whole.reduce(8))

    parts = {part: shrink(at) > 0.55 for part, at in inner.items()}
    return _Template(shrink(opaque), parts, centroid, area)
