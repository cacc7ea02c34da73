"""What the command lines of all recipes have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

Command = Callable[..., None]


def recipe_parser(name: str, description: str, commands: Mapping[str, Command], defaults) -> argparse.ArgumentParser:
    """The parser of `python -m shared.pretraining.NAME`, with the options that every recipe has.

    `commands` are in the order of their work; "all" runs them one after the other. `defaults` is the recipe.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m shared.pretraining.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*commands, "all"])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parents[1] / "models" / name,
        help=f"the model folder (default: shared/models/{name})",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / f"workshop-pretraining-{name}",
        help="where data and checkpoints are kept (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=defaults.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of data and weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of matrix products")
    return parser


def run(
    commands: Mapping[str, Command], options: argparse.Namespace, prepare: Callable[[], tuple], *,
    apart: Collection[str] = (),
) -> int:  # fmt: skip
    """Run the chosen command, or all but those `apart`, with the recipe and work folder that `prepare` returns.

    Returns the exit code. What a user can mend is said in a line, without a traceback.
    """
    try:
        recipe, work = prepare()
        work.path.mkdir(parents=True, exist_ok=True)
        every = [name for name in commands if name not in apart]
        for name in every if options.command == "all" else (options.command,):
            commands[name](recipe, work, options)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def need(path: Path, command: str) -> None:
    """Raise FileNotFoundError, naming the command that makes it, if `path` is not there."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the command {command} first")


def trained(trainer, recipe, checkpoint: Path):
    """`trainer` with the weights of its finished training. Raises ValueError when it stopped before its last step."""
    need(checkpoint, "train")
    trainer.restore(checkpoint)
    if trainer.step < recipe.steps:
        raise ValueError(f"training stopped at step {trainer.step} of {recipe.steps}: run the command train again")
    return trainer
