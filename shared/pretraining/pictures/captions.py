"""Captions: the same picture in many words, with more or less of what it shows, and what of it they name."""

from __future__ import annotations

from random import Random

from shared.pretraining.pictures.description import Description, Named, Pair, Scene, Single, Thing
from shared.pretraining.pictures.vocabulary import COLOURS, MASCOT, NEW_SHAPES, PARTS, SHAPES, SKY_PARTS

SIZE_WORDS = {
    "small": ("small", "small", "small", "tiny", "little"),
    "medium": ("medium", "medium", "medium sized"),
    "large": ("large", "large", "large", "big", "huge"),
}
_COLOUR_WORDS = {"gray": ("gray", "gray", "grey")}
_SHAPE_WORDS = {"circle": ("circle",) * 5 + ("disk",), "moon": ("moon",) * 4 + ("crescent",)}
_POSITION_PHRASES = {
    "center": ("in the center", "in the middle", "at the center", "centered"),
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "top left": ("in the top left corner", "at the top left", "in the upper left"),
    "top right": ("in the top right corner", "at the top right", "in the upper right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
}
_BACKGROUND_PHRASES = ("on a {} background",) * 6 + ("on {}", "against a {} background", "with a {} background")
_RELATION_PHRASES = {
    "left of": ("left of", "left of", "to the left of"),
    "right of": ("right of", "right of", "to the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
    "inside": ("inside", "inside", "in"),
}
_GROUND_PHRASES = {
    "grass": ("on grass", "on the grass", "on a green field", "in a meadow"),
    "lake": ("on a lake", "on the water", "by a lake"),
    "desert": ("in the desert", "in a desert", "on sand"),
    "snow": ("in the snow", "on snow", "in a snowy field"),
}
_SHORE_PHRASES = ("by a lake", "at a lake", "behind a lake")
_TIME_PHRASES = {
    "day": ("by day", "during the day", "in daylight"),
    "sunset": ("at sunset", "at sunset", "at dusk"),
    "night": ("at night", "at night", "by night"),
}
_SKY_PHRASES = ("with the {} in the sky", "under the {}", "with the {}")
_OPENINGS = ("a picture of", "a drawing of", "an image of")


def caption(description: Description, rng: Random) -> tuple[str, Named]:
    """A caption of a picture, in lower case, and what it names."""
    text, named = _WRITERS[type(description)](description, rng)
    if rng.random() < 0.1:
        text = f"{rng.choice(_OPENINGS)} {text}"
    return text, named


def words() -> list[str]:
    """Every word that a caption can have, and those of the new shapes and the mascot, sorted."""
    phrases: list[str] = [*COLOURS, "grey", *SHAPES, "disk", "crescent", *NEW_SHAPES, MASCOT]
    phrases += ["a", "an", "the", "and", "of"]
    for choices in (SIZE_WORDS, _POSITION_PHRASES, _RELATION_PHRASES, _GROUND_PHRASES, _TIME_PHRASES):
        phrases += [phrase for group in choices.values() for phrase in group]
    phrases += [*_BACKGROUND_PHRASES, *_SKY_PHRASES, *_SHORE_PHRASES, *_OPENINGS, *PARTS, *SKY_PARTS.values(), "shape"]
    return sorted({word for phrase in phrases for word in phrase.replace("{}", "").split()})


def with_article(noun: str) -> str:
    """The noun phrase with "a" or "an" before it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _single(description: Single, rng: Random) -> tuple[str, Named]:
    noun, thing = _noun(description.thing, rng, size=0.5, colour=0.96)
    place = _position(description.position, rng)
    ground = rng.random() < 0.85
    background = rng.choice(_BACKGROUND_PHRASES).format(_colour(description.background, rng)) if ground else ""
    phrases = [with_article(noun), place, background]
    if background and rng.random() < 0.08:
        phrases = [f"{background},", with_article(noun), place]
    elif background and place and rng.random() < 0.25:
        phrases = [with_article(noun), background, place]
    background = _with_article_inside(background)
    phrases = [_with_article_inside(phrase) for phrase in phrases]
    named = Named(
        "single", things=(thing,), background=description.background if ground else None,
        position=description.position if place else None,
    )  # fmt: skip
    return " ".join(filter(None, phrases)), named


def _pair(description: Pair, rng: Random) -> tuple[str, Named]:
    sized = 0.35
    first, first_named = _noun(description.first, rng, size=sized, colour=0.98)
    second, second_named = _noun(description.second, rng, size=sized, colour=0.98)
    relation = rng.choice(_RELATION_PHRASES[description.relation])
    ground = rng.random() < 0.8
    background = rng.choice(_BACKGROUND_PHRASES).format(_colour(description.background, rng)) if ground else ""
    phrases = [with_article(first), relation, with_article(second), _with_article_inside(background)]
    named = Named(
        "pair", things=(first_named, second_named), relation=description.relation,
        background=description.background if ground else None,
    )  # fmt: skip
    return " ".join(filter(None, phrases)), named


def _scene(description: Scene, rng: Random) -> tuple[str, Named]:
    nouns, parts = [], []
    coloured_parts = zip(description.parts, description.colours, strict=True)
    for part, colour in sorted(coloured_parts, key=lambda pair: pair[0] == "mountain"):
        coloured = colour is not None and rng.random() < 0.6
        nouns.append(with_article(f"{colour} {part}" if coloured else part))
        parts.append((part, colour if coloured else None))
    grounds = _GROUND_PHRASES[description.ground]
    if description.ground == "lake" and "boat" not in description.parts:
        grounds = _SHORE_PHRASES
    ground = rng.choice(grounds) if rng.random() < 0.95 else ""
    time = rng.choice(_TIME_PHRASES[description.time]) if rng.random() < 0.94 else ""
    sky = SKY_PARTS[description.time] if description.sky and rng.random() < 0.8 else None
    above = rng.choice(_SKY_PHRASES).format(sky) if sky else ""
    phrases = [" and ".join(nouns), ground, time, above]
    if time and rng.random() < 0.12:
        phrases = [" and ".join(nouns), time, ground, above]
    named = Named(
        "scene", time=description.time if time else None, ground=description.ground if ground else None,
        parts=tuple(parts), sky=sky,
    )  # fmt: skip
    return " ".join(filter(None, phrases)), named


_WRITERS = {Single: _single, Pair: _pair, Scene: _scene}


def _noun(thing: Thing, rng: Random, *, size: float, colour: float) -> tuple[str, tuple]:
    """The words for a thing, named with these probabilities, and what they name."""
    sized, coloured = rng.random() < size, rng.random() < colour and thing.shape != MASCOT
    found = [rng.choice(SIZE_WORDS[thing.size])] if sized else []
    if coloured:
        found.append(_colour(thing.colour, rng))
    found.append(rng.choice(_SHAPE_WORDS.get(thing.shape, (thing.shape,))))
    return " ".join(found), (thing.size if sized else None, thing.colour if coloured else None, thing.shape)


def _colour(colour: str, rng: Random) -> str:
    return rng.choice(_COLOUR_WORDS.get(colour, (colour,)))


def _position(position: str | None, rng: Random) -> str:
    if position is None or rng.random() > (0.35 if position == "center" else 0.75):
        return ""
    return rng.choice(_POSITION_PHRASES[position])


def _with_article_inside(phrase: str) -> str:
    """ "on a orange background" as "on an orange background"."""
    return phrase.replace(" a orange", " an orange")
