"""Pictures to look at: grids with labels and captions, animations. Labels are text, not pixels.

A picture is a PIL image, an array (height, width) or (height, width, 3) of bytes or of floats from 0 to 1, the bytes of
an image file, base64 of them, or what an endpoint of Lab 3 answers for one: {"image": base64, ...}.
"""

from __future__ import annotations

import base64
import binascii
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from shared.output import Output

# Two pixels of the file for one of the page, for screens of high density.
_DENSITY = 2
_PAGE = 880  # pixels that a row may take
_LARGEST, _SMALLEST = 256, 96
_QUALITY = 92


def as_picture(value: Any) -> Image.Image:
    """`value` (see above) as an RGB image. Raises ValueError when it is no picture."""
    if isinstance(value, Mapping):
        value = value["image"]
    if isinstance(value, str):
        try:
            value = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a text of {len(value)} characters is no base64 of a picture: {error}") from error
    if isinstance(value, bytes):
        value = Image.open(io.BytesIO(value))
    if not isinstance(value, Image.Image):
        array = np.asarray(value)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            raise ValueError(f"an array of shape {array.shape} is no picture: (height, width) or (height, width, 3)")
        if array.dtype.kind == "f":
            array = (array.clip(0, 1) * 255).round()
        value = Image.fromarray(array.astype(np.uint8))
    return value.convert("RGB")


def picture_grid(
    rows: Sequence[Any],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Any] | None = None,
    alt: str = "",
    title: str = "",
    width: int | None = None,
    to_scale: bool = False,
) -> Output:
    """Pictures in rows and columns: `rows` is one row, or a sequence of rows; None leaves a place empty.

    All pictures get one `width` (pixels of the page), or with `to_scale` the widest gets it and the others theirs in
    proportion. `captions`, of the same form as `rows`, stand below single pictures. `alt` says what the whole shows;
    each picture's own alternative text is made of its labels and its caption. Raises ValueError where numbers of labels
    or captions do not fit, and without anything that says what is shown.
    """
    rows, captions = _as_rows(rows), _as_rows(captions or [])
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a grid needs at least one picture")
    _check("row_labels", len(row_labels), len(rows))
    _check("column_labels", len(column_labels), columns)
    _check("rows of captions", len(captions), len(rows))
    if not (alt.strip() or title or row_labels or column_labels or captions):
        raise ValueError("say in alt, or by labels or captions, what the pictures show")
    pictures = [[None if value is None else as_picture(value) for value in row] for row in rows]
    width = width or max(_SMALLEST, min(_LARGEST, (_PAGE - (90 if row_labels else 0)) // columns - 12))
    widest = max(picture.width for row in pictures for picture in row if picture) if to_scale else None

    cell = "style='text-align:center;vertical-align:top;padding:4px;border:0;font-weight:normal'"
    body, words = [], []
    for number, row in enumerate(pictures):
        label = str(row_labels[number]) if row_labels else ""
        cells = [f"<th scope='row' {cell.replace('center', 'right')}>{_label(label)}</th>"] if row_labels else []
        for place in range(columns):
            picture = row[place] if place < len(row) else None
            if picture is None:
                cells.append(f"<td {cell}></td>")
                continue
            column = str(column_labels[place]) if column_labels else ""
            caption = str(captions[number][place] or "") if captions and place < len(captions[number]) else ""
            named = ", ".join(filter(None, (label, column, caption))) or alt or title
            words.append(named)
            shown = round(width * picture.width / widest) if widest else width
            below = f"<div style='font-size:85%'>{html.escape(caption)}</div>" if caption else ""
            # Of the picture's width, so that a long caption is broken instead of pushing the pictures apart.
            block = f"<div style='width:{shown}px'>{image_tag(picture, named, shown)}{below}</div>"
            cells.append(f"<td {cell}>{block}</td>")
        body.append(f"<tr style='background:none'>{''.join(cells)}</tr>")
    head = ""
    if column_labels:
        names = ([""] if row_labels else []) + [str(name) for name in column_labels]
        # As wide as the pictures below, as captions are.
        inner = "<div style='max-width:{}px;margin:auto'>{}</div>"
        head = "".join(f"<th scope='col' {cell}>{inner.format(width, html.escape(name))}</th>" for name in names)
        head = f"<thead><tr>{head}</tr></thead>"
    heading = f"<caption style='text-align:left;font-weight:bold'>{html.escape(title)}</caption>" if title else ""
    label = f" aria-label='{html.escape(alt, quote=True)}'" if alt else ""
    markup = f"<table{label} style='border-collapse:collapse'>{heading}{head}<tbody>{''.join(body)}</tbody></table>"
    whole = ". ".join(filter(None, (title, alt)))
    return Output(markup, f"[{len(words)} pictures: {whole or '; '.join(words)}]")


def animation(pictures: Sequence[Any], alt: str, width: int = 256, milliseconds: int = 150) -> Output:
    """`pictures` one after the other, each for some `milliseconds`, again and again; `alt` says what they show.

    Raises ValueError without an alt, or without pictures.
    """
    if not alt.strip() or not len(pictures):
        raise ValueError("an animation needs pictures, and in alt what they show")
    first, *others = (_fitted(as_picture(picture), width) for picture in pictures)
    buffer = io.BytesIO()
    first.save(buffer, "webp", save_all=True, append_images=others, duration=milliseconds, loop=0, quality=_QUALITY)
    return Output(_tag(buffer.getvalue(), alt, width), f"[animation of {len(pictures)} pictures: {alt}]")


def image_tag(picture: Image.Image, alt: str, width: int) -> str:
    """The HTML of one picture, `width` pixels wide on the page."""
    buffer = io.BytesIO()
    # Lossy, but not to the eye, and a fraction of a PNG's bytes: where a model drew, every pixel differs a little.
    _fitted(picture, width).save(buffer, "webp", quality=_QUALITY, method=5, use_sharp_yuv=True)
    return _tag(buffer.getvalue(), alt, width)


def _tag(data: bytes, alt: str, width: int) -> str:
    source = base64.b64encode(data).decode("ascii")
    edge = "border:1px solid #dddddd"  # a white picture ends somewhere, too
    alt = html.escape(alt, quote=True)
    return f'<img alt="{alt}" width="{width}" src="data:image/webp;base64,{source}" style="{edge}">'


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    """In the pixels that its place on the page can show: large ones smaller, small ones larger with sharp pixels."""
    if picture.width > _DENSITY * width:
        size = _DENSITY * width, max(1, round(_DENSITY * width * picture.height / picture.width))
        return picture.resize(size, Image.Resampling.LANCZOS)
    times = width // picture.width
    if times > 1:
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return picture


def _label(text: str) -> str:
    """A row's label; a long one is broken."""
    label = html.escape(text)
    return f"<div style='width:9em'>{label}</div>" if len(text) > 20 else label


def _as_rows(values: Sequence[Any]) -> list[list[Any]]:
    values = list(values)
    nested = all(isinstance(value, (list, tuple)) for value in values)
    return [list(row) for row in values] if nested else [values]


def _check(what: str, found: int, wanted: int) -> None:
    if found not in (0, wanted):
        raise ValueError(f"{found} {what}, but the grid has {wanted}")
