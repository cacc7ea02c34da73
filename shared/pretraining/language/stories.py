"""Little stories: a hero with a name, a place, a problem and an end, told by the frames in the folder `frames`."""

from __future__ import annotations

import re
from itertools import zip_longest
from random import Random

from shared.pretraining.language.frames import load
from shared.pretraining.language.lexicon import LEXICON, in_place
from shared.pretraining.language.templates import pick, render, with_articles

_PARTS = {name: groups[0] for name, groups in load("story_parts").items()}
# The commoner plots first, from both files in turn.
PLOTS = tuple(
    plot for pair in zip_longest(load("plots_at_home").values(), load("plots_away").values()) for plot in pair if plot
)

GIRLS, BOYS, ANIMALS = LEXICON["girl"], LEXICON["boy"], LEXICON["animal"]
_PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his"), "it": ("it", "it", "its")}
_KINDS = {
    "she": ("girl", "woman", "old woman", "princess", "queen", "young woman", "witch"),
    "he": ("boy", "man", "old man", "prince", "king", "young man", "giant"),
}
_FEARS = (
    ("the dark", "The dark was soft and quiet."),
    ("deep water", "The water was warm."),
    ("the forest", "The trees stood like old friends."),
    ("high places", "From above the world was beautiful."),
    ("thunder", "The thunder was only a noise."),
    ("the sea", "The sea was calm."),
    ("the night", "The stars gave a little light."),
    ("wolves", "The wolf only wanted some bread."),
)
_WORKS = ("boat", "kite", "cart", "tree house", "flying machine", "bridge", "snowman", "sledge", "clock", "raft")
_NOUNS = tuple(
    dict.fromkeys(
        word.removeprefix("the ")
        for name in ("thing", "treasure", "animal", "pet", "bird", "job", "spot")
        for word in LEXICON[name]
    )
)


class Cast(dict):
    """The slots of one story. Who has been introduced is called by the name after that: `{hero}` is "a shy girl named
    Lily" the first time and "Lily" later, `{friend}` and `{M}` "an old sailor" and "the sailor", `{home}` likewise."""

    def __init__(self, rng: Random):
        super().__init__()
        she = rng.random() < 0.5
        kind, first = _hero(rng, she)
        name = pick(
            rng, LEXICON["petname"] + ((GIRLS if she else BOYS)[:12]) if kind in ANIMALS else GIRLS if she else BOYS
        )
        he, him, his = _PRONOUNS["she" if she else "he"]
        self.update(name=name, N=name, Ns=f"{name}'s", he=he, him=him, his=his, kind=kind, a_hero=first)
        intro, short, pronoun = _friend(rng, name)
        self.update(zip(("mhe", "mhim", "mhis"), _PRONOUNS[pronoun], strict=True))
        settlement = pick(rng, LEXICON["settlement"])
        self.first = {
            "hero": f"{first} {pick(rng, ('named', 'called'))} {name}",
            "friend": intro,
            "home": f"a {pick(rng, LEXICON['size'])} {settlement} {pick(rng, LEXICON['where'])}",
        }
        self.later = {"hero": name, "friend": short, "home": f"the {settlement.split()[-1]}"}
        self.update(dict.fromkeys(("hero", "friend", "home", "M"), ""))
        for slot, list_name, count in (("s", "spot", 3), ("food", "food", 2)):
            self.update({f"{slot}{i}": word for i, word in enumerate(_distinct(rng, LEXICON[list_name], count), 1)})
        self.introduced: set[str] = set()
        self.update({f"in{i}": in_place(self[f"s{i}"]) for i in (1, 2, 3)})
        self["fear"], self["fear_end"] = pick(rng, _FEARS)
        self["work"] = pick(rng, _WORKS)
        self["when"] = render(pick(rng, _PARTS["times"]), rng, {}, LEXICON)

    def __getitem__(self, slot: str) -> str:
        if slot in ("N", "Ns", "he", "him", "his"):
            self.introduced.add("hero")
        role = "friend" if slot == "M" else slot
        if role not in self.first:
            return super().__getitem__(slot)
        known = role in self.introduced
        self.introduced.add(role)
        return (self.later if known else self.first)[role]


def story(rng: Random) -> str:
    """One story of 60 to 250 words, in one to three paragraphs; now and then with a title, or with the wish for it."""
    cast = Cast(rng)
    text = _told(rng, cast)
    draw = rng.random()
    if draw < 0.08:
        return _title(rng, cast) + text
    return _wish(rng, cast, text) + text if draw < 0.38 else text


def _told(rng: Random, cast: Cast) -> str:

    def write(frame: str) -> str:
        return render(frame, rng, cast, LEXICON)

    def known(frames: tuple[str, ...]) -> tuple[str, ...]:
        return frames if "friend" in cast.introduced else tuple(frame for frame in frames if "{M}" not in frame)

    opening = pick(rng, _PARTS["openings"])
    if "{house_tail}" in opening:
        opening = opening.replace("[where|and]{house_tail}", joint := pick(rng, ("where", "and")))
        opening += f" {pick(rng, _PARTS[f'house tails: {joint}'])}."
    sentences = [write(opening)]
    if "hero" not in cast.introduced:
        sentences.append(write("{hero} [lived there|lived nearby|came from {home}|was there too]."))
    traits = list(_PARTS["traits"])
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
        frame = pick(rng, [frame for frame in traits if frame in known(_PARTS["traits"])])
        traits.remove(frame)
        sentences.append(write(frame))
    breaks = [len(sentences)]
    for beat in pick(rng, PLOTS):
        sentences.append(write(pick(rng, beat)))
        if rng.random() < 0.12:
            sentences.append(write(pick(rng, known(_PARTS["scenery"]))))
    breaks.append(len(sentences))
    for _ in range(rng.choice((0, 1, 1, 2))):
        frame = pick(rng, known(_PARTS["endings"]))
        sentences.append(write(frame))
    sentences = list(dict.fromkeys(sentence for sentence in sentences if sentence))
    return _paragraphs(rng, sentences, breaks)


def _title(rng: Random, cast: Cast) -> str:
    thing = pick(rng, LEXICON["thing"])
    title = pick(rng, (f"{cast['name']} and the {thing}", f"The story of {cast['name']}", f"The {thing}", cast["name"]))
    return f"Title: {title}\n\n"


def _wish(rng: Random, cast: Cast, text: str) -> str:
    """What the story is about, said before it: the hero and something that does occur in it."""
    hero = pick(rng, (f"a {cast['kind']}", f"a {cast['kind']} named {cast['name']}", cast["name"]))
    found = [noun for noun in _NOUNS if re.search(rf"\b{noun}\b", text) and noun != cast["kind"]]
    about = f"{hero} and a {rng.choice(found)}" if found and rng.random() < 0.75 else hero
    request = pick(rng, ("Write a story about", "Tell me a story about", "Write a little story about", "A story about"))
    return with_articles(f"{request} {about}.\n\n")


def _paragraphs(rng: Random, sentences: list[str], breaks: list[int]) -> str:
    if rng.random() < 0.6:
        return " ".join(sentences)
    cut = [0, *breaks, len(sentences)]
    parts = (" ".join(sentences[start:end]) for start, end in zip(cut, cut[1:], strict=False))
    return "\n\n".join(part for part in parts if part)


def _hero(rng: Random, she: bool) -> tuple[str, str]:
    """(kind, "a <trait> kind"): half children, the rest grown-ups, people by their work, and animals."""
    kinds = _KINDS["she" if she else "he"]
    draw = rng.random()
    if draw < 0.45:
        kind = kinds[0]
    elif draw < 0.6:
        kind = pick(rng, kinds)
    elif draw < 0.8:
        kind = pick(rng, LEXICON["job"])
    else:
        kind = pick(rng, ANIMALS)
    trait = pick(rng, (*LEXICON["trait"][:10], "little", "young", "poor"))
    if rng.random() < 0.25 or kind.split()[0] in ("old", "young"):
        return kind, f"a {kind}"
    return kind, f"a {trait} {kind}"


def _friend(rng: Random, hero: str) -> tuple[str, str, str]:
    """(as introduced, as named later, pronoun)."""
    draw = rng.random()
    if draw < 0.4:
        she = rng.random() < 0.5
        name = pick(rng, [name for name in (GIRLS if she else BOYS) if name != hero])
        kind = "girl" if she else "boy"
        intro = pick(rng, (f"a {kind} named {name}", f"{name}", f"a {pick(rng, LEXICON['trait'])} {kind} named {name}"))
        return intro, name, "she" if she else "he"
    if draw < 0.8:
        she = rng.random() < 0.5
        who = pick(rng, (*LEXICON["job"], *(("old woman", "old lady") if she else ("old man", "king")) * 3))
        intro = who if who.startswith("old") else f"{pick(rng, ('old', 'young', 'poor', 'tall', 'strange'))} {who}"
        return f"a {intro}", f"the {who}", "she" if she else "he"
    who = pick(rng, (*ANIMALS, *LEXICON["bird"]))
    return f"a {pick(rng, ('small', 'grey', 'black', 'young', 'white', 'clever'))} {who}", f"the {who}", "it"


def _distinct(rng: Random, words: tuple[str, ...], count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        word = pick(rng, words)
        if word not in found:
            found.append(word)
    return found
