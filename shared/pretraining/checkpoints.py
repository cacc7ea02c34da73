"""What the trainings of all recipes do with their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import torch


class OtherRecipe(RuntimeError):
    """The work folder's checkpoint was made by another recipe."""


def save_checkpoint(state: dict, path: Path) -> None:
    """Write a state; an interruption while writing leaves the previous file."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path, recipe, device: str = "cpu", *, only: Collection[str] | None = None) -> dict:
    """The state in `path`, whose value `recipe` must be that of the dataclass `recipe`, or of its fields `only`.

    Raises OtherRecipe when it is not.
    """
    state = torch.load(path, weights_only=True, map_location=device)
    names = differing(recipe, state["recipe"])
    names = [name for name in names if only is None or name.split(".")[0] in only]
    if names:
        raise OtherRecipe(
            f"the checkpoint {path} was made with another {', '.join(names)}: give the same options as then, "
            f"delete it, or choose another --work-dir"
        )
    return state


def differing(recipe, saved: dict) -> list[str]:
    """The names of the values in which a recipe (a dataclass) is not the one saved."""
    found = []
    for name, value in asdict(recipe).items():
        if isinstance(value, dict) and isinstance(saved.get(name), dict) and value.keys() == saved[name].keys():
            found += [f"{name}.{key}" for key in value if value[key] != saved[name][key]]
        elif value != saved.get(name):
            found.append(name)
    return found
