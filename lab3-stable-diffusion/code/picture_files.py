"""Pictures as they travel: base64 text in requests, PNG files with their origin in answers."""

import base64
import binascii
import io
import json
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps, PngImagePlugin

_FORMATS = ("PNG", "JPEG", "WEBP")
# https://cv.iptc.org/newscodes/digitalsourcetype/: how editors and web sites tell generated pictures from photographs.
_SOURCE_TYPES = {
    "text-to-image": "trainedAlgorithmicMedia",
    "image-to-image": "trainedAlgorithmicMedia",
    "inpaint": "compositeWithTrainedAlgorithmicMedia",
    "outpaint": "compositeWithTrainedAlgorithmicMedia",
    "upscale": "algorithmicallyEnhanced",
}
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True)
class Origin:
    """What a picture's file says about where it came from: the model, the mode, and the settings to make it again."""

    model: str
    mode: str
    settings: dict


def decode_picture(text: str, name: str, max_pixels: int) -> Image.Image:
    """A picture of a request, in RGB, upright, on white where it is transparent.

    Args:
        text: base64 of a PNG, JPEG or WebP file, with or without "data:image/png;base64," before it.
        name: the field's name, for the errors.
        max_pixels: width times height at most, checked before anything is unpacked.

    Raises:
        ValueError: for the client; says what is wrong with which field.
    """
    picture = _open(text, name, max_pixels)
    if picture.mode[0] in "IF":
        raise ValueError(f'"{name}" has more than 8 bits per colour; save it as an ordinary 8-bit picture.')
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("RGB")


def decode_mask(text: str, name: str, max_pixels: int) -> Image.Image:
    """A mask of a request, in mode "L": 255 where the picture (brighter than middle grey) is to be drawn anew, else 0.

    Args and errors as for `decode_picture`.
    """
    grey = decode_picture(text, name, max_pixels).convert("L")
    return grey.point(lambda value: 255 if value > 127 else 0)


def _open(text: str, name: str, max_pixels: int) -> Image.Image:
    header, comma, rest = text.partition(",")
    if comma and header.startswith("data:"):
        if not header.endswith(";base64"):
            raise ValueError(f'"{name}" is a data URL that is not in base64: it must begin "data:image/png;base64,".')
        text = rest
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'"{name}" is not base64 ({error}); send base64.b64encode(file).decode().') from error
    if not data:
        raise ValueError(f'"{name}" is empty; send a PNG, JPEG or WebP file in base64.')
    with warnings.catch_warnings():
        # The size is checked here, against a smaller bound than Pillow's.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = picture.size
            if width * height > max_pixels:
                raise _TooLarge(
                    f'"{name}" has {width} × {height} pixels, more than the {max_pixels:,} accepted; scale it down.'
                )
            picture.load()
            return ImageOps.exif_transpose(picture)
        except _TooLarge:
            raise
        except Image.UnidentifiedImageError as error:
            raise ValueError(f'"{name}" is not a picture in PNG, JPEG or WebP.') from error
        except Image.DecompressionBombError as error:
            raise ValueError(f'"{name}" is too large: at most {max_pixels:,} pixels are accepted.') from error
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
            # What Pillow's decoders raise for files that begin well and are damaged further on.
            raise ValueError(f'"{name}" is a damaged picture: {error}.') from error


class _TooLarge(ValueError):
    pass


def encode_png(picture: Image.Image, origin: Origin) -> bytes:
    """The bytes of a PNG file whose text chunks tell the picture's origin."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Source", f"Made by a generative model ({origin.model}), {origin.mode}")
    chunks.add_itxt("Settings", json.dumps(origin.settings, ensure_ascii=False))
    chunks.add_itxt("XML:com.adobe.xmp", _XMP.format(kind=_SOURCE_TYPES[origin.mode]))
    return _png(picture, chunks)


def encode_preview(picture: Image.Image) -> str:
    """A preview as base64 of a PNG."""
    return to_base64(_png(picture, None))


def to_base64(data: bytes) -> str:
    """Bytes as text of JSON."""
    return base64.b64encode(data).decode("ascii")


def _png(picture: Image.Image, chunks: PngImagePlugin.PngInfo | None) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
