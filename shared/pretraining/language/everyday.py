"""Short everyday texts: letters, recipes, dialogues, diary entries, notices. Syntax: `templates`."""

from __future__ import annotations

from random import Random

from shared.pretraining.language.frames import load
from shared.pretraining.language.lexicon import LEXICON, in_place
from shared.pretraining.language.templates import expand, pick, with_articles, with_capitals

_FORMS = {
    name: tuple(tuple(frame.replace("\\n", "\n") for frame in group) for group in groups)
    for name, groups in load("everyday").items()
}
_WHOLE = ("dialogues", "notices")


def everyday(rng: Random) -> str:
    """One letter, diary entry, dialogue, recipe or notice."""
    name = pick(rng, ("letter", "diary", "dialogues", "recipe", "notices"))
    form = _FORMS[name]
    parts = pick(rng, form) if name in _WHOLE else tuple(pick(rng, frames) for frames in form)
    names = rng.sample((*LEXICON["girl"], *LEXICON["boy"]), 2)
    spots, foods = rng.sample(LEXICON["spot"], 2), rng.sample(LEXICON["food"], 2)
    slots = {
        "A": names[0], "B": names[1], "s1": spots[0], "s2": spots[1], "food1": foods[0], "food2": foods[1],
        "in1": in_place(spots[0]), "in2": in_place(spots[1]), "he": rng.choice(("he", "she")),
        "home": f"a {pick(rng, LEXICON['size'])} {pick(rng, LEXICON['settlement'])} {pick(rng, LEXICON['where'])}",
    }  # fmt: skip
    text = ""
    for part in parts:
        piece = expand(part, rng, slots, LEXICON)
        text += piece if not text or text.endswith(("\n", " ")) or piece.startswith("\n") or not piece else f" {piece}"
    return with_capitals(with_articles(text.strip()))
