"""The types of the script's flags: each refuses what it cannot be, in words that name the limits."""

import argparse
import math
from pathlib import Path


def whole(low: int, high: int | None = None):
    """A whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number != int(number) or number < low or (high is not None and number > high):
            limits = f"from {low} to {high}" if high is not None else f"of {low} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(number)

    return read


def real(low: float, high: float | None = None, above: bool = False):
    """A number from `low` (with `above`: larger than it) to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (above and value == low) or (high is not None and value > high):
            limits = f"{'above' if above else 'from'} {low}" + ("" if high is None else f", {high} at most")
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return read


def truth(text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def words(text: str) -> str:
    """Any text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty: leave the flag away instead")
    return text.strip()


def one_word(text: str) -> str:
    """A text without blanks."""
    text = words(text)
    if len(text.split()) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than one word")
    return text


def several(text: str) -> list[str]:
    """Texts with | between them."""
    found = [part.strip() for part in words(text).split("|")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty part: write texts with one | between two of them")
    return found


def folder_name(text: str) -> str:
    """A name that is fit for a folder."""
    if not text or not all(letter.isalnum() or letter in "-_." for letter in text) or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder's name of letters, digits, '-', '_' and '.'")
    return text


def existing(text: str) -> Path:
    """A path where there is something."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file or folder {text}")
    return path


def existing_folder(text: str) -> Path:
    """The path of a folder."""
    path = existing(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file: name the folder that the pictures lie in")
    return path
