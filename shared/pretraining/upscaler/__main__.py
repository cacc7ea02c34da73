"""The recipe's command line: `python -m shared.pretraining.upscaler all --out shared/models/upscaler`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from shared.pretraining.command_line import need, recipe_parser, run, trained
from shared.pretraining.upscaler.recipe import Recipe, WorkFolder

_MODELS = Path(__file__).parents[2] / "models"
_DESCRIPTION = """Make the embedded upscaler. Commands, in their order ("all" runs them one after the other):

  data      draw the training pictures and cut patches from them
  train     train the network
  export    write the model folder (fp16)
  evaluate  compare the model in --out with bicubic enlargement
  card      write its contact sheet and README.md from the measurements

Training goes on from its checkpoint when an interrupted command is started again. The defaults take about ten minutes
on one core.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run(_COMMANDS, options, lambda: _prepared(options))


def _prepared(options) -> tuple[Recipe, WorkFolder]:
    chosen = ("seed", "steps", "pictures", "channels", "blocks")
    return Recipe(**{name: getattr(options, name) for name in chosen}), WorkFolder(options.work_dir)


def _parser() -> argparse.ArgumentParser:
    defaults = Recipe()
    parser = recipe_parser("upscaler", _DESCRIPTION, _COMMANDS, defaults)
    parser.set_defaults(threads=1)
    parser.add_argument(
        "--autoencoder", type=Path, default=_MODELS / "diffusion",
        help="the diffusion model whose autoencoder's pictures are trained and measured on (default: "
        "shared/models/diffusion); without one, none are",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=defaults.pictures, help="to train on (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=defaults.channels, help="default: %(default)s")
    parser.add_argument("--blocks", type=int, default=defaults.blocks, help="default: %(default)s")
    parser.add_argument("--until", type=int, help="stop at this step, to go on later")
    parser.add_argument("--trials", type=int, default=40, help="pictures of each group, to evaluate (default: 40)")
    return parser


def _data(recipe: Recipe, work: WorkFolder, options) -> None:
    import torch

    from shared.pretraining.upscaler.data import write_patches

    torch.set_num_threads(options.threads)
    write_patches(recipe, work, _autoencoder(options))
    # What was learned from other patches is not gone on from.
    work.checkpoint.unlink(missing_ok=True)


def _train(recipe: Recipe, work: WorkFolder, options) -> None:
    import torch

    from shared.pretraining.upscaler.data import Batches
    from shared.pretraining.upscaler.training import UpscalerTrainer

    need(work.about, "data")
    if json.loads(work.about.read_text())["recipe"] | _free(recipe) != recipe.as_dict():
        raise ValueError(f"the patches in {work.path} were made by another recipe: run the command data again")
    trainer = UpscalerTrainer(
        recipe, threads=options.threads, device=options.device, dtype=getattr(torch, options.dtype)
    )  # fmt: skip
    if work.checkpoint.exists():
        trainer.restore(work.checkpoint)
    trainer.train(Batches(recipe, work), work.checkpoint, until=options.until)


def _export(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.upscaler.export import export

    print(export(_finished(recipe, work).averaged()["upscaler"], options.out))


def _evaluate(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.upscaler.evaluation import evaluate

    need(options.out / "model.safetensors", "export")
    results = evaluate(
        options.out, trials=options.trials, threads=options.threads, autoencoder=_autoencoder(options)
    )  # fmt: skip
    work.evaluation.write_text(json.dumps(results, indent=2))
    print(json.dumps(results, indent=2))


def _card(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.upscaler.export import write_card, write_sheet

    need(work.evaluation, "evaluate")
    trainer = _finished(recipe, work)
    run = {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "machine": f"{options.threads} thread{'s' * (options.threads > 1)} ({platform.machine()}, {options.device})",
        "minutes": f"{trainer.wall_seconds / 60:.0f}",
        "cpu_minutes": f"{trainer.cpu_seconds / 60:.0f}",
        "loss": f"{trainer.losses[-1][1]:.5f}",
        "decoded": json.loads(work.about.read_text())["decoded"],
    }
    write_sheet(options.out)
    print(write_card(options.out, recipe, json.loads(work.evaluation.read_text()), run))


def _autoencoder(options):
    """The autoencoder, or None where there is no diffusion model yet."""
    from shared.pretraining.upscaler.data import load_autoencoder

    if not options.autoencoder.exists():
        print(f"{options.autoencoder} is not there: without the pictures of its autoencoder", file=sys.stderr)
        return None
    return load_autoencoder(options.autoencoder)


def _finished(recipe: Recipe, work: WorkFolder):
    from shared.pretraining.upscaler.training import UpscalerTrainer

    return trained(UpscalerTrainer(recipe), recipe, work.checkpoint)


def _free(recipe: Recipe) -> dict:
    """What of the recipe may change without drawing new patches."""
    about_patches = ("seed", "side", "pictures", "patches", "patch", "shares")
    return {name: value for name, value in recipe.as_dict().items() if name not in about_patches}


_COMMANDS = {"data": _data, "train": _train, "export": _export, "evaluate": _evaluate, "card": _card}

if __name__ == "__main__":
    sys.exit(main())
