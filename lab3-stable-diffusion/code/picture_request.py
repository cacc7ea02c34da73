"""The request that a client sends, checked field by field before the model sees it.

What it carries chooses what happens: a prompt alone makes a picture from text; an image beside it is changed; a mask
says where; "outpaint" extends it; "upscale" enlarges it. Every error is a ValueError, which the inference toolkit
answers as HTTP 400 with the message.
"""

import difflib
import json
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from noise_schedulers import NAMES
from picture_canvas import Canvas, Margins, cover, extended, natural_size
from picture_files import decode_mask, decode_picture
from PIL import Image

Loras = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. Every bound has an environment variable of the same name in capitals.

    `max_pixels` is for one picture before it is enlarged, `max_total_pixels` for all pictures of an answer (SageMaker
    carries a few megabytes), `max_input_pixels` for a picture that is sent.
    """

    max_pixels: int
    max_total_pixels: int = 3 * 1024 * 1024
    max_input_pixels: int = 4096 * 4096
    max_steps: int = 150
    max_images: int = 8


@dataclass(frozen=True)
class Defaults:
    """What a request gets that leaves a setting out. Sizes are in pixels; `scheduler` None is the model's own."""

    guidance_scale: float
    num_inference_steps: int
    width: int
    height: int
    scheduler: str | None = None
    negative_prompt: str = ""

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Abilities:
    """What the loaded model can do: `multiple` divides its sides, `upscale` is its upscaler's factor, if any."""

    multiple: int
    loras: tuple[str, ...] = ()
    upscale: int | None = None
    needs_mask: bool = False


@dataclass(frozen=True)
class PictureRequest:
    """A checked request. `canvas` is None for text-to-image; its picture has the final width and height.

    `lora` holds (name, scale); `preview_every` is 0 where no previews are wanted.
    """

    mode: str
    prompt: str
    negative_prompt: str
    canvas: Canvas | None
    strength: float | None
    guidance_scale: float
    num_inference_steps: int
    scheduler: str | None
    seed: int
    width: int
    height: int
    num_images: int
    lora: Loras
    upscale: int | None
    margins: Margins | None
    stream: bool
    preview_every: int

    @property
    def guided(self) -> bool:
        """Whether each step asks the model twice, with the prompt and with the negative one."""
        return self.guidance_scale > 1

    def settings(self, seed: int | None = None) -> dict:
        """What to send again (with image and mask, if any) for the same; with `seed`, for that one picture."""
        if self.mode == "upscale":
            return {"upscale": self.upscale}
        settings = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "guidance_scale": self.guidance_scale,
            "num_inference_steps": self.num_inference_steps,
            "scheduler": self.scheduler,
            "seed": self.seed if seed is None else seed,
            "num_images": self.num_images if seed is None else 1,
            "width": self.width,
            "height": self.height,
            "strength": self.strength,
            "lora": [{"name": name, "scale": scale} for name, scale in self.lora],
            "upscale": self.upscale,
        }
        if self.margins:
            # The canvas follows from the picture and the margins.
            settings |= {"outpaint": vars(self.margins), "width": None, "height": None}
        return {name: value for name, value in settings.items() if value is not None}


_FIELDS = (
    "prompt", "negative_prompt", "image", "mask", "outpaint", "upscale", "strength", "guidance_scale",
    "num_inference_steps", "scheduler", "seed", "width", "height", "num_images", "lora", "lora_scale", "stream",
    "preview_every",
)  # fmt: skip
_NUMBERS = {
    # name: (smallest, largest, smallest is allowed, meaning)
    "guidance_scale": (0.0, 30.0, True, "1 and less: no guidance"),
    "strength": (0.0, 1.0, False, "1 keeps least of the image"),
    "lora_scale": (-4.0, 4.0, True, "0 is the model without it"),
}
_LONGEST_TEXT = 10_000  # characters
_LARGEST_SEED = 2**63 - 1


def parse_body(body: Any) -> Any:
    """JSON value of a request body given as bytes, str, or already decoded. Raises ValueError if it is no JSON."""
    if not isinstance(body, (bytes, bytearray, str)):
        return body
    if not body.strip():
        raise ValueError('The request body is empty; send JSON such as {"prompt": "a red circle"}.')
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"The request body is not UTF-8 text ({error}); send JSON in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise ValueError("The request body is nested too deeply.") from error


def parse_request(payload: Any, limits: Limits, defaults: Defaults, abilities: Abilities) -> PictureRequest:
    """Check a decoded request body.

    Raises:
        ValueError: names the field, what is wrong with it and what is accepted.
    """
    if not isinstance(payload, dict):
        raise ValueError(f'The request body must be a JSON object with "prompt", not {_kind(payload)}.')
    for name in payload:
        if name not in _FIELDS:
            known = f'{_did_you_mean(name, _FIELDS)} Known: {", ".join(_FIELDS)}.'
            raise ValueError(f'Unknown field "{_cut(name)}".{known}')
    given = {name: value for name, value in payload.items() if value is not None}
    mode = _mode(given)
    if abilities.needs_mask and mode not in ("inpaint", "outpaint", "upscale"):
        raise ValueError('This model only fills in: send "image" with "mask" or "outpaint" beside the prompt.')
    upscale = _upscale(given, abilities)
    margins = _margins(given["outpaint"], abilities) if mode == "outpaint" else None
    steps = _integer(given, "num_inference_steps", 1, limits.max_steps, defaults.num_inference_steps)
    stream = _boolean(given, "stream")
    request = PictureRequest(
        mode=mode,
        prompt=_words(given, "prompt", ""),
        negative_prompt=_words(given, "negative_prompt", defaults.negative_prompt),
        canvas=None,
        strength=_strength(given, mode, steps),
        guidance_scale=_number(given, "guidance_scale", defaults.guidance_scale),
        num_inference_steps=steps,
        scheduler=_scheduler(given, defaults),
        seed=_integer(given, "seed", 0, _LARGEST_SEED, None),
        width=_integer(given, "width", abilities.multiple, None, None),
        height=_integer(given, "height", abilities.multiple, None, None),
        num_images=_integer(given, "num_images", 1, limits.max_images, 1),
        lora=_loras(given, abilities.loras) if mode != "upscale" else (),
        upscale=upscale,
        margins=margins,
        stream=stream,
        preview_every=_integer(given, "preview_every", 0, limits.max_steps, 5 if stream else 0),
    )
    if request.preview_every and not stream:
        raise ValueError('"preview_every" needs "stream": true; previews come while the picture is made.')
    if request.seed is None:
        request = replace(request, seed=random.SystemRandom().randrange(2**32))
    if request.seed + request.num_images - 1 > _LARGEST_SEED:
        raise ValueError(f'"seed" is too large for {request.num_images} pictures, which use seed, seed + 1, ...')
    request = _sized(request, given, limits, defaults, abilities)
    _check_size(request, limits, abilities)
    return request


def _mode(given: dict) -> str:
    if "image" not in given:
        for name in ("mask", "outpaint", "strength"):
            if name in given:
                raise ValueError(f'"{name}" needs an "image" to work on.')
        if "prompt" not in given:
            raise ValueError('The field "prompt" is missing; it says what to draw.')
        return "text-to-image"
    if "mask" in given and "outpaint" in given:
        raise ValueError('The request holds both "mask" and "outpaint"; fill in or extend, one after the other.')
    if "prompt" in given:
        return "inpaint" if "mask" in given else "outpaint" if "outpaint" in given else "image-to-image"
    if "upscale" not in given:
        raise ValueError('"image" needs a "prompt" that says what to draw, or "upscale" to enlarge it.')
    unused = [name for name in given if name not in ("image", "upscale", "stream", "preview_every")]
    if unused:
        raise ValueError(f'"{unused[0]}" needs a "prompt"; to enlarge an image send "image" and "upscale" only.')
    return "upscale"


def _sized(request: PictureRequest, given: dict, limits: Limits, defaults: Defaults, abilities: Abilities):
    """The request with its final width, height and canvas."""
    width, height = request.width, request.height
    if request.mode == "text-to-image":
        return replace(request, width=width or defaults.width, height=height or defaults.height)
    picture = decode_picture(_text(given, "image", ""), "image", limits.max_input_pixels)
    if request.mode == "upscale":
        return replace(request, width=picture.width, height=picture.height, canvas=Canvas(picture))
    if (width is None) != (height is None):
        raise ValueError('Give both "width" and "height" for an image, or neither.')
    if request.margins and width:
        raise ValueError('"width" and "height" follow from the image and "outpaint"; leave them out.')
    fitted = natural_size(picture.size, defaults.area, limits.max_pixels, abilities.multiple)
    size = (width, height) if width else fitted
    added = request.margins or Margins()
    final = size[0] + added.left + added.right, size[1] + added.top + added.bottom
    request = replace(request, width=final[0], height=final[1])
    if final[0] * final[1] > limits.max_pixels:
        return request  # refused by _check_size, before anything is scaled
    canvas = Canvas(cover(picture, size))
    if request.mode == "inpaint":
        mask = decode_mask(_text(given, "mask", ""), "mask", limits.max_input_pixels)
        canvas = replace(canvas, mask=_fitting(mask, picture, size))
    if request.margins:
        canvas = extended(canvas.picture, request.margins)
    return replace(request, canvas=canvas)


def _fitting(mask: Image.Image, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if abs(mask.width * picture.height - mask.height * picture.width) > max(*mask.size, *picture.size):
        raise ValueError(
            f'"mask" has {mask.width} × {mask.height} pixels and "image" {picture.width} × {picture.height}: '
            "the mask must have the proportions of the image."
        )
    mask = cover(mask.resize(picture.size, Image.Resampling.NEAREST), size, Image.Resampling.NEAREST)
    if not mask.getbbox():
        raise ValueError('"mask" is black all over: paint white where the image is to be drawn anew.')
    return mask


def _check_size(request: PictureRequest, limits: Limits, abilities: Abilities) -> None:
    width, height, upscale = request.width, request.height, request.upscale or 1
    if request.mode != "upscale":
        for name, side in (("width", width), ("height", height)):
            if side % abilities.multiple:
                below = side - side % abilities.multiple
                raise ValueError(
                    f'"{name}" must be a multiple of {abilities.multiple}, such as {below} or '
                    f"{below + abilities.multiple}; it is {side}."
                )
        if width * height > limits.max_pixels:
            raise ValueError(
                f"A picture of {width} × {height} is too large: this endpoint draws at most {limits.max_pixels:,} "
                "pixels (width times height)."
            )
    total = width * height * upscale * upscale * request.num_images
    if total > limits.max_total_pixels:
        raise ValueError(
            f"The answer would hold {total:,} pixels; at most {limits.max_total_pixels:,} are sent at once. Ask for "
            "fewer or smaller pictures."
        )


def _upscale(given: dict, abilities: Abilities) -> int | None:
    if "upscale" not in given:
        return None
    if abilities.upscale is None:
        raise ValueError('This endpoint has no upscaler: put one into the folder "upscaler" of the model archive.')
    value = given["upscale"]
    if isinstance(value, bool) or value != abilities.upscale:
        raise ValueError(f'"upscale" must be {abilities.upscale}, the factor of this upscaler, not {_kind(value)}.')
    return abilities.upscale


def _margins(value: Any, abilities: Abilities) -> Margins:
    sides = tuple(vars(Margins()))
    if not isinstance(value, dict):
        raise ValueError(f'"outpaint" must be an object such as {{"left": 64}}, not {_kind(value)}.')
    for name in value:
        if name not in sides:
            raise ValueError(f'Unknown side "{_cut(name)}" in "outpaint". Known: {", ".join(sides)}.')
    margins = Margins(**{name: _integer(value, name, 0, 2**16, 0) for name in sides})
    for name, pixels in vars(margins).items():
        if pixels % abilities.multiple:
            raise ValueError(f'"{name}" in "outpaint" must be a multiple of {abilities.multiple}; it is {pixels}.')
    if not any(vars(margins).values()):
        raise ValueError(f'"outpaint" adds nothing; give pixels for at least one of {", ".join(sides)}.')
    return margins


def _strength(given: dict, mode: str, steps: int) -> float | None:
    if mode in ("text-to-image", "upscale"):
        return None
    strength = _number(given, "strength", 0.8 if mode == "image-to-image" else 1.0)
    if int(steps * strength) < 1:
        raise ValueError(
            f'"strength" {strength:g} of {steps} steps leaves no step to do; raise it to at least {1 / steps:.3g}, '
            'or raise "num_inference_steps".'
        )
    return strength


def _scheduler(given: dict, defaults: Defaults) -> str | None:
    name = given.get("scheduler", defaults.scheduler)
    if name is None or isinstance(name, str) and name in NAMES:
        return name
    if not isinstance(name, str):
        raise ValueError(f'"scheduler" must be a string, not {_kind(name)}.')
    raise ValueError(f'Unknown scheduler "{_cut(name)}".{_did_you_mean(name, NAMES)} Known: {", ".join(NAMES)}.')


def _loras(given: dict, known: tuple[str, ...]) -> Loras:
    default_scale = _number(given, "lora_scale", 1.0)
    value = given.get("lora")
    if value is None:
        if "lora_scale" in given and len(known) != 1:
            raise ValueError(f'"lora_scale" needs "lora", the name of a LoRA. {_loras_here("", known)}')
        return ((known[0], default_scale),) if len(known) == 1 else ()
    entries = value if isinstance(value, list) else [value]
    loras: dict[str, float] = {}
    for entry in entries:
        scale = default_scale
        if isinstance(entry, dict):
            if set(entry) - {"name", "scale"} or "name" not in entry:
                raise ValueError(f'An entry of "lora" must hold "name" and may hold "scale", not {_kind(entry)}.')
            scale = _number({"lora_scale": entry["scale"]} if "scale" in entry else {}, "lora_scale", default_scale)
            entry = entry["name"]
        if not isinstance(entry, str):
            raise ValueError(f'"lora" must be a name, or a list of names or {{"name", "scale"}}, not {_kind(entry)}.')
        if not entry:
            continue
        if entry not in known:
            raise ValueError(f'Unknown LoRA "{_cut(entry)}".{_did_you_mean(entry, known)} {_loras_here(entry, known)}')
        if entry in loras:
            raise ValueError(f'"lora" names "{entry}" twice.')
        loras[entry] = scale
    return tuple(loras.items())


def _loras_here(name: str, known: tuple[str, ...]) -> str:
    if not known:
        return "This endpoint has none: a LoRA lies in the model archive, in the folder lora/NAME."
    return f'This endpoint has: {", ".join(known)}; "" is the model without one.'


def _text(given: dict, name: str, default: str) -> str:
    value = given.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" must be a string, not {_kind(value)}.')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f'"{name}" is not valid Unicode text: {error.reason} at position {error.start}.') from error
    return value


def _words(given: dict, name: str, default: str) -> str:
    text = _text(given, name, default)
    if len(text) > _LONGEST_TEXT:  # counting its tokens would take seconds
        raise ValueError(f'"{name}" has {len(text):,} characters, more than any model reads; send a few sentences.')
    return text


def _boolean(given: dict, name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f'"{name}" must be true or false, not {_kind(value)}.')
    return value


def _integer(given: dict, name: str, low: int, high: int | None, default: int | None) -> int | None:
    if name not in given:
        return default
    value = given[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'"{name}" must be an integer, not {_kind(value)}.')
    if value < low or high is not None and value > high:
        bound = f"at least {low}" if high is None else f"at least {low} and at most {high}"
        raise ValueError(f'"{name}" must be {bound}; it is {_cut(value)}.')
    return value


def _number(given: dict, name: str, default: float) -> float:
    if name not in given:
        return default
    value = given[name]
    low, high, closed, meaning = _NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'"{name}" must be a number ({meaning}), not {_kind(value)}.')
    if not (low <= value if closed else low < value) or not value <= high or not math.isfinite(value):
        bound = "at least" if closed else "greater than"
        raise ValueError(f'"{name}" must be {bound} {low:g} and at most {high:g} ({meaning}); it is {_cut(value)}.')
    return float(value)


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(_cut(name), known, n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def _cut(value: Any) -> str:
    """What a client sent, short enough to say back."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else f"an object ({json.dumps(value)[:60]})"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return f"{names.get(type(value), type(value).__name__)} ({json.dumps(value)[:40]})"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"The request body holds {name}, which JSON does not allow; send a finite number.")
