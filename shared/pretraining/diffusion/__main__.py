"""The recipe's command line: `python -m shared.pretraining.diffusion all --out shared/models/diffusion`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import replace

from shared.pretraining.command_line import need, recipe_parser, run, trained
from shared.pretraining.diffusion.recipe import Recipe, WorkFolder

_DESCRIPTION = """Make the embedded diffusion model. Commands, in their order ("all" runs them one after the other):

  data         make the tokenizer and the captions
  autoencoder  train the autoencoder, then compute the latents of all pictures
  train        train UNet and text encoder
  export       write the model folder (fp16)
  evaluate     let the model in --out draw, and judge it
  card         write its contact sheet and README.md from the measurements

Training goes on from its checkpoint when an interrupted command is started again.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run(_COMMANDS, options, lambda: _prepared(options))


def _prepared(options) -> tuple[Recipe, WorkFolder]:
    recipe = Recipe(seed=options.seed, steps=options.steps, pictures=options.pictures)
    own = replace(recipe.autoencoder, steps=options.autoencoder_steps)
    return replace(recipe, autoencoder=own), WorkFolder(options.work_dir)


def _parser() -> argparse.ArgumentParser:
    defaults = Recipe()
    parser = recipe_parser("diffusion", _DESCRIPTION, _COMMANDS, defaults)
    parser.add_argument(
        "--autoencoder-steps", type=int, default=defaults.autoencoder.steps, help="default: %(default)s"
    )
    parser.add_argument("--pictures", type=int, default=defaults.pictures, help="to train on (default: %(default)s)")
    parser.add_argument(
        "--drawers", type=int, default=0, help="processes that draw pictures ahead; worth it with a GPU (default: none)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="train a compiled UNet: cheaper steps; needs a C++ compiler on a CPU"
    )
    parser.add_argument("--trials", type=int, default=300, help="pictures per group in evaluate (default: %(default)s)")
    return parser


def _data(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.diffusion.data import write_captions
    from shared.pretraining.diffusion.tokens import build_tokenizer

    made_by = work.path / "data.json"
    if work.captions.exists() and made_by.exists() and json.loads(made_by.read_text()) == _of_data(recipe):
        print(f"The captions in {work.path} are of this recipe already.")
        return
    tokenizer = build_tokenizer(recipe.tokens)
    tokenizer.save_pretrained(work.tokenizer)
    write_captions(tokenizer, recipe, work.captions)
    made_by.write_text(json.dumps(_of_data(recipe)))


def _of_data(recipe: Recipe) -> dict:
    return {name: recipe.as_dict()[name] for name in ("seed", "side", "pictures", "captions", "shares", "tokens")}


def _autoencoder(recipe: Recipe, work: WorkFolder, options) -> None:
    import torch

    from shared.pretraining.diffusion.autoencoder import AutoencoderTrainer, encode_all

    trainer = AutoencoderTrainer(
        recipe, threads=options.threads, device=options.device, dtype=getattr(torch, options.dtype),
        workers=options.drawers,
    )  # fmt: skip
    if work.autoencoder.exists():
        trainer.restore(work.autoencoder)
    if trainer.step < recipe.autoencoder.steps:
        work.latents.unlink(missing_ok=True)
        trainer.train(work.autoencoder)
    if not work.latents.exists():
        encode_all(
            trainer.model.eval(), recipe, work.latents,
            threads=trainer.threads, workers=options.drawers, device=options.device, dtype=trainer.dtype,
        )  # fmt: skip


def _train(recipe: Recipe, work: WorkFolder, options) -> None:
    import torch

    from shared.pretraining.diffusion.training import train

    need(work.captions, "data")
    need(work.latents, "autoencoder")
    train(
        recipe, work, threads=options.threads, device=options.device, dtype=getattr(torch, options.dtype),
        compiled=options.compile,
    )  # fmt: skip


def _export(recipe: Recipe, work: WorkFolder, options) -> None:
    import numpy as np

    from shared.pretraining.diffusion.autoencoder import standardise
    from shared.pretraining.diffusion.export import export, pipeline
    from shared.pretraining.diffusion.tokens import load_tokenizer

    trainer, autoencoder = _finished(recipe, work)
    standardise(autoencoder.model, np.load(work.latents, mmap_mode="r"))
    made = pipeline(recipe, load_tokenizer(work.tokenizer), **trainer.averaged(), autoencoder=autoencoder.model)
    print(export(made, options.out))


def _evaluate(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.diffusion.evaluation import evaluate

    need(options.out / "model_index.json", "export")
    results = evaluate(options.out, trials=options.trials, threads=options.threads, device=options.device)
    (work.path / "evaluation.json").write_text(json.dumps(results, indent=2))
    print(json.dumps(results, indent=2))


def _card(recipe: Recipe, work: WorkFolder, options) -> None:
    from shared.pretraining.diffusion.card import write_card, write_sheet

    results = work.path / "evaluation.json"
    need(results, "evaluate")
    need(options.out / "model_index.json", "export")
    trainer, autoencoder = _finished(recipe, work)
    networks = {"text encoder": trainer.text_encoder, "UNet": trainer.unet, "autoencoder": autoencoder.model}
    run = {
        "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()},
        "machine": f"{options.threads} threads ({platform.machine()}, {options.device})",
        "autoencoder_minutes": f"{autoencoder.wall_seconds / 60:.0f}",
        "minutes": f"{trainer.wall_seconds / 60:.0f}",
        "cpu_minutes": f"{trainer.cpu_seconds / 60:.0f}",
        "loss": f"{trainer.losses[-1][1]:.4f}",
    }
    write_sheet(options.out, threads=options.threads, device=options.device)
    print(write_card(options.out, recipe, json.loads(results.read_text()), run))


def _finished(recipe: Recipe, work: WorkFolder):
    from shared.pretraining.diffusion.autoencoder import AutoencoderTrainer
    from shared.pretraining.diffusion.tokens import load_tokenizer
    from shared.pretraining.diffusion.training import UNetTrainer

    trainer = trained(UNetTrainer(recipe, load_tokenizer(work.tokenizer)), recipe, work.checkpoint)
    autoencoder = AutoencoderTrainer(recipe)
    autoencoder.restore(work.autoencoder)
    return trainer, autoencoder


_COMMANDS = {
    "data": _data, "autoencoder": _autoencoder, "train": _train,
    "export": _export, "evaluate": _evaluate, "card": _card,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
