"""What the handlers refuse, and with which words; broken and hostile pictures; the mark and the geometry of editing."""

import base64
import io
import json
import struct
import sys
import zlib

import numpy as np
import pytest
from lab3_handlers import inference
from PIL import Image
from tiny_pipelines import as_base64

# Loaded by the handlers.
picture_request, picture_files, picture_canvas, watermark = (
    sys.modules[name] for name in ("picture_request", "picture_files", "picture_canvas", "watermark")
)
LIMITS = picture_request.Limits(max_pixels=128 * 128, max_input_pixels=512 * 512, max_total_pixels=6 * 128 * 128)
DEFAULTS = picture_request.Defaults(guidance_scale=4.0, num_inference_steps=20, width=64, height=64)
ABILITIES = picture_request.Abilities(multiple=8, loras=("star", "zobi"), upscale=4)
GREY = as_base64(Image.new("RGB", (64, 64), "grey"))
WHITE = as_base64(Image.new("L", (64, 64), 255))


def parse(payload, abilities=ABILITIES):
    return picture_request.parse_request(payload, LIMITS, DEFAULTS, abilities)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ([], ["object", '"prompt"', "a list"]),
        (None, ["object", "null"]),
        ({}, ['"prompt" is missing']),
        ({"inputs": "a"}, ['"inputs"', "Known: prompt"]),
        ({"prompt": "a", "step": 3}, ['"step"', "Did you mean"]),
        ({"prompt": 5}, ['"prompt" must be a string', "an integer (5)"]),
        ({"prompt": "\ud800"}, ["not valid Unicode"]),
        ({"prompt": "a", "negative_prompt": ["b"]}, ['"negative_prompt" must be a string', "a list"]),
        ({"prompt": "a", "width": 60}, ['"width" must be a multiple of 8', "56 or 64", "it is 60"]),
        ({"prompt": "a", "width": 4}, ['"width" must be at least 8']),
        ({"prompt": "a", "height": 64.5}, ['"height" must be an integer']),
        ({"prompt": "a", "width": 136, "height": 128}, ["136 × 128 is too large", "16,384"]),
        ({"prompt": "a", "width": 10**9, "height": 10**9}, ["too large"]),
        ({"prompt": "a", "num_images": 7, "width": 128, "height": 128}, ["114,688 pixels", "fewer or smaller"]),
        ({"prompt": "a", "num_images": 2, "upscale": 4}, ["131,072 pixels"]),
        ({"prompt": "a", "num_images": 0}, ["at least 1 and at most 8"]),
        ({"prompt": "a", "num_inference_steps": 151}, ["at most 150"]),
        ({"prompt": "a", "num_inference_steps": True}, ["integer", "a boolean (true)"]),
        ({"prompt": "a", "guidance_scale": -1}, ['"guidance_scale" must be at least 0', "no guidance"]),
        ({"prompt": "a", "guidance_scale": "4"}, ["number", 'a string ("4")']),
        ({"prompt": "a", "guidance_scale": float("nan")}, ["at most 30"]),
        ({"prompt": "a", "scheduler": "euler_b"}, ["Unknown scheduler", 'Did you mean "euler', "unipc"]),
        ({"prompt": "a", "x" * 100_000: 1}, ["Unknown field", "xxx..."]),
        ({"prompt": "a", "scheduler": "x" * 100_000}, ["Unknown scheduler", "xxx..."]),
        ({"prompt": "a" * 20_000}, ['"prompt" has 20,000 characters']),
        ({"prompt": "a", "seed": 10**400}, ["at most", "000..."]),
        ({"prompt": "a", "scheduler": 1}, ['"scheduler" must be a string']),
        ({"prompt": "a", "seed": -1}, ["at least 0"]),
        ({"prompt": "a", "seed": 2**63 - 1, "num_images": 2}, ['"seed" is too large']),
        ({"prompt": "a", "stream": "yes"}, ['"stream" must be true or false']),
        ({"prompt": "a", "preview_every": 2}, ['"preview_every" needs "stream"']),
        ({"prompt": "a", "mask": WHITE}, ['"mask" needs an "image"']),
        ({"prompt": "a", "outpaint": {"left": 8}}, ['"outpaint" needs an "image"']),
        ({"prompt": "a", "strength": 0.5}, ['"strength" needs an "image"']),
        ({"image": GREY}, ['"prompt"', '"upscale" to enlarge']),
        ({"image": GREY, "upscale": 4, "seed": 1}, ['"seed" needs a "prompt"']),
        ({"image": GREY, "upscale": 2}, ['"upscale" must be 4']),
        ({"image": GREY, "upscale": True}, ['"upscale" must be 4', "boolean"]),
        ({"image": as_base64(Image.new("RGB", (128, 128))), "upscale": 4}, ["262,144 pixels"]),
        ({"prompt": "a", "image": GREY, "strength": 0}, ["greater than 0"]),
        ({"prompt": "a", "image": GREY, "strength": 1.1}, ["at most 1"]),
        ({"prompt": "a", "image": GREY, "strength": 0.01}, ["leaves no step", "at least 0.05"]),
        ({"prompt": "a", "image": GREY, "width": 64}, ['both "width" and "height"']),
        ({"prompt": "a", "image": GREY, "mask": WHITE, "outpaint": {"left": 8}}, ['both "mask" and "outpaint"']),
        ({"prompt": "a", "image": GREY, "mask": as_base64(Image.new("L", (64, 64)))}, ['"mask" is black all over']),
        ({"prompt": "a", "image": GREY, "mask": as_base64(Image.new("L", (64, 32), 255))}, ["64 × 32", "64 × 64"]),
        ({"prompt": "a", "image": GREY, "outpaint": 8}, ['"outpaint" must be an object']),
        ({"prompt": "a", "image": GREY, "outpaint": {"up": 8}}, ['Unknown side "up"', "top"]),
        ({"prompt": "a", "image": GREY, "outpaint": {"top": 9}}, ["multiple of 8; it is 9"]),
        ({"prompt": "a", "image": GREY, "outpaint": {"top": 0}}, ["adds nothing"]),
        ({"prompt": "a", "image": GREY, "outpaint": {"top": 65536}}, ["too large"]),
        ({"prompt": "a", "image": GREY, "outpaint": {"top": 8}, "width": 64, "height": 64}, ["leave them out"]),
        ({"prompt": "a", "lora": "stars"}, ['Unknown LoRA "stars"', 'Did you mean "star"?', "star, zobi"]),
        ({"prompt": "a", "lora": ["star", "star"]}, ['names "star" twice']),
        ({"prompt": "a", "lora": 3}, ['"lora" must be a name']),
        ({"prompt": "a", "lora": [{"scale": 1}]}, ['must hold "name"']),
        ({"prompt": "a", "lora": [{"name": "star", "scale": 9}]}, ["at most 4"]),
        ({"prompt": "a", "lora_scale": 1}, ['"lora_scale" needs "lora"']),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_the_reason(payload, words):
    with pytest.raises(ValueError) as refusal:
        parse(payload)
    for word in words:
        assert word in str(refusal.value)
    assert len(str(refusal.value)) < 500, "what was sent is not said back at any length"


def test_what_the_endpoint_has_not_is_said():
    poor = picture_request.Abilities(multiple=8)
    with pytest.raises(ValueError, match="has no upscaler"):
        parse({"prompt": "a", "upscale": 4}, poor)
    with pytest.raises(ValueError, match="has none: a LoRA lies in the model archive"):
        parse({"prompt": "a", "lora": "star"}, poor)


def test_null_is_as_if_left_out():
    request = parse({"prompt": "a", "seed": 3, "width": None, "image": None, "lora": None, "strength": None})
    assert request == parse({"prompt": "a", "seed": 3})
    assert (request.mode, request.width, request.guidance_scale, request.lora) == ("text-to-image", 64, 4.0, ())


def test_the_only_lora_is_the_default():
    one = picture_request.Abilities(multiple=8, loras=("star",))
    assert parse({"prompt": "a"}, one).lora == (("star", 1.0),)
    assert parse({"prompt": "a", "lora_scale": 0.5}, one).lora == (("star", 0.5),)
    assert parse({"prompt": "a", "lora": ""}, one).lora == ()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", '{"seed": NaN}', "[" * 100_000])
def test_bodies_that_are_no_json_are_refused(body):
    with pytest.raises(ValueError, match="request body"):
        inference.input_fn(body, "application/json")
    with pytest.raises(ValueError, match='"image/png" is not supported'):
        inference.input_fn(body, "image/png")


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG file that says it has a size, whatever it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def whole_file(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return base64.b64decode(as_base64(Image.fromarray(noise), kind))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("not base64!", "not base64"),
        (encoded(b"hello"), "not a picture in PNG, JPEG or WebP"),
        (as_base64(Image.new("RGB", (8, 8)), "BMP"), "not a picture in PNG, JPEG or WebP"),
        (as_base64(Image.new("RGB", (8, 8)), "GIF"), "not a picture in PNG, JPEG or WebP"),
        ("data:image/png,abc", "data URL that is not in base64"),
        (encoded(whole_file("PNG")[:2000]), "damaged picture"),
        (encoded(whole_file("JPEG")[:1000]), "damaged picture"),
        (encoded(whole_file("WEBP")[:500]), "picture"),
        (encoded(png(50_000, 50_000, b"")), "too large: at most 262,144 pixels"),
        (encoded(png(400, 400, b"\0" * 100)), "damaged picture"),
        (as_base64(Image.new("RGB", (1024, 512))), "1024 × 512 pixels, more than the 262,144"),
        (as_base64(Image.fromarray(np.zeros((8, 8), np.uint16))), "more than 8 bits"),
    ],
)
def test_broken_and_hostile_pictures_are_refused(text, words):
    for field in ("image", "mask"):
        payload = {"prompt": "a", "image": GREY, "mask": WHITE} | {field: text}
        with pytest.raises(ValueError, match=f'"{field}".*{words}'):
            parse(payload)


def test_damaged_bytes_anywhere_never_raise_anything_else():
    generator = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = bytearray(whole_file(kind))
        for _ in range(60):
            damaged = bytearray(whole)
            for place in generator.integers(0, len(whole), 6):
                damaged[place] = generator.integers(0, 256)
            try:
                picture_files.decode_picture(encoded(bytes(damaged)), "image", 10**6)
            except ValueError as error:
                assert '"image"' in str(error)


def test_pictures_arrive_upright_on_white_and_in_rgb():
    buffer = io.BytesIO()
    turned = Image.new("RGB", (16, 8), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # "rotate me by 90 degrees"
    turned.save(buffer, "JPEG", exif=exif)
    text = "data:image/jpeg;base64," + encoded(buffer.getvalue())
    assert picture_files.decode_picture(text, "image", 1000).size == (8, 16)
    clear = picture_files.decode_picture(as_base64(Image.new("RGBA", (8, 8), (255, 0, 0, 0))), "image", 1000)
    assert clear.mode == "RGB" and clear.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("RGB", (8, 8), "blue").convert("P")
    assert picture_files.decode_picture(as_base64(palette), "image", 1000).getpixel((0, 0)) == (0, 0, 255)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    mask = picture_files.decode_mask(as_base64(ramp), "mask", 1000)
    assert (np.asarray(mask).ravel() == np.where(np.arange(256) > 127, 255, 0)).all()


def test_a_mask_of_another_resolution_is_scaled():
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    request = parse({"prompt": "a", "image": GREY, "mask": as_base64(mask)})
    assert request.mode == "inpaint" and request.canvas.mask.size == (64, 64)
    assert np.asarray(request.canvas.mask)[:, :32].all() and not np.asarray(request.canvas.mask)[:, 32:].any()


def test_a_picture_of_other_proportions_is_cut_evenly():
    wide = Image.new("RGB", (128, 64), "blue")
    wide.paste("red", (32, 0, 96, 64))
    square = picture_canvas.cover(wide, (32, 32))
    assert square.size == (32, 32)
    assert np.asarray(square)[..., 0].min() > 230  # at the cut, a little of the blue beside it


def test_extended_pictures_continue_their_edge():
    canvas = picture_canvas.extended(Image.new("RGB", (16, 8), "red"), picture_canvas.Margins(left=8, top=16))
    assert canvas.picture.size == (24, 24) and canvas.picture.getpixel((0, 0)) == (255, 0, 0)
    mask = np.asarray(canvas.mask)
    assert not mask[16:, 8:].any() and mask[:16].all() and mask[:, :8].all()


def test_every_latent_that_touches_the_mask_is_drawn_anew():
    mask = Image.new("L", (32, 32))
    mask.putpixel((8, 31), 255)
    latent = picture_canvas.latent_mask(mask, 8)
    assert latent.shape == (1, 1, 4, 4) and latent.sum() == 1 and latent[0, 0, 3, 1] == 1


def test_settings_of_an_edit_are_a_request_again():
    payload = {"prompt": "a", "image": GREY, "outpaint": {"right": 8}, "seed": 1, "lora": "star", "stream": True}
    request = parse(payload)
    again = parse(request.settings() | {"image": GREY})
    assert again.settings() == request.settings() and (again.width, again.height) == (72, 64)
    assert json.loads(json.dumps(request.settings())) == request.settings()


def marked(kind: str):
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    plain = {
        "smooth": coarse.resize((320, 256), Image.Resampling.BICUBIC),
        "flat": Image.new("RGB", (256, 256), "white"),
        "noise": Image.fromarray(generator.integers(0, 256, (256, 300, 3), dtype=np.uint8)),
    }[kind]
    return plain, watermark.add_watermark(plain)


@pytest.mark.parametrize("kind", ["smooth", "flat", "noise"])
def test_the_mark_is_found_after_saving_and_is_hardly_there(kind):
    plain, picture = marked(kind)
    assert not watermark.has_watermark(plain) and watermark.has_watermark(picture)
    difference = abs(np.asarray(picture, np.int16) - np.asarray(plain, np.int16))
    assert difference.max() <= 8 and difference.mean() < 3
    for file, quality in (("PNG", None), ("JPEG", 90), ("JPEG", 75)):
        buffer = io.BytesIO()
        picture.save(buffer, file, quality=quality)
        assert watermark.has_watermark(Image.open(buffer)), (file, quality)
    assert watermark.has_watermark(picture.crop((0, 0, 250, 250)))
    assert not watermark.has_watermark(picture.resize((220, 200)))


def test_small_pictures_are_not_marked():
    small = Image.new("RGB", (256, 255), "red")
    assert watermark.add_watermark(small) is small
    assert not watermark.has_watermark(Image.new("RGB", (8, 8)))
