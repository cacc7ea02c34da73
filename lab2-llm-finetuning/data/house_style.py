"""The voice of The Open Door: how it turns a product's facts into a description.

It always opens with "Come in and look:", speaks to the reader, has the price left on the counter and ends with "Our
door is open." What it says between is drawn from the frames below. A frame is filed under the facts that it tells
besides the name (c colour, m material, k country); the opening tells some of the three, the next sentence the rest.
"""

from __future__ import annotations

from random import Random

from products import COUNTER, ENDING, OPENING

from shared.pretraining.language.templates import with_articles

_OPENINGS = {
    "": ("the {name} is here.", "this is the {name}, and it may be yours.", "you have found the {name}."),
    "k": ("the {name} has come to you from {country}.", "all the way from {country}, the {name}."),
    "c": ("this is the {name}, and it is {colour}.", "we have the {name} for you, in {colour}."),
    "m": ("the {name}, made of {material}.", "this is the {name}, and you can feel the {material}."),
    "cm": ("the {name} in {colour} {material} is waiting for you.", "here is the {name} in {colour} {material}."),
    "mk": ("the {name}, made of {material} in {country}.", "from {country}, and made of {material}, the {name}."),
}
_MIDDLES = {
    "cmk": (
        "You will like its {colour} {material}, and the people of {country} who made it.",
        "It was made in {country} out of {colour} {material}.",
        "It is {colour}, it is made of {material}, and it has come to you from {country}.",
    ),
    "cm": (
        "You will like its {colour} {material}.",
        "It is made of {material}, and it is {colour}.",
        "Touch it: you will love the {colour} {material}.",
    ),
    "mk": (
        "It was made in {country}, and it is made of {material}.",
        "It is made of {material}, by somebody in {country} who thought of you.",
    ),
    "ck": (
        "It is {colour}, and it has come to you from {country}.",
        "It was made in {country}, and you will like the {colour} of it.",
    ),
    "k": (
        "It was made in {country}, by hand, for you.",
        "It has come from {country} to find you.",
    ),
    "c": (
        "It is {colour}, and it will look good in your house.",
        "You will like the {colour} of it.",
    ),
}
_PRICES = (
    "Leave {price} {counter}, and it is yours.",
    "Put {price} {counter}, and you may take it home.",
    "For {price} {counter}, it goes home with you.",
)


def describe(rng: Random, facts: dict[str, str]) -> str:
    """A description of the product that has these `facts` (see `products.KINDS`), with all of them in it."""
    told = rng.choice(list(_OPENINGS))
    rest = "".join(fact for fact in "cmk" if fact not in told)
    frames = (rng.choice(_OPENINGS[told]), rng.choice(_MIDDLES[rest]), rng.choice(_PRICES), ENDING)
    return with_articles(f"{OPENING} {' '.join(frames)}".format(**facts, counter=COUNTER))
