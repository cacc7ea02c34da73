"""How a shop turns a product's facts into a description, in a voice of its own.

What always comes back, such as the first words and the last, is the shop's `Voice` (in `products.py`). What it says
between is drawn from the frames below. A frame is filed under the facts that it tells besides the name (c colour,
m material, k country); the opening tells some of the three, the next sentence the rest.
"""

from __future__ import annotations

from random import Random

from products import GRUMBLE, OPEN_DOOR, Voice

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
    "Leave {price} on the counter, and it is yours.",
    "Put {price} on the counter, and you may take it home.",
    "For {price} on the counter, it goes home with you.",
)

_GRUMBLE_OPENINGS = {
    "": ("The {name}, I suppose.", "I have the {name} here."),
    "k": ("They sent me the {name} from {country}.", "The {name} has come from {country}, and I carried it."),
    "c": ("The {name} is {colour}, as I told you.", "I have the {name} in {colour}."),
    "m": ("The {name} is only {material}.", "I have the {name}, made of {material}."),
    "cm": ("The {name} is {colour} {material}, and I did not ask for it.", "I have the {name} in {colour} {material}."),
    "mk": ("Somebody in {country} made the {name} out of {material}.", "The {name} is {material}, from {country}."),
}
_GRUMBLE_MIDDLES = {
    "cmk": (
        "It is {colour} {material} from {country}, and I have to dust it.",
        "It is {colour}, it is {material}, and they made it in {country} without asking me.",
    ),
    "cm": ("It is {colour} {material}, and I have to dust it.", "It is made of {material}, and it is {colour}."),
    "mk": ("It is made of {material}, and I waited for it to come from {country}.", "It is {material} from {country}."),
    "ck": (
        "It is {colour}, and I had to send to {country} for it.",
        "It came from {country}, in {colour}.",
    ),
    "k": ("It came from {country}, and nobody helped me.", "It was made in {country}, and I paid for the ship."),
    "c": ("It is {colour}, and I did not choose that.", "It came in {colour}."),
}
_GRUMBLE_PRICES = (
    "That is {price}, if you must, and give it to me now.",
    "Give me {price}, if you must have it.",
    "I want {price} for it, if you must have it.",
)

_FRAMES = {
    OPEN_DOOR: (_OPENINGS, _MIDDLES, _PRICES),
    GRUMBLE: (_GRUMBLE_OPENINGS, _GRUMBLE_MIDDLES, _GRUMBLE_PRICES),
}


def describe(rng: Random, facts: dict[str, str], voice: Voice = OPEN_DOOR) -> str:
    """A description of the product that has these `facts` (see `products.KINDS`), with all of them in it."""
    openings, middles, prices = _FRAMES[voice]
    told = rng.choice(list(openings))
    rest = "".join(fact for fact in "cmk" if fact not in told)
    frames = (voice.opening, rng.choice(openings[told]), rng.choice(middles[rest]), rng.choice(prices), voice.ending)
    return with_articles(" ".join(frames).format(**facts))
