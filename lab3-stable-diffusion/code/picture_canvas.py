"""The geometry of editing: which size a picture gets, what is kept of it, what is drawn anew.

Pictures are PIL images in RGB; masks are in mode "L", 255 where to draw anew, 0 where to keep.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Margins:
    """How many pixels to add at each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


@dataclass(frozen=True)
class Canvas:
    """What an editing request works on: the picture in its final size, and its mask (None: all may change)."""

    picture: Image.Image
    mask: Image.Image | None = None


def natural_size(size: tuple[int, int], native_area: int, largest_area: int, multiple: int) -> tuple[int, int]:
    """Width and height to work in for a picture of a given size.

    Its own, when its area is between a quarter and four times that of the model's pictures and not too large; else
    scaled, in the same proportions, to the model's area. Both are rounded to a multiple of what the autoencoder
    divides by.
    """
    width, height = size
    if not native_area / 4 <= width * height <= min(native_area * 4, largest_area):
        scale = math.sqrt(native_area / (width * height))
        width, height = width * scale, height * scale
    rounded = tuple(max(multiple, round(side / multiple) * multiple) for side in (width, height))
    if rounded[0] * rounded[1] > largest_area:
        rounded = tuple(max(multiple, int(side / multiple) * multiple) for side in (width, height))
    return rounded


def cover(picture: Image.Image, size: tuple[int, int], resample=Image.Resampling.LANCZOS) -> Image.Image:
    """The picture scaled until it covers a size, and what is over cut off evenly."""
    if picture.size == size:
        return picture
    scale = max(size[0] / picture.width, size[1] / picture.height)
    width, height = size[0] / scale, size[1] / scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return picture.resize(size, resample, box=(left, top, left + width, top + height))


def extended(picture: Image.Image, margins: Margins) -> Canvas:
    """The picture with margins added, which continue the colours of its edge, and the mask of what was added."""
    sides = ((margins.top, margins.bottom), (margins.left, margins.right))
    pixels = np.pad(np.asarray(picture), (*sides, (0, 0)), mode="edge")
    mask = np.pad(np.zeros((picture.height, picture.width), np.uint8), sides, constant_values=255)
    return Canvas(Image.fromarray(pixels), Image.fromarray(mask))


def pasted(canvas: Canvas, drawn: Image.Image) -> Image.Image:
    """What was drawn inside the mask, the picture as it was, byte for byte, outside of it.

    The first pixels inside the mask pass from one to the other, so that the border does not show.
    """
    if canvas.mask is None:
        return drawn
    radius = max(1, min(drawn.size) // 64)
    soft = canvas.mask.filter(ImageFilter.GaussianBlur(radius))
    # 0 outside and at the border (where the blurred mask is one half), 255 further in.
    inside = np.where(np.asarray(canvas.mask) > 0, np.asarray(soft, np.int16) * 2 - 255, 0).clip(0, 255)
    return Image.composite(drawn, canvas.picture, Image.fromarray(inside.astype(np.uint8)))


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """float32 [1, 3, height, width] from -1 to 1."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    return pixels.float() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """PIL images of a float tensor [pictures, 3, height, width] from -1 to 1."""
    scaled = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in (scaled * 255).round().astype(np.uint8)]


def latent_mask(mask: Image.Image, factor: int) -> torch.Tensor:
    """float32 [1, 1, height / factor, width / factor]: 1 for every latent of which any pixel is to be drawn anew."""
    pixels = torch.from_numpy(np.asarray(mask, np.float32) / 255)[None, None]
    return torch.nn.functional.max_pool2d(pixels, factor)
