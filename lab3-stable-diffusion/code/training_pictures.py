"""Pictures with captions, each opened once before anything else is loaded, and cut to squares; prompts to draw."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from training_failure import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
METADATA = "metadata.jsonl"
MOST_PIXELS = 100_000_000  # a larger picture is a mistake or an attack
# Captions of a new word where there are none: what textual inversion is to learn is what they have in common.
WORD_PROMPTS = ("a picture of {}", "a drawing of {}", "an image of {}")


@dataclass(frozen=True)
class TrainingPicture:
    """A picture's file, what it shows in words, and its size (width, height) in pixels."""

    path: Path
    caption: str
    size: tuple[int, int]


def read_pictures(folder: Path, *, prompts: list[str] | None, channel: str) -> tuple[list[TrainingPicture], int]:
    """The pictures in `folder`, and how many files in it are not used.

    With `prompts` they are the captions, in turn, whatever metadata.jsonl says; else metadata.jsonl must give a caption
    (`text`) to each picture (`file_name`). Raises InputError that names the first file or line that is wrong.
    """
    metadata = folder / METADATA
    if metadata.is_file():
        named = _read_metadata(metadata, captions=prompts is None)
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        named = [(path, "") for path in paths]
    if not named:
        raise InputError(f"the {channel} channel {folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    if prompts is None and not metadata.is_file():
        instead = "--instance_prompt" if channel == "train" else "--class_prompt"
        raise InputError(
            f"the pictures in the {channel} channel have no captions: put a {METADATA} beside them with a line "
            f'{{"file_name": "1.png", "text": "what it shows"}} for each, or give one caption for all by {instead}'
        )
    found = []
    for number, (path, caption) in enumerate(named):
        found.append(TrainingPicture(path, prompts[number % len(prompts)] if prompts else caption, _check(path)))
    used = {picture.path for picture in found} | {metadata}
    return found, sum(path.is_file() and path not in used for path in folder.rglob("*"))


def read_evaluation(path: Path) -> list[str]:
    """The prompts of the evaluation channel: a file of JSON lines with `prompt`, or the only such file in a folder.

    Raises InputError that names the line that is wrong.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if len(files) != 1:
        raise InputError(f"the evaluation channel {path} should hold one .jsonl file, and holds {len(files)}")
    prompts = []
    for number, line in enumerate(files[0].read_text(encoding="utf-8").splitlines(), 1):
        try:
            prompt = json.loads(line)["prompt"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f'{files[0].name}, line {number} is not like {{"prompt": "a red star"}}: {error}'
            ) from error
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{files[0].name}, line {number}: the prompt is no text")
        prompts.append(prompt.strip())
    if not prompts:
        raise InputError(f"{files[0].name} holds no prompts")
    return prompts


def square(picture: TrainingPicture, resolution: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The middle of a picture, `resolution` × `resolution` × 3 (uint8), and where it was cut (top, left).

    What is transparent becomes white.
    """
    with Image.open(picture.path) as opened:
        image = _upright_rgb(opened)
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = (height - resolution) // 2, (width - resolution) // 2
    return np.asarray(image.crop((left, top, left + resolution, top + resolution))), (top, left)


def _read_metadata(path: Path, *, captions: bool) -> list[tuple[Path, str]]:
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(f'{where} names no picture: it should be like {{"file_name": "1.png", "text": "a dog"}}')
        picture = (path.parent / name).resolve()
        if not picture.is_relative_to(path.parent.resolve()) or not picture.is_file():
            raise InputError(f"{where}: there is no picture {name} in the folder of {path.name}")
        caption = row.get("text")
        if captions and (not isinstance(caption, str) or not caption.strip()):
            raise InputError(f"{where}: {name} has no caption: give it a text, or all pictures one by a prompt's flag")
        found.append((path.parent / name, caption.strip() if captions else ""))
    return found


def _check(path: Path) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise InputError(
                        f"{path.name} has {image.width} × {image.height} pixels, more than {MOST_PIXELS:,}: shrink it"
                    )
                return _upright_rgb(image).size
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} is no picture that can be read: {error}. Take it out or save it anew") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image.copy()
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
