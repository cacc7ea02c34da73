"""Colours as people see them: CIELAB, and the nearest colour that has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.pretraining.pictures.vocabulary import COLOURS

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]], np.float32
)
_WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)


def lab(rgb: np.ndarray | Sequence) -> np.ndarray:
    """sRGB values of 0 to 255 (... × 3) as CIELAB under D65, fp32 (IEC 61966-2-1, CIE 15). Distances are ΔE*ab."""
    share = np.asarray(rgb, np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack((116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])), -1)


def nearest(rgb: np.ndarray, colours: Mapping[str, Sequence[float]] = COLOURS) -> str:
    """The name of the nearest colour."""
    distances = np.linalg.norm(lab(list(colours.values())) - lab(rgb), axis=-1)
    return list(colours)[int(distances.argmin())]


def nearest_indices(rgb: np.ndarray, colours: Mapping[str, Sequence[float]] = COLOURS) -> np.ndarray:
    """For each pixel (height × width × 3) the number of the nearest colour."""
    distances = np.linalg.norm(lab(list(colours.values())) - lab(rgb)[:, :, None], axis=-1)
    return distances.argmin(-1)
