"""Default decoders of request bodies and encoders of predictions, by content type."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
from typing import Any

JSON, CSV, NPY, TEXT, ANY = "application/json", "text/csv", "application/x-npy", "text/plain", "*/*"
IMAGES = {f"image/{kind}" for kind in ("jpeg", "png", "tiff", "bmp", "gif", "webp", "x-image")}
AUDIO = {f"audio/{kind}" for kind in ("x-flac", "mpeg", "wave", "ogg", "x-audio")}
DECODED_AS_TEXT = {JSON, CSV}  # Before the handlers see it; any other body reaches them as bytes.
CSV_COLUMNS = ("question", "context", "inputs")


class UnsupportedFormatError(ValueError):
    """No default decoder or encoder for a content type."""

    def __init__(self, content_type: str | None) -> None:
        super().__init__(
            f"Content type {content_type} is not supported by this framework. "
            "Define input_fn to read such a request or output_fn to write such a response in your inference script."
        )


def decode(body: str | bytes, content_type: str | None) -> Any:
    """The request as default handlers take it: mostly a dict with "inputs". Raises ValueError on a bad body."""
    if content_type == JSON:
        return json.loads(body)
    if content_type == CSV:
        return _decode_csv(body)
    if content_type == TEXT:
        return {"inputs": body.decode("utf-8")}
    if content_type == NPY:
        import numpy

        # Unlike the toolkit, no pickles: they would run code of whoever sends the request.
        return numpy.load(io.BytesIO(body), allow_pickle=False)
    if content_type in IMAGES:
        from PIL import Image

        return {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
    if content_type in AUDIO:
        return {"inputs": bytes(body)}
    raise UnsupportedFormatError(content_type)


def _decode_csv(text: str) -> dict[str, Any]:
    first_line = text.split("\n", 1)[0].lower()
    if not any(name in first_line for name in CSV_COLUMNS):
        raise ValueError(
            "You need to provide a CSV with a header line that names its columns "
            f"({', '.join(CSV_COLUMNS)}) to use the default handler."
        )
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise ValueError("The CSV has a header line but no rows.")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


def encode(prediction: Any, accept: str) -> str | bytes:
    """The response body for `accept`. Raises ValueError or TypeError for what cannot be written so."""
    if accept == JSON:
        return json.dumps(prediction, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    if accept == CSV:
        return _encode_csv(prediction)
    if accept == TEXT:
        return prediction if isinstance(prediction, str | bytes) else encode(prediction, JSON)
    if accept == NPY:
        import numpy

        buffer = io.BytesIO()
        numpy.save(buffer, prediction, allow_pickle=False)
        return buffer.getvalue()
    if accept in IMAGES:
        kind = accept.partition("/")[2].upper()
        return _encode_image(prediction, "PNG" if kind == "X-IMAGE" else kind)
    raise UnsupportedFormatError(accept)


def _encode_csv(prediction: Any) -> str:
    rows = prediction if isinstance(prediction, list) else list(prediction)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"Only a list of records can be written as {CSV}.")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _encode_image(image: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """What JSON has no type for: arrays, tensors and their scalars, times, images (as base64 PNG)."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return str(value)
    if hasattr(value, "save") and hasattr(value, "convert"):
        return base64.b64encode(_encode_image(value, "PNG")).decode()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
