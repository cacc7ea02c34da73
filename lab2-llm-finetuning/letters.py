"""Letters for notebook 3: the openings that a model continues, and what a letter says, found by plain rules.

A letter is the opening (greeting and first sentence) and what the model wrote after it.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from random import Random
from types import MappingProxyType

from shared.pretraining.language.everyday import everyday
from shared.pretraining.language.lexicon import LEXICON

SPLITS = ("train", "test")
# Openings of the two splits share no name of a person or a thing, and no sentence.
_OPENINGS = {
    "train": (
        "Thank you for the {thing}.",
        "I am writing to you from {home}.",
        "I have strange news.",
        "Your {thing} is here.",
        "We have a new house.",
        "I found your {thing} in the garden.",
        "It is winter here.",
        "How are you?",
        "I met your brother in the market.",
        "My {pet} is ill.",
    ),
    "test": (
        "I was so happy about the {thing}.",
        "I have sad news.",
        "I lost your {thing}.",
        "It is summer here.",
        "We talked about you.",
        "My mother has a new {thing}.",
        "I saw your {pet} at the river.",
        "The shop is closed.",
    ),
}
_HOMES = ("a quiet village on the coast", "an old town by the river", "a big city", "a small farm in the hills")
_CLOSING = re.compile(r"\n\n(Your friend|Love|Best wishes|Yours|See you soon),\n([A-Z][a-z]+)\s*$")

# What a letter says, and the words by which it is found.
_SIGNS = {
    "thanks": r"\bthank you\b|\bso happy about\b",
    "thinks of you": r"\bmiss(?:es)? you\b|\bthink of you\b|\basks? about you\b|\bhow are you\b|\bhope that you\b|"
    r"\bwrite soon\b",
    "invites you": r"\bwill you come\b|\b(?:come and )?visit us\b",
    "promises to come": r"\bi will (?:come home|visit you)\b",
    "good news": r"\b(?:good|great) news\b|\ball is well\b|\bsun is shining\b|\bnew friend\b|\bwell again\b|"
    r"\bfunny as always\b|\bbaked an?\b|\bplay\b",
    "bad news": r"\bill\b|\blost\b|\bsays? no\b|\b(?:sad|strange) news\b|\bcold\b|\braining\b|\bdo not forget me\b",
}
_SIGNS = {name: re.compile(pattern) for name, pattern in _SIGNS.items()}
LONGEST = 45  # words; what goes beyond is "too long"


def openings(split: str, count: int, seed: int = 0) -> list[str]:
    """`count` different openings of letters, each a greeting and a first sentence, for "train" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    part = SPLITS.index(split)
    rng = Random(f"letters/{split}/{seed}")
    names = sorted(LEXICON["girl"] + LEXICON["boy"])[part::2]
    things, pets = (sorted(LEXICON[kind])[part::2] for kind in ("thing", "pet"))
    found: dict[str, None] = {}
    for _ in range(50 * count):
        sentence = rng.choice(_OPENINGS[split])
        sentence = sentence.format(thing=rng.choice(things), pet=rng.choice(pets), home=rng.choice(_HOMES))
        found[f"Dear {rng.choice(names)},\n\n{sentence}"] = None
        if len(found) == count:
            return list(found)
    raise ValueError(f"there are not {count} different openings for {split}")


@cache
def _known_words() -> frozenset[str]:
    rng = Random("the words of letters")
    texts = [everyday(rng) for _ in range(3000)]
    listed = [str(word) for words in LEXICON.values() for word in words]
    opened = [sentence for sentences in _OPENINGS.values() for sentence in sentences]
    return frozenset(word for text in texts + listed + opened for word in _words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


@lru_cache(maxsize=50_000)
def says(letter: str) -> Mapping[str, float]:
    """What a letter says and how it is made: counts of each kind of remark, and of what readers mind.

    `letter` is the whole letter with its opening. What they mind: "not signed" (0 or 1), "broken" (words that no letter
    has, and lines that belong to no letter), "repeats" (runs of three words that were there before), "too long" (words
    beyond `LONGEST`).
    """
    body, signed = letter, _CLOSING.search(letter)
    if signed:
        body = letter[: signed.start()]
    sentences = [
        part.strip().lower() for part in re.split(r"(?<=[.!?])\s+|\n+", body.partition("\n\n")[2]) if part.strip()
    ]
    lowered = " ".join(dict.fromkeys(sentences))
    found = {name: float(len(sign.findall(lowered))) for name, sign in _SIGNS.items()}
    lines = [line for line in body.partition("\n\n")[2].split("\n") if line.strip()]
    known = _known_words()
    found["not signed"] = float(signed is None)
    found["broken"] = float(
        sum(word not in known for word in _words(letter))
        + sum(line.strip()[-1] not in ".!?" for line in lines)
        + max(0, len(lines) - 1)
    )
    words = _words(body)
    runs = list(zip(words, words[1:], words[2:], strict=False))
    found["repeats"] = float(len(runs) - len(set(runs)))
    found["too long"] = float(max(0, len(_words(letter)) - LONGEST))
    return MappingProxyType(found)
