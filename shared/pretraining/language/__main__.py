"""The recipe's command line: `python -m shared.pretraining.language all --out shared/models/language`."""

from __future__ import annotations

import json
import platform
import sys

from shared.pretraining.command_line import need, recipe_parser, run, trained
from shared.pretraining.language.recipe import Recipe, WorkFolder

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
    parser = recipe_parser("language", _DESCRIPTION, _COMMANDS, Recipe())
    parser.add_argument("--trials", type=int, default=500, help="questions per cell in evaluate (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run(_COMMANDS, options, lambda: _prepared(options), apart=("text",))


def _prepared(options) -> tuple[Recipe, WorkFolder]:
    return Recipe(seed=options.seed, steps=options.steps), WorkFolder(options.work_dir)


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

    need(work.rows, "data")
    train(recipe, work, threads=options.threads, device=options.device, dtype=getattr(torch, options.dtype))


def _export(recipe: Recipe, work: WorkFolder, options) -> None:
    from tokenizers import Tokenizer

    from shared.pretraining.language.export import export

    trainer = _finished(recipe, work)
    print(export(trainer.model, Tokenizer.from_file(str(work.tokenizer)), recipe, options.out))


def _evaluate(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.language.evaluation import evaluate

    need(options.out / "model.safetensors", "export")
    results = evaluate(options.out, trials_per_cell=options.trials)
    (work.path / "evaluation.json").write_text(json.dumps(results, indent=2))
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}, indent=2))


def _card(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.language.card import write_card

    results = work.path / "evaluation.json"
    need(results, "evaluate")
    trainer = _finished(recipe, work)
    run = {
        "cpu_seconds": trainer.cpu_seconds,
        "wall_seconds": trainer.wall_seconds,
        "threads": options.threads,
        "machine": f"{options.threads} threads ({platform.machine()}, {options.device})",
        "final_loss": trainer.losses[-1][1],
    }
    print(write_card(options.out, recipe, json.loads(results.read_text()), run))


def _finished(recipe: Recipe, work: WorkFolder):
    from shared.pretraining.language.training import LanguageTrainer

    return trained(LanguageTrainer(recipe), recipe, work.checkpoint)


def _text(recipe: Recipe, work: WorkFolder, options) -> None:
    from itertools import islice

    from shared.pretraining.language.corpus import documents
    from shared.pretraining.language.document import plain

    print("\n\n----\n\n".join(plain(document) for document in islice(documents(recipe.seed), 20)))


_COMMANDS = {
    "data": _data, "train": _train, "export": _export, "evaluate": _evaluate, "card": _card, "text": _text,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
