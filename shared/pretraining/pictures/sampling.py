"""Random descriptions of pictures: the same for the same seed, and none that is held out unless asked for."""

from __future__ import annotations

from random import Random

from shared.pretraining.pictures.description import Description, Pair, Scene, Single, Thing
from shared.pretraining.pictures.vocabulary import (
    COLOURS,
    GROUNDS,
    OUTER_SHAPES,
    PART_COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TIMES,
    held_out_combination,
    held_out_pair,
    held_out_scene,
    scene_parts,
)

MARGIN = 0.05
_OUTER_DIAMETER = 0.74
# By the outer shape: the inner one's diameter, and how far its centre lies below; shares of the outer diameter.
_INNER = {
    "circle": (0.36, 0.0), "square": (0.36, 0.0), "triangle": (0.29, 0.15), "diamond": (0.33, 0.0),
    "ring": (0.34, 0.0), "heart": (0.31, 0.01),
}  # fmt: skip
_PAIR_SIZES = (
    ("small", "small"), ("small", "medium"), ("medium", "small"), ("medium", "medium"), ("small", "large"),
    ("large", "small"),
)  # fmt: skip


def description(seed: int, index: int, shares: dict[str, float], *, held_out: bool = False) -> Description:
    """The description of picture `index` of the set `seed`; `shares` weights the kinds single, pair and scene.

    It depends on nothing but its arguments, so a set can be made in pieces and in any order.
    """
    rng = Random(f"{seed}/{index}/{held_out}")
    kind = rng.choices(list(shares), list(shares.values()))[0]
    return KINDS[kind](rng, held_out=held_out)


def single(rng: Random, *, held_out: bool = False, shape: str | None = None) -> Single:
    """A shape on a plain background; with `held_out` its colour and shape are never together in training.

    `shape` fixes the shape: one of the trained or of the new ones (a new one has any colour).
    """
    while True:
        form, colour = shape or rng.choice(SHAPES), rng.choice(list(COLOURS))
        if form not in SHAPES or held_out_combination(colour, form) == held_out:
            break
    background = rng.choice([other for other in COLOURS if other != colour])
    size = rng.choice(list(SIZES))
    diameter = SIZES[size] * rng.uniform(0.95, 1.05)
    reach = 0.5 - MARGIN - 0.54 * diameter
    place = rng.random()
    if place < 0.2:
        position, centre = None, (0.5 + rng.uniform(-reach, reach), 0.5 + rng.uniform(-reach, reach))
    else:
        position = "center" if place < 0.6 else rng.choice([name for name in POSITIONS if name != "center"])
        centre = tuple(_at(direction, reach, rng) for direction in POSITIONS[position])
    return Single(Thing(form, colour, size, centre, diameter, _tint(rng)), background, position, _tint(rng))


def pair(rng: Random, *, held_out: bool = False) -> Pair:
    """Two shapes of two colours in a relation; with `held_out` these shapes are never so in training.

    Colours and shapes are combinations that training pictures have, in either case.
    """
    while True:
        relation = rng.choice(RELATIONS)
        first, second = rng.choice(SHAPES), rng.choice(OUTER_SHAPES if relation == "inside" else SHAPES)
        colours = rng.sample(list(COLOURS), 3)
        if held_out_pair(relation, first, second) == held_out and not (
            held_out_combination(colours[0], first) or held_out_combination(colours[1], second)
        ):
            break
    if relation == "inside":
        sizes, diameters, centres = _inside(rng, second)
    else:
        sizes, diameters, centres = _beside(rng, relation)
    things = [
        Thing(shape, colour, size, centre, diameter, _tint(rng))
        for shape, colour, size, centre, diameter in zip(
            (first, second), colours[:2], sizes, centres, diameters, strict=True
        )
    ]
    return Pair(*things, relation, colours[2], _tint(rng))


def scene(rng: Random, *, held_out: bool = False) -> Scene:
    """A landscape; with `held_out` its time, ground and parts are never together in training."""
    while True:
        time, ground = rng.choice(TIMES), rng.choice(GROUNDS)
        parts = rng.choice(scene_parts(ground))
        if held_out_scene(time, ground, parts) == held_out:
            break
    near = [part for part in parts if part != "mountain"]
    if len(near) == 2:
        spots = [rng.uniform(0.22, 0.33), rng.uniform(0.67, 0.78)]
        rng.shuffle(spots)
    else:
        spots = [rng.uniform(0.25, 0.75)]
    mountain = rng.uniform(0.3, 0.7)
    if near and "mountain" in parts:
        # Beside the thing in front of it, so that both are seen.
        mountain = rng.uniform(0.6, 0.72) if spots[0] < 0.5 else rng.uniform(0.28, 0.4)
    places = tuple(mountain if part == "mountain" else spots.pop(0) for part in parts)
    colours = tuple(rng.choice(PART_COLOURS[part]) if part in PART_COLOURS else None for part in parts)
    scales = tuple(rng.uniform(0.92, 1.08) for _ in parts)
    return Scene(
        time, ground, parts, colours, places, scales, rng.random() < 0.6, _sky_place(rng, time, parts, places),
        rng.uniform(0.62, 0.67), rng.random(),
    )  # fmt: skip


KINDS = {"single": single, "pair": pair, "scene": scene}


def _at(direction: int, reach: float, rng: Random) -> float:
    if direction:
        return 0.5 + direction * (reach - rng.uniform(0, min(0.03, reach / 4)))
    return 0.5 + rng.uniform(-0.025, 0.025)


def _beside(rng: Random, relation: str):
    sizes = rng.choice(_PAIR_SIZES)
    diameters = [SIZES[size] * rng.uniform(0.95, 1.05) for size in sizes]
    across = relation in ("left of", "right of")
    forwards = relation in ("left of", "above")
    order = (0, 1) if forwards else (1, 0)
    room = 1 - 2 * MARGIN - 1.08 * sum(diameters)
    gap = rng.uniform(0.06, min(0.2, room))
    start = MARGIN + rng.uniform(0, room - gap)
    along, sideways = [0.0, 0.0], [0.5 + rng.uniform(-0.05, 0.05) for _ in range(2)]
    for index in order:
        along[index] = start + 0.54 * diameters[index]
        start += 1.08 * diameters[index] + gap
    centres = [(a, s) if across else (s, a) for a, s in zip(along, sideways, strict=True)]
    return sizes, diameters, centres


def _inside(rng: Random, outer_shape: str):
    share, below = _INNER[outer_shape]
    outer = _OUTER_DIAMETER * rng.uniform(0.95, 1.05)
    inner = outer * share * rng.uniform(0.95, 1.05)
    centre = (0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03))
    return ("small", "large"), (inner, outer), ((centre[0], centre[1] + below * outer), centre)


def _sky_place(rng: Random, time: str, parts: tuple[str, ...], places: tuple[float, ...]) -> tuple[float, float]:
    """Where the sun or moon stands: clear of what is below. The evening sun is low where there is room."""
    middle = sum(places) / len(places)
    x = rng.uniform(0.14, 0.24) if middle > 0.5 else rng.uniform(0.76, 0.86)
    if len(parts) == 2 and "mountain" not in parts:
        x = rng.uniform(0.4, 0.6)
    low = time == "sunset" and "mountain" not in parts
    return x, rng.uniform(0.36, 0.42) if low else rng.uniform(0.15, 0.19)


def _tint(rng: Random) -> tuple[int, int, int]:
    return tuple(rng.randint(-5, 5) for _ in range(3))
