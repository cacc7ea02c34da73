"""Checkpoints that are whole or not there: after a kill at any moment, training goes on from the newest whole one."""

import json
import os
import shutil
from pathlib import Path

import torch
from training_failure import InputError

_PREFIX, _STATE = "checkpoint-", "state.pt"
_RECORD = "whole.json"  # written last; names the size that the state must have
_KEPT = 2


def save(folder: Path, step: int, state: dict, settings: dict) -> Path:
    """Write the state of `step` below `folder` and remove all but the newest two; returns its folder."""
    target = folder / f"{_PREFIX}{step}"
    target.mkdir(parents=True, exist_ok=True)
    partial = target / f".{_STATE}.partial"
    torch.save(state, partial)
    os.replace(partial, target / _STATE)
    record = {"size": (target / _STATE).stat().st_size, "settings": settings}
    partial = target / f".{_RECORD}.partial"
    partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, target / _RECORD)
    for _, old in _whole(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return target


def newest(folder: Path, settings: dict) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint below `folder`. Those that are not whole are removed.

    Raises InputError where it is of a run with other settings.
    """
    found = _whole(folder)
    for path in folder.glob(f"{_PREFIX}*"):
        if path.is_dir() and not any(path == whole for _, whole in found):
            shutil.rmtree(path)
    if not found:
        return None
    step, path = found[-1]
    saved = json.loads((path / _RECORD).read_text(encoding="utf-8"))["settings"]
    settings = json.loads(json.dumps(settings))  # as those of the checkpoint went through JSON
    names = sorted(name for name in saved.keys() | settings.keys() if saved.get(name) != settings.get(name))
    if names:
        differences = ", ".join(f"{name} was {saved.get(name)}, is {settings.get(name)}" for name in names)
        raise InputError(
            f"{path} is the checkpoint of another run ({differences}): name another folder by "
            "--checkpoint_dir, or begin anew by --resume false, which removes the checkpoints there"
        )
    return step, path


def load(path: Path, device: torch.device) -> dict:
    """The state in a checkpoint's folder."""
    return torch.load(path / _STATE, map_location=device, weights_only=True)


def remove_all(folder: Path) -> None:
    """Remove the checkpoints below `folder`, nothing else."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)


def _whole(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        step = path.name.removeprefix(_PREFIX)
        try:
            record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
            size = (path / _STATE).stat().st_size
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            continue
        if step.isdigit() and size == record["size"]:
            found.append((int(step), path))
    return sorted(found)
