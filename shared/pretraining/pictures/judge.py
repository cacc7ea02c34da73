"""Does a picture show what a caption names? Every attribute by itself, and all at once."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from shared.pretraining.pictures.description import Named
from shared.pretraining.pictures.reading import Seen, SeenThing, read
from shared.pretraining.pictures.scene_judge import judge_scene
from shared.pretraining.pictures.vocabulary import POSITIONS

# A shape counts when the best template overlaps at least so much. True ones reach 0.9, lumps 0.7.
LEAST_OVERLAP = 0.8
# Beyond this, a centre is left, right, above or below the middle of the picture.
_OFF_CENTRE = 0.085


@dataclass(frozen=True)
class Verdict:
    """What is right, by attribute. `right` is True when all of it is."""

    attributes: dict[str, bool]

    @property
    def right(self) -> bool:
        return all(self.attributes.values())


def judge(picture: Image.Image, named: Named) -> Verdict:
    """Compare a picture with what a caption names.

    Attributes: `count` (as many things as named), `shape`, `colour`, `size`, `background`, `position`, `relation`; of a
    scene `time`, `ground`, `parts`, `colour`, `sky`. What the caption leaves open has no entry. Raises ValueError for a
    picture that is too small.
    """
    if named.kind == "scene":
        return Verdict(judge_scene(picture, named))
    seen = read(picture)
    attributes = {"count": len(seen.things) == len(named.things)}
    best = max(
        (_compare(order, named) for order in _orders(seen, len(named.things))), key=lambda found: sum(found.values())
    )
    attributes |= best
    if named.background:
        attributes["background"] = seen.background == named.background
    return Verdict(attributes)


def position_of(centre: tuple[float, float]) -> str:
    """The named position of a centre (shares of the side)."""
    signs = tuple(0 if abs(value - 0.5) < _OFF_CENTRE else 1 if value > 0.5 else -1 for value in centre)
    return next(name for name, directions in POSITIONS.items() if directions == signs)


def relation_of(first: SeenThing, second: SeenThing, seen: Seen) -> str:
    """How the first thing lies to the second: inside, or the direction in which their centres are further apart."""
    if first.inside is not None and seen.things[first.inside] is second:
        return "inside"
    across, down = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def _orders(seen: Seen, count: int) -> list[tuple[Seen, tuple[SeenThing, ...]]]:
    """The ways to match the largest things seen with those named."""
    things = seen.things[:count]
    orders = [things] if count < 2 else [things, things[::-1]]
    return [(seen, order) for order in orders]


def _compare(order: tuple[Seen, tuple[SeenThing, ...]], named: Named) -> dict[str, bool]:
    seen, things = order
    complete = len(things) == len(named.things)
    pairs = list(zip(things, named.things, strict=False))
    found = {
        "shape": complete
        and all(thing.shape == shape and thing.overlap >= LEAST_OVERLAP for thing, (_, _, shape) in pairs)
    }
    if any(colour for _, colour, _ in named.things):
        found["colour"] = complete and all(colour in (None, thing.colour) for thing, (_, colour, _) in pairs)
    if any(size for size, _, _ in named.things):
        found["size"] = complete and all(size in (None, thing.size) for thing, (size, _, _) in pairs)
    if named.position:
        found["position"] = complete and position_of(things[0].centre) == named.position
    if named.relation:
        found["relation"] = complete and relation_of(*things, seen) == named.relation
    return found
