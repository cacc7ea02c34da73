"""A look at the training pictures: `python -m shared.pretraining.pictures sheet.png --kind pair`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random

from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.contact_sheet import contact_sheet
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.examples import examples_from_above, examples_of
from shared.pretraining.pictures.from_above import CLASSES
from shared.pretraining.pictures.sampling import KINDS, description
from shared.pretraining.pictures.vocabulary import MASCOT, NEW_SHAPES


def main(arguments: list[str] | None = None) -> int:
    """Write a contact sheet; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shared.pretraining.pictures", description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG file to write")
    parser.add_argument(
        "--kind", default="single", choices=[*KINDS, "new", "above"],
        help="new: the star and the mascot; above: land from above",
    )  # fmt: skip
    parser.add_argument("--held-out", action="store_true", help="what no training picture shows")
    parser.add_argument("--count", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=128, help="pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.kind in KINDS:
        shown = [
            description(options.seed, number, {options.kind: 1}, held_out=options.held_out)
            for number in range(options.count)
        ]
        pictures = [draw(one, options.side) for one in shown]
        texts = [caption(one, Random(number))[0] for number, one in enumerate(shown)]
    else:
        examples = _examples(options.kind, options.count, options.seed, options.side)
        pictures, texts = [one.picture for one in examples], [one.text for one in examples]
    contact_sheet(pictures, texts).save(options.out)
    print(options.out)
    return 0


def _examples(kind: str, count: int, seed: int, side: int):
    if kind == "above":
        return examples_from_above(-(-count // len(CLASSES)), seed=seed, side=side)[:count]
    both = zip(*(examples_of(shape, count, seed=seed, side=side) for shape in (*NEW_SHAPES, MASCOT)), strict=True)
    return [one for pair in both for one in pair][:count]


if __name__ == "__main__":
    sys.exit(main())
