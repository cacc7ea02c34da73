"""A look at the training pictures: `python -m shared.pretraining.pictures sheet.png --kind pair`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random

from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.contact_sheet import contact_sheet
from shared.pretraining.pictures.description import Single, Thing
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.sampling import KINDS, description, single
from shared.pretraining.pictures.vocabulary import MASCOT, NEW_SHAPES


def main(arguments: list[str] | None = None) -> int:
    """Write a contact sheet; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shared.pretraining.pictures", description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG file to write")
    parser.add_argument("--kind", default="single", choices=[*KINDS, "new"], help="new: the star and the mascot")
    parser.add_argument("--held-out", action="store_true", help="what no training picture shows")
    parser.add_argument("--count", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=128, help="pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.kind == "new":
        shown = [_new(Random(f"{options.seed}/{number}"), number) for number in range(options.count)]
    else:
        shown = [
            description(options.seed, number, {options.kind: 1}, held_out=options.held_out)
            for number in range(options.count)
        ]
    texts = [caption(one, Random(number))[0] for number, one in enumerate(shown)]
    contact_sheet([draw(one, options.side) for one in shown], texts).save(options.out)
    print(options.out)
    return 0


def _new(rng: Random, number: int) -> Single:
    star = single(rng, shape=NEW_SHAPES[0])
    if number % 2:
        return star
    thing = star.thing
    return Single(
        Thing(MASCOT, thing.colour, thing.size, thing.centre, thing.diameter), star.background, star.position, star.tint
    )


if __name__ == "__main__":
    sys.exit(main())
