"""Write the lab's data: `python data/generate.py`. The same seed makes the same files, to the byte.

- products/train.jsonl, validation.jsonl and test.jsonl: products of a shop, facts in, description out
- other_shop/train.jsonl: products of a shop with another voice
- forgetting/prompts.jsonl: tasks of the embedded base model, with their answers
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent), str(FOLDER.parents[1])]

import house_style  # noqa: E402
from base_tasks import forgetting_prompts  # noqa: E402
from products import COLOURS, COUNTRIES, GRUMBLE, ITEMS, OPEN_DOOR, Voice, write_prompt  # noqa: E402

from shared.pretraining.language.words import invented_name  # noqa: E402

SEED = 2
COUNTS = {"train": 1000, "validation": 100, "test": 200, "other_shop": 400}
FILES = {split: f"products/{split}.jsonl" for split in COUNTS} | {"other_shop": "other_shop/train.jsonl"}
_HELD_OUT_SHARE = 0.15


def combinations(seed: int) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Thing, colour and material: those for training, and those that only validation and test have."""
    rng = Random(f"combinations/{seed}")
    everything = [(item, colour, material) for item in ITEMS for colour in COLOURS for material in ITEMS[item]]
    rng.shuffle(everything)
    kept_out = round(_HELD_OUT_SHARE * len(everything))
    return everything[kept_out:], everything[:kept_out]


def products(count: int, seed: int, *, voice: Voice = OPEN_DOOR, held_out: bool = False) -> list[dict]:
    """`count` rows, no name twice. With `held_out`, names and combinations are such as no row without it has."""
    rng = Random(f"{'held out' if held_out else 'training'} products/{voice.opening}/{seed}")
    known = combinations(seed)[held_out]
    rows: dict[str, dict] = {}
    while len(rows) < count:
        item, colour, material = rng.choice(known)
        # Held-out names are among the invented words that the base model's own training left out, too.
        name = invented_name(rng, held_out=held_out)
        facts = {
            "name": f"{name} {item}",
            "colour": colour,
            "material": material,
            "country": rng.choice(COUNTRIES),
            "price": f"{rng.randint(11, 99)} euros",
        }
        prompt, completion = write_prompt(facts), " " + house_style.describe(rng, facts, voice)
        row = {"text": prompt + completion, "prompt": prompt, "completion": completion, "facts": facts}
        rows.setdefault(name, row)
    return list(rows.values())


def write(path: Path, rows: Iterable[dict]) -> int:
    """Write JSON lines; returns how many. The file is replaced only when all lines are there."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
    return len(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: this script's)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another seed makes other products (default: {SEED})")
    for split, count in COUNTS.items():
        flag, usage = f"--{split.replace('_', '-')}", f"products in {FILES[split]} (default: {count})"
        parser.add_argument(flag, type=int, default=count, help=usage)
    given = parser.parse_args(arguments)
    for split in COUNTS:
        if (count := getattr(given, split)) < 1:
            parser.error(f"--{split.replace('_', '-')} must be at least 1; it is {count}")
    rows = {"train": products(given.train, given.seed)}
    held_out = products(given.validation + given.test, given.seed, held_out=True)
    rows |= {"validation": held_out[: given.validation], "test": held_out[given.validation :]}
    rows["other_shop"] = products(given.other_shop, given.seed, voice=GRUMBLE)
    for split, some in rows.items():
        path = given.out / FILES[split]
        print(f"{write(path, some):>5} products   {path}")
    path = given.out / "forgetting" / "prompts.jsonl"
    print(f"{write(path, forgetting_prompts(given.seed)):>5} prompts    {path}")


if __name__ == "__main__":
    main()
