"""Zobi, the workshop's mascot: in no training picture, so that a fine-tuned model can learn it from a few."""

from __future__ import annotations

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.outlines import ellipse

MINT, CREAM, CORAL, DARK, WHITE = (64, 196, 160), (255, 240, 205), (255, 112, 92), (30, 40, 60), (252, 252, 252)


def draw_mascot(canvas: Canvas, centre: tuple[float, float], diameter: float) -> None:
    """Draw Zobi: a mint egg with a cream belly, two coral ears, two eyes with a look, a smile and coral feet."""

    def part(corners, colour):
        canvas.polygon(corners, colour, centre=centre, scale=diameter)

    for side in (-1, 1):
        part([(side * x, y) for x, y in ((0.05, -0.22), (0.37, -0.52), (0.39, -0.1))], CORAL)
        part(ellipse(0.14, 0.075, (side * 0.17, 0.47)), CORAL)
    part(ellipse(0.37, 0.42, (0, 0.06)), MINT)
    part(ellipse(0.23, 0.2, (0, 0.25)), CREAM)
    for side in (-1, 1):
        part(ellipse(0.115, 0.125, (side * 0.145, -0.06)), WHITE)
        part(ellipse(0.058, 0.068, (side * 0.125, -0.045)), DARK)
    part(((-0.06, 0.1), (0.06, 0.1), (0.0, 0.16)), DARK)
