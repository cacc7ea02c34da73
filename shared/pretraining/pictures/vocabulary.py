"""What pictures are made of: colours, shapes, sizes, positions, relations and scenes, and what is held out of training.

Lengths are shares of the picture's side; y grows downwards.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 43, 43),
    "green": (42, 157, 66),
    "blue": (34, 96, 224),
    "yellow": (255, 212, 38),
    "orange": (248, 118, 16),
    "purple": (124, 46, 176),
    "pink": (250, 140, 182),
    "cyan": (38, 208, 224),
    "white": (250, 250, 250),
    "black": (26, 26, 30),
    "gray": (138, 143, 150),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "heart", "moon")
# Drawn, and known to the judge, but in no training picture: the fine-tuning notebooks teach them.
NEW_SHAPES = ("star",)
MASCOT = "zobi"

# The diameter of a circle of this size. Others look as large.
SIZES = {"small": 0.25, "medium": 0.37, "large": 0.56}
# Where between the margins the centre lies: -1 left or top, 0 middle, 1 right or bottom.
POSITIONS = {
    "center": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1),
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below", "inside")
# What a smaller shape can be inside of.
OUTER_SHAPES = ("circle", "square", "triangle", "diamond", "ring", "heart")

TIMES = ("day", "sunset", "night")
GROUNDS = ("grass", "lake", "desert", "snow")
# What stands or swims in a scene; a mountain is behind the others.
_LAND_PARTS = (
    ("house",), ("tree",), ("mountain",), ("house", "tree"), ("house", "mountain"), ("tree", "mountain"),
)  # fmt: skip
_LAKE_PARTS = (("boat",), ("mountain",), ("boat", "mountain"))
PARTS = ("house", "tree", "mountain", "boat")
SKY_PARTS = {"day": "sun", "sunset": "sun", "night": "moon"}
# The colours of the parts that come in several: a house's walls, a boat's hull.
PART_COLOURS = {"house": ("red", "blue", "yellow", "white"), "boat": ("red", "blue", "yellow", "white")}

_AXES = {"left of": "across", "right of": "across", "above": "down", "below": "down", "inside": "within"}
_REVERSED = ("right of", "below")


def scene_parts(ground: str) -> tuple[tuple[str, ...], ...]:
    """The sets of parts that a scene on this ground can have."""
    return _LAKE_PARTS if ground == "lake" else _LAND_PARTS


def held_out_combination(colour: str, shape: str) -> bool:
    """Whether no training picture shows this shape in this colour: two of the eleven colours of each shape."""
    return (list(COLOURS).index(colour) + 4 * SHAPES.index(shape)) % 11 in (1, 7)


def held_out_pair(relation: str, first: str, second: str) -> bool:
    """Whether no training picture shows these two shapes so: one in nine. A circle left of a square is a square right
    of a circle, so both are held out or neither."""
    if relation in _REVERSED:
        first, second = second, first
    axis = ("across", "down", "within").index(_AXES[relation])
    return (2 * SHAPES.index(first) + 5 * SHAPES.index(second) + 4 * axis) % 9 == 5


def held_out_scene(time: str, ground: str, parts: tuple[str, ...]) -> bool:
    """Whether no training picture shows this scene: one in seven. Any two of its three attributes are met together."""
    number = scene_parts(ground).index(parts)
    return (3 * TIMES.index(time) + 3 * GROUNDS.index(ground) + number) % 7 == 0
