"""Frames with some of their words exchanged, so that a model learns to read a sentence by what is left of it."""

from __future__ import annotations

import re
from random import Random

from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.words import invented_word

# A word that is no part of a slot, a list or a choice of the template language.
_PLAIN = re.compile(r"(?<![\w{<\[|:'])[A-Za-z]{2,}(?![\w}>\]|'])")
_KEPT = re.compile(r"\{\w+\}|<[^>]*>|\[[^\]]*\]")
# Nothing that praises or blames.
_OTHERS = sorted(
    {
        word
        for name in ("thing", "animal", "spot", "hobby", "job", "weather", "path", "where", "went")
        for entry in LEXICON[name]
        for word in entry.split()
    }
)


def worn(rng: Random, frame: str, share: float = 0.3) -> str:
    """`frame` with each of its own words exchanged at the probability `share`, for an invented or a known word."""
    parts, end = [], 0
    for kept in _KEPT.finditer(frame):
        parts += [_PLAIN.sub(lambda word: _other(rng, word[0], share), frame[end : kept.start()]), kept[0]]
        end = kept.end()
    return "".join(parts) + _PLAIN.sub(lambda word: _other(rng, word[0], share), frame[end:])


def _other(rng: Random, word: str, share: float) -> str:
    if rng.random() >= share:
        return word
    other = invented_word(rng) if rng.random() < 0.6 else rng.choice(_OTHERS)
    return other.capitalize() if word[0].isupper() else other
