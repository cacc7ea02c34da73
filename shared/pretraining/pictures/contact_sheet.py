"""Pictures in a grid with their captions below them, as one image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP, _FONT_SIZE, _LINE = 10, 12, 15


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 6, side: int = 160, lines: int = 3
) -> Image.Image:
    """A sheet of equally large pictures. Raises ValueError when there are not as many captions, or no picture."""
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions: a sheet needs as many, and some")
    rows = -(-len(pictures) // columns)
    cell = side + lines * _LINE + 6
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, rows * (cell + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for index, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        left, top = _GAP + index % columns * (side + _GAP), _GAP + index // columns * (cell + _GAP)
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        draw.rectangle((left - 1, top - 1, left + side, top + side), outline=(222, 222, 226))
        wrapped = textwrap.wrap(text, round(side / 6.4))[:lines]
        for number, line in enumerate(wrapped):
            draw.text((left, top + side + 4 + number * _LINE), line, fill=(60, 60, 66), font=font)
    return sheet
