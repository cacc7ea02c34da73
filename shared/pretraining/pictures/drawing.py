"""A description as a picture."""

from __future__ import annotations

from PIL import Image

from shared.pretraining.pictures import scenery
from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.description import Description, Scene, Single, Thing
from shared.pretraining.pictures.mascot import draw_mascot
from shared.pretraining.pictures.outlines import outline
from shared.pretraining.pictures.vocabulary import COLOURS, MASCOT


def draw(description: Description, side: int = 128) -> Image.Image:
    """The picture (RGB, `side` × `side` pixels) of a description."""
    if isinstance(description, Scene):
        return scenery.draw(description, side)
    canvas = Canvas(side, tinted(description.background, description.tint))
    if isinstance(description, Single):
        things = [description.thing]
    else:
        things = [description.second, description.first]  # what is inside lies on top
    for thing in things:
        _draw_thing(canvas, thing)
    return canvas.image()


def tinted(colour: str, tint: tuple[int, int, int]) -> tuple[int, ...]:
    """A named colour, a little lighter or darker."""
    return tuple(min(255, max(0, value + change)) for value, change in zip(COLOURS[colour], tint, strict=True))


def _draw_thing(canvas: Canvas, thing: Thing) -> None:
    if thing.shape == MASCOT:
        draw_mascot(canvas, thing.centre, thing.diameter)
        return
    corners, hole = outline(thing.shape)
    canvas.polygon(corners, tinted(thing.colour, thing.tint), centre=thing.centre, scale=thing.diameter, hole=hole)
