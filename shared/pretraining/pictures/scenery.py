"""Scenes: sky and ground by the time of day, and the parts that stand, swim or hang in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.description import Scene
from shared.pretraining.pictures.outlines import ellipse, outline
from shared.pretraining.pictures.vocabulary import COLOURS, SKY_PARTS

RGB = tuple[int, int, int]
SKY: dict[str, tuple[RGB, RGB]] = {
    "day": ((92, 178, 246), (204, 234, 252)),
    "sunset": ((122, 72, 150), (255, 170, 96)),
    "night": ((14, 20, 58), (48, 58, 118)),
}
# By ground and time: the near ground, and the hill, dune, wave or drift on it.
GROUND: dict[str, dict[str, tuple[RGB, RGB]]] = {
    "grass": {
        "day": ((96, 178, 70), (122, 200, 88)),
        "sunset": ((110, 128, 56), (132, 146, 66)),
        "night": ((28, 74, 52), (36, 88, 60)),
    },
    "lake": {
        "day": ((42, 122, 190), (112, 182, 228)),
        "sunset": ((92, 92, 158), (238, 158, 130)),
        "night": ((24, 48, 104), (70, 98, 160)),
    },
    "desert": {
        "day": ((236, 196, 124), (246, 214, 150)),
        "sunset": ((220, 144, 84), (232, 164, 100)),
        "night": ((104, 86, 92), (120, 100, 102)),
    },
    "snow": {
        "day": ((240, 246, 252), (224, 234, 246)),
        "sunset": ((244, 214, 220), (232, 196, 210)),
        "night": ((150, 166, 208), (134, 150, 196)),
    },
}
# How bright things are.
LIGHT = {"day": 1.0, "sunset": 0.92, "night": 0.72}
_ROOF, _DOOR, _DARK_PANE, _LIT_PANE = (120, 62, 48), (92, 60, 44), (150, 200, 226), (255, 226, 120)
_TRUNK, _CROWN, _CROWN_LIGHT = (122, 80, 50), (38, 122, 62), (60, 150, 78)
_ROCK, _ROCK_SHADE, _CAP = (120, 126, 146), (96, 102, 124), (248, 250, 255)
_MAST, _SAIL = (96, 70, 52), (252, 250, 244)
_SUN, _EVENING_SUN, _MOON = (255, 214, 64), (255, 236, 150), (255, 244, 204)
# Where the parts stand: a mountain a little below the horizon, behind the ground; the rest nearer.
MOUNTAIN_FOOT = {"grass": 0.045, "lake": 0.0, "desert": 0.05, "snow": 0.04}
STANDS_AT = {"house": 0.77, "tree": 0.78, "boat": 0.8}


def draw(scene: Scene, side: int) -> Image.Image:
    """The picture (RGB) of a scene."""
    canvas = Canvas(side, (0, 0, 0))
    top, bottom = SKY[scene.time]
    canvas.gradient(((0.0, top), (scene.horizon, bottom)))
    if scene.sky:
        SKY_DRAWINGS[SKY_PARTS[scene.time]](canvas, *scene.sky_place, 1.0, scene.time)
    placed = dict(zip(scene.parts, zip(scene.places, scene.scales, scene.colours, strict=True), strict=True))
    if "mountain" in placed:
        place, scale, _ = placed.pop("mountain")
        draw_mountain(canvas, place, scene.horizon + MOUNTAIN_FOOT[scene.ground], scale, scene.time)
    _draw_ground(canvas, scene)
    for part, (place, scale, colour) in placed.items():
        PART_DRAWINGS[part](canvas, place, STANDS_AT[part], scale, scene.time, colour)
    return canvas.image()


def lit(colour: RGB, time: str) -> np.ndarray:
    """A colour as it looks at this time of day."""
    return np.asarray(colour, np.float32) * LIGHT[time]


def draw_house(canvas: Canvas, x: float, base: float, scale: float, time: str, colour: str | None) -> None:
    """Walls of `colour` (red when None), a dark roof, a door, and a window that is lit after dusk."""

    def part(corners, paint):
        canvas.polygon(corners, paint, centre=(x, base), scale=scale)

    part(_box(-0.15, -0.2, 0.15, 0), lit(COLOURS[colour or "red"], time))
    part(((-0.2, -0.19), (0, -0.35), (0.2, -0.19)), lit(_ROOF, time))
    part(_box(-0.105, -0.13, -0.025, 0), lit(_DOOR, time))
    part(_box(0.03, -0.14, 0.11, -0.065), lit(_DARK_PANE, time) if time == "day" else _LIT_PANE)


def draw_tree(canvas: Canvas, x: float, base: float, scale: float, time: str, colour: str | None = None) -> None:
    """A brown trunk under a round green crown with a lighter side."""

    def part(corners, paint):
        canvas.polygon(corners, paint, centre=(x, base), scale=scale)

    part(((-0.028, -0.2), (0.028, -0.2), (0.04, 0), (-0.04, 0)), lit(_TRUNK, time))
    part(ellipse(0.14, 0.155, (0, -0.28)), lit(_CROWN, time))
    part(ellipse(0.075, 0.085, (-0.045, -0.315)), lit(_CROWN_LIGHT, time))


def draw_mountain(canvas: Canvas, x: float, base: float, scale: float, time: str, colour: str | None = None) -> None:
    """A gray mountain with a shaded side and a white top."""

    def part(corners, paint):
        canvas.polygon(corners, paint, centre=(x, base), scale=scale)

    part(((-0.36, 0), (0, -0.4), (0.36, 0)), lit(_ROCK, time))
    part(((0, -0.4), (0.36, 0), (0.1, 0)), lit(_ROCK_SHADE, time))
    cap = ((0, -0.4), (0.117, -0.27), (0.06, -0.295), (0.02, -0.25), (-0.04, -0.295), (-0.117, -0.27))
    part(cap, lit(_CAP, time))


def draw_boat(canvas: Canvas, x: float, base: float, scale: float, time: str, colour: str | None) -> None:
    """A hull of `colour` (red when None), a mast and two white sails."""

    def part(corners, paint):
        canvas.polygon(corners, paint, centre=(x, base), scale=scale)

    part(((-0.2, -0.085), (0.2, -0.085), (0.13, 0), (-0.13, 0)), lit(COLOURS[colour or "red"], time))
    part(_box(-0.012, -0.36, 0.012, -0.085), lit(_MAST, time))
    part(((0.025, -0.36), (0.17, -0.11), (0.025, -0.11)), lit(_SAIL, time))
    part(((-0.025, -0.3), (-0.025, -0.11), (-0.13, -0.11)), lit(_SAIL, time))


def draw_sun(canvas: Canvas, x: float, y: float, scale: float, time: str) -> None:
    """A yellow disk; a larger, paler one in the evening."""
    evening = time == "sunset"
    canvas.polygon(
        ellipse(0.1 if evening else 0.085), _EVENING_SUN if evening else _SUN, centre=(x, y), scale=scale
    )


def draw_moon(canvas: Canvas, x: float, y: float, scale: float, time: str) -> None:
    """A pale crescent."""
    canvas.polygon(outline("moon")[0], _MOON, centre=(x, y), scale=0.19 * scale)


PART_DRAWINGS: dict[str, Callable] = {
    "house": draw_house, "tree": draw_tree, "mountain": draw_mountain, "boat": draw_boat,
}  # fmt: skip
SKY_DRAWINGS: dict[str, Callable] = {"sun": draw_sun, "moon": draw_moon}


def _draw_ground(canvas: Canvas, scene: Scene) -> None:
    near, far = GROUND[scene.ground][scene.time]
    horizon = scene.horizon
    if scene.ground == "lake":
        canvas.polygon(_box(0, horizon, 1, 1), near)
        for number, (x, y) in enumerate(((0.12, 0.12), (0.7, 0.09), (0.42, 0.24), (0.85, 0.26), (0.2, 0.3))):
            x = (x + 0.3 * scene.ridge + 0.05 * number) % 0.86
            canvas.polygon(_box(x, horizon + y * 0.9, x + 0.13, horizon + y * 0.9 + 0.014), far)
        return
    # Two rolling lines: a far hill, dune or drift, and the near ground in front of it.
    xs = np.linspace(0, 1, 49)
    phase = 6.283 * scene.ridge
    rise = {"grass": 0.03, "desert": 0.035, "snow": 0.025}[scene.ground]
    for colour, line in (
        (far, horizon + rise * np.sin(5 * xs + phase)),
        (near, horizon + 0.1 + rise * np.sin(4 * xs + phase + 2.2)),
    ):
        canvas.polygon([*zip(xs, line, strict=True), (1.0, 1.0), (0.0, 1.0)], colour)


def _box(left: float, top: float, right: float, bottom: float) -> tuple:
    return (left, top), (right, top), (right, bottom), (left, bottom)
