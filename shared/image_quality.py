"""How alike two pictures are: PSNR and SSIM. Pictures are 8-bit RGB of the same size."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def psnr(picture: Image.Image, reference: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; `inf` for equal pictures.

    Each 3 dB more is half the squared error. Raises ValueError when the sizes differ.
    """
    one, other = _arrays(picture, reference, "RGB")
    error = float(np.square(one - other).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(picture: Image.Image, reference: Image.Image) -> float:
    """Structural similarity of the brightness, 1 for equal pictures (https://doi.org/10.1109/TIP.2003.819861).

    Means, variances and covariance are those within a Gaussian window of deviation 1.5 pixels, cut at 5 pixels; the
    constants are the paper's. Raises ValueError when the sizes differ, or are below 11 pixels.
    """
    from scipy.ndimage import gaussian_filter

    one, other = _arrays(picture, reference, "L")
    if min(one.shape) < 11:
        raise ValueError(f"a picture of {one.shape[1]} × {one.shape[0]} pixels is too small: 11 a side at least")

    def local(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5)[5:-5, 5:-5]

    a, b = local(one), local(other)
    variance_a, variance_b = local(one * one) - a * a, local(other * other) - b * b
    covariance = local(one * other) - a * b
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * a * b + small) * (2 * covariance + smaller)
    return float((alike / ((a * a + b * b + small) * (variance_a + variance_b + smaller))).mean())


def _arrays(picture: Image.Image, reference: Image.Image, mode: str) -> tuple[np.ndarray, np.ndarray]:
    if picture.size != reference.size:
        raise ValueError(f"pictures of {picture.size} and {reference.size} pixels cannot be compared: resize one")
    return np.asarray(picture.convert(mode), np.float64), np.asarray(reference.convert(mode), np.float64)
