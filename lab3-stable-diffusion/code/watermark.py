"""An invisible mark in a picture's brightness that says it was made by a model.

Each block of 8 × 8 pixels carries one bit in one low frequency of its cosine transform: the coefficient is moved to the
nearest value of one of two interleaved grids (quantisation index modulation, https://doi.org/10.1109/18.923725). Which
of the two is fixed for each place: the mark says one thing only. 256 × 256 pixels are 1024 blocks, and to be found it
needs six of ten to be right.

It survives PNG, lossless WebP, JPEG of good quality, and a crop at the right or the bottom. It does not survive
resizing, rotating, or a crop that shifts the blocks; and whoever knows this file can take it out: it marks honest
pictures, it does not expose dishonest ones.
"""

import hashlib
import math

import numpy as np
from PIL import Image

SMALLEST_SIDE = 256
_STEP = 24.0  # between two values of one grid, in units of the transform of brightness 0 to 255
_ROW, _COLUMN = 1, 2  # the frequency that carries the bit
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_MARGIN = 2  # levels kept free at both ends, so that what is added to black and to white is not cut off


def _cosine(frequency: int) -> np.ndarray:
    return 0.5 * np.cos((2 * np.arange(8, dtype=np.float32) + 1) * frequency * math.pi / 16)


_PATTERN = np.outer(_cosine(_ROW), _cosine(_COLUMN)).astype(np.float32)  # of norm 1
_BITS = np.unpackbits(np.frombuffer(hashlib.shake_256(b"made by a model").digest(512), np.uint8)).reshape(64, 64)


def add_watermark(picture: Image.Image) -> Image.Image:
    """The picture (RGB) with the mark; as it is where a side has fewer than `SMALLEST_SIDE` pixels."""
    if min(picture.size) < SMALLEST_SIDE:
        return picture
    pixels = np.asarray(picture, np.float32).clip(_MARGIN, 255 - _MARGIN)
    coefficients = _coefficients(pixels)
    # Bit 0 lives on ..., -18, 6, 30, ...; bit 1 on ..., -6, 18, ...: a flat block moves as little for either.
    offset = np.where(_bits(coefficients.shape), -_STEP / 4, _STEP / 4)
    change = np.round((coefficients - offset) / _STEP) * _STEP + offset - coefficients
    rows, columns = coefficients.shape
    brightness = np.kron(change, _PATTERN)
    pixels[: rows * 8, : columns * 8] += brightness[..., None]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def agreement(picture: Image.Image) -> float:
    """Share of the picture's blocks that carry the mark's bit: about 0.5 by chance, 1 with an untouched mark."""
    coefficients = _coefficients(np.asarray(picture.convert("RGB"), np.float32))
    found = np.mod(coefficients, _STEP) > _STEP / 2
    return float((found == _bits(coefficients.shape)).mean()) if found.size else 0.5


def has_watermark(picture: Image.Image) -> bool:
    """Whether so many blocks agree with the mark as by chance happens in one of a thousand million pictures."""
    blocks = (picture.width // 8) * (picture.height // 8)
    return blocks >= 64 and agreement(picture) > 0.5 + 3 / math.sqrt(blocks)


def _coefficients(pixels: np.ndarray) -> np.ndarray:
    """The carrying coefficient of every whole block, float32 [rows, columns], of pixels [height, width, 3]."""
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    brightness = pixels[: rows * 8, : columns * 8] @ _LUMA
    blocks = brightness.reshape(rows, 8, columns, 8)
    return np.einsum("ryxc,yc->rx", blocks, _PATTERN)


def _bits(shape: tuple[int, int]) -> np.ndarray:
    """Which blocks carry a 1, bool [rows, columns]."""
    repeats = (-(-shape[0] // 64), -(-shape[1] // 64))
    return np.tile(_BITS, repeats)[: shape[0], : shape[1]].astype(bool)
