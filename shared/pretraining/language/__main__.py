"""The recipe's command line: `python -m shared.pretraining.language all --out shared/models/language`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from shared.pretraining.language.recipe import Recipe, WorkFolder

_OUT = Path(__file__).parents[2] / "models" / "language"
_DESCRIPTION = """Make the embedded language model. Commands, in their order ("all" runs them one after the other):

  data      train the tokenizer, write the training rows
  train     train; an interrupted run goes on from its checkpoint when it is started again
  export    write the model folder (fp16)
  evaluate  measure the model in --out
  card      write its README.md from the measurements and shared/pretraining/language/remarks.md
  text      print some documents of the training data
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        recipe = Recipe(seed=options.seed, steps=options.steps)
        if options.command == "text":
            return _text(recipe)
        options.work_dir.mkdir(parents=True, exist_ok=True)
        work = WorkFolder(options.work_dir)
        for name in ("data", "train", "export", "evaluate", "card") if options.command == "all" else (options.command,):
            _COMMANDS[name](recipe, work, options)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m shared.pretraining.language",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*_COMMANDS, "all", "text"])
    parser.add_argument("--out", type=Path, default=_OUT, help="the model folder (default: shared/models/language)")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workshop-pretraining-language",
        help="where tokenizer, data and checkpoint are kept (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=defaults.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of data and weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of matrix products")
    parser.add_argument("--trials", type=int, default=500, help="questions per cell in evaluate (default: %(default)s)")
    return parser


def _data(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.language.data import train_tokenizer, write_rows

    made_by = work.path / "data.json"
    if work.rows.exists() and made_by.exists() and json.loads(made_by.read_text()) == recipe.as_dict():
        print(f"The rows in {work.path} are of this recipe already.")
        return
    tokenizer = train_tokenizer(recipe)
    tokenizer.save(str(work.tokenizer))
    write_rows(tokenizer, recipe, work.rows)
    made_by.write_text(json.dumps(recipe.as_dict()))


def _train(recipe: Recipe, work: WorkFolder, options) -> None:
    import torch

    from shared.pretraining.language.training import train

    _need(work.rows, "data")
    train(recipe, work, threads=options.threads, device=options.device, dtype=getattr(torch, options.dtype))


def _export(recipe: Recipe, work: WorkFolder, options) -> None:
    from tokenizers import Tokenizer

    from shared.pretraining.language.export import export

    trainer = _trained(recipe, work)
    print(export(trainer.model, Tokenizer.from_file(str(work.tokenizer)), recipe, options.out))


def _evaluate(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.language.evaluation import evaluate

    _need(options.out / "model.safetensors", "export")
    results = evaluate(options.out, trials_per_cell=options.trials)
    (work.path / "evaluation.json").write_text(json.dumps(results, indent=2))
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}, indent=2))


def _card(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.language.card import write_card

    results = work.path / "evaluation.json"
    _need(results, "evaluate")
    trainer = _trained(recipe, work)
    run = {
        "cpu_seconds": trainer.cpu_seconds,
        "wall_seconds": trainer.wall_seconds,
        "threads": options.threads,
        "machine": f"{options.threads} threads ({platform.machine()}, {options.device})",
        "final_loss": trainer.losses[-1][1],
    }
    print(write_card(options.out, recipe, json.loads(results.read_text()), run))


def _trained(recipe: Recipe, work: WorkFolder):
    from shared.pretraining.language.training import Trainer

    _need(work.checkpoint, "train")
    trainer = Trainer(recipe)
    trainer.restore(work.checkpoint)
    if trainer.step < recipe.steps:
        raise ValueError(f"training stopped at step {trainer.step} of {recipe.steps}: run the command train again")
    return trainer


def _need(path: Path, command: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the command {command} first")


def _text(recipe: Recipe) -> int:
    from itertools import islice

    from shared.pretraining.language.corpus import documents
    from shared.pretraining.language.document import plain

    print("\n\n----\n\n".join(plain(document) for document in islice(documents(recipe.seed), 20)))
    return 0


_COMMANDS = {"data": _data, "train": _train, "export": _export, "evaluate": _evaluate, "card": _card}

if __name__ == "__main__":
    sys.exit(main())
