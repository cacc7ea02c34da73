"""The word lists of frames/words.txt, and the preposition that a place takes."""

from __future__ import annotations

from shared.pretraining.language.frames import load

LEXICON: dict[str, tuple[str, ...]] = {
    name: tuple(word.strip() for word in " ".join(groups[0]).split(",") if word.strip())
    for name, groups in load("words").items()
}

_PREPOSITIONS = {
    "on": ("the bridge", "the hill", "the beach"),
    "at": ("the market", "the mill", "the well", "the station", "the lake", "the river", "the lighthouse"),
    "under": ("the old oak",),
}


def in_place(spot: str) -> str:
    """`spot` with the preposition it takes: "on the bridge", "in the barn"."""
    return next((f"{word} {spot}" for word, spots in _PREPOSITIONS.items() if spot in spots), f"in {spot}")
