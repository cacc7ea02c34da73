"""Words that nobody has heard before: names, towns and labels. One in five is kept out of all training data."""

from __future__ import annotations

from random import Random
from zlib import crc32

_ONSETS = [*"b d f g h j k l m n p r s t v w z".split() * 3, *"br ch dr fl gr kl kr pl sh sk sn sp st tr th".split()]
_VOWELS = [*"a e i o u".split() * 5, "ai", "ea", "oo"]
_CODAS = [""] * 9 + [*"n r l s m t k".split() * 2, *"x nd rt st ck".split()]
_KEPT_OUT = 5


def is_held_out(word: str) -> bool:
    """Whether an invented word belongs to those that only the evaluation uses, in whatever case it is written."""
    return crc32(word.lower().encode()) % _KEPT_OUT == 0


def invented_word(rng: Random, *, held_out: bool = False) -> str:
    """A pronounceable word of two or three syllables, such as "tarvel": one that training data may use, or one of those
    held out."""
    while True:
        syllables = rng.choice((2, 2, 2, 3))
        word = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + (rng.choice(_CODAS) if i + 1 == syllables or i == 0 else "")
            for i in range(syllables)
        )
        if is_held_out(word) == held_out:
            return word


def invented_name(rng: Random, *, held_out: bool = False) -> str:
    """The same with a capital: a person or a town."""
    return invented_word(rng, held_out=held_out).capitalize()
