"""Checkpoints that are whole or not there: after a kill at any moment, training goes on from the newest whole one."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from processes import Processes
from training_failure import InputError

_PREFIX = "checkpoint-"  # transformers' name for them
_RECORD = "whole.json"  # written when all other files are, and names them with their sizes


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its folder, its step, the settings of its run, and what was measured before that run."""

    folder: Path
    step: int
    settings: dict
    before: dict


def seal(folder: Path, settings: dict, before: dict) -> None:
    """Declare the checkpoint in `folder` finished. A file that changes its size later makes it unfinished again."""
    record = {"files": _sizes(folder), "settings": settings, "before": before}
    partial = folder / f".{_RECORD}.partial"
    partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, folder / _RECORD)


def newest(folder: Path, settings: dict, before_step: int, processes: Processes) -> Checkpoint | None:
    """The newest whole checkpoint below `folder` that every host has, of a step less than `before_step`.

    Unfinished ones are removed. Raises InputError where the checkpoints are of a run with other settings.
    """
    found = {checkpoint.step: checkpoint for checkpoint in _whole(folder) if checkpoint.step < before_step}
    for checkpoint in found.values():
        _check_settings(checkpoint, settings)
    processes.wait()
    if processes.first_of_host:
        for path in folder.glob(f"{_PREFIX}*"):
            if path.is_dir() and not any(path == checkpoint.folder for checkpoint in found.values()):
                shutil.rmtree(path)
    common = set.intersection(*map(set, processes.gather(list(found))))
    return found[max(common)] if common else None


def remove_all(folder: Path) -> None:
    """Remove the checkpoints below `folder`, nothing else."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path)


def _whole(folder: Path) -> list[Checkpoint]:
    checkpoints = []
    for path in folder.glob(f"{_PREFIX}*"):
        step = path.name.removeprefix(_PREFIX)
        try:
            record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            continue
        sizes = _sizes(path)
        if step.isdigit() and all(sizes.get(name) == size for name, size in record["files"].items()):
            checkpoints.append(Checkpoint(path, int(step), record["settings"], record["before"]))
    return checkpoints


def _check_settings(checkpoint: Checkpoint, settings: dict) -> None:
    # Through JSON, as those of the checkpoint went.
    settings = json.loads(json.dumps(settings))
    if checkpoint.settings == settings:
        return
    names = sorted(
        name
        for name in checkpoint.settings.keys() | settings.keys()
        if checkpoint.settings.get(name) != settings.get(name)
    )
    differences = ", ".join(f"{name} was {checkpoint.settings.get(name)}, is {settings.get(name)}" for name in names)
    raise InputError(
        f"{checkpoint.folder} is the checkpoint of another run ({differences}): name another folder by "
        "--checkpoint_dir, or begin anew by --resume false, which removes the checkpoints there"
    )


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _RECORD not in path.name
    }
