"""A picture being drawn: polygons with smooth edges, by drawing eight times as large and averaging."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

_FINER = 8


def coverage(polygon: Sequence, box: tuple[int, int, int, int], hole: Sequence = ()) -> np.ndarray:
    """How much of each pixel in `box` (left, top, right, bottom) a polygon covers: height × width, fp32, 0 to 1.

    Corners are in pixels. The part inside `hole` is not covered.
    """
    left, top, right, bottom = box
    mask = Image.new("L", ((right - left) * _FINER, (bottom - top) * _FINER))
    draw = ImageDraw.Draw(mask)
    for corners, value in ((polygon, 255), (hole, 0)):
        if corners:
            # A corner at x covers from x on: Pillow fills the pixels whose centres lie inside.
            draw.polygon([((x - left) * _FINER - 0.5, (y - top) * _FINER - 0.5) for x, y in corners], fill=value)
    return np.asarray(mask.reduce(_FINER), np.float32) / 255


class Canvas:
    """A square picture of `side` pixels, drawn in shares of the side. `image()` gives it as 8-bit RGB."""

    def __init__(self, side: int, colour: Sequence[float]):
        self.side = side
        self.pixels = np.empty((side, side, 3), np.float32)
        self.pixels[:] = colour

    def gradient(self, stops: Iterable[tuple[float, Sequence[float]]]) -> None:
        """Colour the rows by the colours at the heights in `stops`, from top to bottom."""
        heights, colours = zip(*stops, strict=True)
        rows = (np.arange(self.side) + 0.5) / self.side
        for channel in range(3):
            self.pixels[:, :, channel] = np.interp(rows, heights, [c[channel] for c in colours])[:, None]

    def polygon(
        self, corners: Sequence, colour: Sequence[float], *,
        centre: tuple[float, float] = (0, 0), scale: float = 1.0, hole: Sequence = (),
    ) -> None:  # fmt: skip
        """Fill a polygon, of which `scale` and then `centre` are applied to every corner."""
        side = self.side

        def place(points):
            return [((centre[0] + scale * x) * side, (centre[1] + scale * y) * side) for x, y in points]

        placed = place(corners)
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        box = (
            max(0, math.floor(min(xs))), max(0, math.floor(min(ys))),
            min(side, math.ceil(max(xs))), min(side, math.ceil(max(ys))),
        )  # fmt: skip
        if box[0] >= box[2] or box[1] >= box[3]:
            return
        share = coverage(placed, box, place(hole))[:, :, None]
        part = self.pixels[box[1] : box[3], box[0] : box[2]]
        part += share * (np.asarray(colour, np.float32) - part)

    def image(self) -> Image.Image:
        """The picture, RGB."""
        return Image.fromarray(np.clip(np.rint(self.pixels), 0, 255).astype(np.uint8))
