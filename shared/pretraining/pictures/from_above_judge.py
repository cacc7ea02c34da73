"""Which class a picture from above shows: the nearest by what covers the ground and how much it changes. No network."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
from PIL import Image

from shared.pretraining.pictures.colours import lab, nearest_indices
from shared.pretraining.pictures.from_above import CLASSES, SURFACES, view_from_above

_SIDE = 64
_EXAMPLES = 40
# What lies on the ground in pieces.
_COVERS = SURFACES | {"bright": (246, 246, 244)}
# Deviations smaller than this count as this large: what a decoder or an unsteady hand changes.
_LEAST_DEVIATION = np.array([0.03] * len(_COVERS) + [0.015, 0.03])
# In deviations, root mean square over the features.
FARTHEST = 1.8


def judge_from_above(picture: Image.Image, name: str) -> bool:
    """Whether a picture shows this class. Raises ValueError for a class that is not known."""
    if name not in CLASSES:
        raise ValueError(f"unknown class {name!r}: choose one of {', '.join(CLASSES)}")
    return class_from_above(picture) == name


def class_from_above(picture: Image.Image) -> str | None:
    """The class that a picture shows, or None when it is like none of them."""
    distances = class_distances(picture)
    best = min(distances, key=distances.get)
    return best if distances[best] <= FARTHEST else None


def class_distances(picture: Image.Image) -> dict[str, float]:
    """How far a picture is from each class: the root mean square of its features' differences, in deviations."""
    found = _features(picture)
    return {
        name: float(np.sqrt(np.square((found - mean) / deviation).mean()))
        for name, (mean, deviation) in _seen().items()
    }


@cache
def _seen() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation of the features of each class, over examples."""
    result = {}
    for name in CLASSES:
        drawn = [view_from_above(name, Random(f"examples/{name}/{number}")) for number in range(_EXAMPLES)]
        found = np.array([_features(picture) for picture in drawn])
        result[name] = found.mean(0), np.maximum(found.std(0), _LEAST_DEVIATION)
    return result


def _features(picture: Image.Image) -> np.ndarray:
    """The share of each cover, how much neighbours differ, and how unevenly the covers are spread."""
    pixels = np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    covers = nearest_indices(pixels, _COVERS)
    one_hot = np.eye(len(_COVERS), dtype=np.float32)[covers]
    shares = one_hot.mean((0, 1))
    colours = lab(pixels)
    rough = [np.linalg.norm(np.diff(colours, axis=axis), axis=-1).mean() / 40 for axis in (0, 1)]
    cells = one_hot.reshape(4, _SIDE // 4, 4, _SIDE // 4, -1).mean((1, 3)).reshape(16, -1)
    patchy = np.abs(cells - shares).sum(-1).mean() / 2
    return np.array([*shares, sum(rough) / 2, patchy])
