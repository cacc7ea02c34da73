"""Zobi, the workshop's mascot: in no training picture, so that a fine-tuned model can learn it from a few."""

from __future__ import annotations

from shared.pretraining.pictures.canvas import Canvas
from shared.pretraining.pictures.outlines import ellipse

MINT, CORAL, DARK, WHITE = (64, 196, 160), (255, 112, 92), (30, 40, 60), (252, 252, 252)


def draw_mascot(canvas: Canvas, centre: tuple[float, float], diameter: float) -> None:
    """Draw Zobi: a round mint body with one large eye, two coral ears and coral feet.

    Its parts are large, since the embedded model's autoencoder keeps nothing finer than an eighth of a large Zobi.
    """

    def part(corners, colour):
        canvas.polygon(corners, colour, centre=centre, scale=diameter)

    for side in (-1, 1):
        part([(side * x, y) for x, y in ((0.02, -0.2), (0.42, -0.54), (0.42, -0.02))], CORAL)
        part(ellipse(0.17, 0.09, (side * 0.19, 0.46)), CORAL)
    part(ellipse(0.43, 0.44, (0, 0.04)), MINT)
    part(ellipse(0.26, 0.27, (0, -0.02)), WHITE)
    part(ellipse(0.13, 0.14), DARK)
