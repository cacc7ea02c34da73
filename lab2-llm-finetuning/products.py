"""Products of shops that do not exist: their facts, and checks of what is written about them.

A row of `data/products/*.jsonl` has `prompt` (the facts, up to the word "Description:"), `completion` (a description in
the shop's own voice), `text` (both together) and `facts`. `check_facts` says which given facts a text has and which it
made up, `check_voice` which of a shop's habits it keeps. `data/generate.py` writes the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = ("name", "colour", "material", "country", "price")
LABELS = ("Name", "Colour", "Material", "Made in", "Price")
CUE = "Description:"

COLOURS = tuple("red blue green white black yellow brown grey purple pink".split())
SOFT, HARD = tuple("wool cotton silk leather".split()), tuple("oak glass stone tin clay copper paper".split())
MATERIALS = SOFT + HARD
# What a thing can be made of.
ITEMS = {
    **dict.fromkeys("coat hat scarf bag dress doll umbrella kite".split(), SOFT),
    **dict.fromkeys("lamp chair bowl box cup clock mirror table bench basket drum flute ring necklace".split(), HARD),
}
COUNTRIES = tuple(
    "Peru Japan Norway Italy Spain Kenya Ghana Nepal France Egypt China Canada Mexico Brazil Iceland Finland".split()
)

_VOCABULARY = {word.lower() for word in (*COLOURS, *MATERIALS, *COUNTRIES, *ITEMS)}
_ALTERNATIVES = {"colour": COLOURS, "material": MATERIALS, "country": COUNTRIES}
_SHOPS_CAPITALS = set("Come Our It You Touch Leave Put For Oh The They Somebody I That Give Now".split())


@dataclass(frozen=True)
class Voice:
    """The habits of a shop: how each description begins and ends, who is spoken of, and what is said with the price."""

    opening: str
    persons: tuple[str, ...]
    price: str
    ending: str


OPEN_DOOR = Voice("Come in and look:", ("you", "your", "yours"), "on the counter", "Our door is open.")
GRUMBLE = Voice("Oh, it is you.", ("I", "me"), "if you must", "Now shut the door.")


@dataclass(frozen=True)
class FactCheck:
    """What a text says of a product: the kinds of facts that it has, those that it lacks, and (kind, word) made up."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    invented: tuple[tuple[str, str], ...]


def write_prompt(facts: dict[str, str]) -> str:
    """The facts as the model gets them, one on a line, and the cue after which it writes.

    Raises:
        ValueError: the keys of `facts` are not those of `KINDS`.
    """
    if set(facts) != set(KINDS):
        raise ValueError(f"A product has the facts {', '.join(KINDS)}; these are {', '.join(facts) or 'none'}.")
    return "".join(f"{label}: {facts[kind]}\n" for kind, label in zip(KINDS, LABELS, strict=True)) + CUE


def read_products(path: str | Path) -> list[dict]:
    """The rows of a product file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a row of products; the message says which.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        missing = {"text", "prompt", "completion", "facts"} - set(row if isinstance(row, dict) else ())
        if missing:
            raise ValueError(f"{path}, line {number}: no {', '.join(sorted(missing))}")
        rows.append(row)
    return rows


def check_facts(text: str, facts: dict[str, str]) -> FactCheck:
    """Which of a product's facts stand in `text`, and which facts of the same kinds it made up.

    A fact stands there if its words do, whole and in order; capitals do not matter. Made up is another colour, material
    or country of the shop, another thing than the product, another number, and a capitalised word that the shop does
    not use.
    """
    present = tuple(kind for kind in KINDS if _holds(text, facts[kind]))
    invented = [
        (kind, word)
        for kind, words in _ALTERNATIVES.items()
        for word in words
        if word != facts[kind] and _holds(text, word)
    ]
    name = facts["name"].split()
    invented += [("name", item) for item in ITEMS if item not in name and _holds(text, item)]
    price = facts["price"].split()[0]
    invented += [("price", number) for number in _unique(re.findall(r"\d+", text)) if number != price]
    known = {*name, *_SHOPS_CAPITALS}
    words = _unique(re.findall(r"\b[A-Z][\w'-]+", text))
    invented += [("name", word) for word in words if word not in known and word.lower() not in _VOCABULARY]
    return FactCheck(present, tuple(kind for kind in KINDS if kind not in present), tuple(invented))


def check_voice(text: str, voice: Voice = OPEN_DOOR) -> dict[str, bool]:
    """For each habit of a shop whether `text` keeps it."""
    text = text.strip()
    return {
        f'begins with "{voice.opening}"': text.startswith(voice.opening),
        f'says "{voice.persons[0]}"': any(_holds(text, word) for word in voice.persons),
        f'gives the price "{voice.price}"': voice.price in text,
        f'ends with "{voice.ending}"': text.endswith(voice.ending),
    }


def coverage(checks: Sequence[FactCheck]) -> float:
    """The share of all given facts that the texts have.

    Raises:
        ValueError: there are no checks.
    """
    if not checks:
        raise ValueError("There is nothing to take a share of: no text was checked.")
    return sum(len(check.present) for check in checks) / (len(checks) * len(KINDS))


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def _unique(words: list[str]) -> list[str]:
    return list(dict.fromkeys(words))
