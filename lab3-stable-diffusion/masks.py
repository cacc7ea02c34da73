"""Masks for inpainting: white where a picture is to be drawn anew. By a call, or by hand with sliders."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("ellipse", "box")
_AT_FIRST = (30, 70)  # percent, both ways
_FINER = 4


def box(size: tuple[int, int], left: float, top: float, right: float, bottom: float) -> Image.Image:
    """A mask (L; 255 is drawn anew) of `size` pixels that is white in a box. The sides are shares of width and height,
    0 at the left and top, 1 at the right and bottom. Raises ValueError for a box without area."""
    return _piece("box", size, left, top, right, bottom)


def ellipse(size: tuple[int, int], left: float, top: float, right: float, bottom: float) -> Image.Image:
    """As `box`, but white only in the ellipse that just fits into the box."""
    return _piece("ellipse", size, left, top, right, bottom)


def joined(*masks: Image.Image) -> Image.Image:
    """A mask that is white where one of the masks is. Raises ValueError for no mask, or for different sizes."""
    if len({mask.size for mask in masks}) != 1:
        raise ValueError(f"masks of sizes {[mask.size for mask in masks]} cannot be joined: give some of one size")
    return Image.fromarray(np.max([np.asarray(mask.convert("L")) for mask in masks], 0))


def inverted(mask: Image.Image) -> Image.Image:
    """Black for white, and white for black."""
    return Image.fromarray(255 - np.asarray(mask.convert("L")))


def area(mask: Image.Image) -> float:
    """The share of a mask that is white."""
    return float((np.asarray(mask.convert("L")) > 127).mean())


def overlay(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with what will be drawn anew under light stripes, to look at. Raises ValueError for other sizes."""
    if picture.size != mask.size:
        raise ValueError(f"a mask of {mask.size} pixels does not fit a picture of {picture.size}")
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    share = np.asarray(mask.convert("L"), np.float32)[:, :, None] / 255
    rows, columns = np.mgrid[: picture.height, : picture.width]
    wide = max(2, round(min(picture.size) / 32))
    stripes = np.where(((rows + columns) // wide % 2 == 0)[:, :, None], 255.0, 150.0)
    return Image.fromarray(np.rint(pixels + 0.75 * share * (stripes - pixels)).astype(np.uint8))


class MaskEditor:
    """Sliders for ellipses and boxes over a picture, which can be put together; `mask` is what they make.

    Show it by `editor.widget`. What was added and what is under the sliders now is the mask. `calls` is the call that
    makes the same mask; `touched` tells whether anybody moved anything.
    """

    def __init__(self, picture: Image.Image, *, shown: int = 320):
        import ipywidgets as widgets

        self.picture = picture.convert("RGB")
        self._pieces: list[tuple[str, tuple[float, float, float, float]]] = []
        self._shown = shown
        self.touched = False
        wide = {"style": {"description_width": "6em"}, "layout": widgets.Layout(width="24em")}
        self.kind = widgets.ToggleButtons(options=KINDS, description="shape", style=wide["style"])
        sliders = {"min": 0, "max": 100, "value": _AT_FIRST, "continuous_update": True, **wide}
        self.across = widgets.IntRangeSlider(description="across, %", **sliders)
        self.down = widgets.IntRangeSlider(description="down, %", **sliders)
        self.add = widgets.Button(description="Add", tooltip="Keep this piece and go on with another")
        self.restart = widgets.Button(description="Start again", tooltip="Remove all pieces")
        self._view = widgets.Image(format="png", width=shown)
        self._text = widgets.HTML()
        for control in (self.kind, self.across, self.down):
            control.observe(lambda _change: self._changed(), "value")
        self.add.on_click(lambda _button: self._add())
        self.restart.on_click(lambda _button: self._restart())
        controls = widgets.VBox([self.kind, self.across, self.down, widgets.HBox([self.add, self.restart]), self._text])
        self.widget = widgets.HBox([self._view, controls])
        self._draw()

    @property
    def pieces(self) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The pieces added, and the one under the sliders: kind and sides."""
        return list(dict.fromkeys([*self._pieces, self._current]))

    @property
    def mask(self) -> Image.Image:
        """The mask as it is now, of the picture's size."""
        return joined(*(_piece(kind, self.picture.size, *sides) for kind, sides in self.pieces))

    @property
    def calls(self) -> str:
        """The call that makes this mask."""
        size = self.picture.size
        made = [f"{kind}({size}, {', '.join(f'{side:g}' for side in sides)})" for kind, sides in self.pieces]
        return made[0] if len(made) == 1 else f"joined({', '.join(made)})"

    @property
    def _current(self) -> tuple[str, tuple[float, float, float, float]]:
        # A slider can be closed to nothing: one percent is the least.
        (left, right), (top, bottom) = (_opened(*slider.value) for slider in (self.across, self.down))
        return self.kind.value, (left / 100, top / 100, right / 100, bottom / 100)

    def _changed(self) -> None:
        self.touched = True
        self._draw()

    def _add(self) -> None:
        self.touched = True
        self._pieces.append(self._current)
        self._draw()

    def _restart(self) -> None:
        self._pieces.clear()
        self.across.value = self.down.value = _AT_FIRST
        self._draw()
        self.touched = False

    def _draw(self) -> None:
        buffer = io.BytesIO()
        scale = max(1, round(self._shown / self.picture.width))
        large = overlay(self.picture, self.mask).resize(
            (self.picture.width * scale, self.picture.height * scale), Image.Resampling.NEAREST
        )
        large.save(buffer, "png")
        self._view.value = buffer.getvalue()
        added = f"{len(self._pieces)} added, " if self._pieces else ""
        anew = f"{added}{area(self.mask):.0%} of the picture will be drawn anew"
        self._text.value = f"{anew}:<br><code>{self.calls}</code>"


def _opened(first: int, last: int) -> tuple[int, int]:
    return (first, last) if last > first else (min(first, 99), min(first, 99) + 1)


def _piece(kind: str, size: tuple[int, int], left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = size
    if not (left < right and top < bottom):
        raise ValueError(f"from {left} to {right} across and {top} to {bottom} down there is no area")
    large = Image.new("L", (width * _FINER, height * _FINER))
    sides = [left * width, top * height, right * width, bottom * height]
    corners = [round(side * _FINER) for side in sides]
    # Pillow's last corner is still inside.
    corners[2], corners[3] = max(corners[0], corners[2] - 1), max(corners[1], corners[3] - 1)
    draw = ImageDraw.Draw(large)
    (draw.rectangle if kind == "box" else draw.ellipse)(corners, fill=255)
    return large.reduce(_FINER).point(lambda value: 255 if value > 127 else 0)
