"""The training that all recipes share: its loop, the average of its weights, its checkpoint."""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from shared.pretraining.checkpoints import load_checkpoint, save_checkpoint
from shared.pretraining.optimizing import Optimizers, rate_factor, side_by_side

_LOG_EVERY = 20


class Trainer(ABC):
    """Networks in training, which can be interrupted and gone on with.

    `step` counts the steps done; `wall_seconds` and `cpu_seconds` (those of this process) are of all runs so far.
    A subclass gives `_loss(*part)` of the parts of a step (each a tuple of arguments).
    """

    label = "training"
    largest_gradient: float | None = None  # the norm to which all gradients together are cut

    def __init__(
        self, recipe, networks: dict[str, nn.Module], optimizer: Optimizers, *,
        threads: int, device: str, dtype: torch.dtype, ema: float | None = None,
    ):  # fmt: skip
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self.threads = threads if device == "cpu" else 1
        self.networks, self.optimizer, self.ema = networks, optimizer, ema
        self.average = [] if ema is None else [parameter.detach().clone() for parameter in optimizer.parameters]
        self.step = 0
        self.wall_seconds = self.cpu_seconds = 0.0
        self.losses: list[tuple[int, float]] = []

    def _run(self, batches: Iterable[Sequence[tuple]], checkpoint: Path, *, steps: int, every: int) -> None:
        """Take a step with each of `batches`, of `steps` in all; write `checkpoint` after every `every` and at the end.

        Workers are threads with one core each, every one with parts of its own, whose gradients are added in their
        order: the result does not depend on timing, and a busy core delays one of them only.
        """
        wall, cpu = self.wall_seconds, self.cpu_seconds
        started_wall, started_cpu = time.perf_counter(), time.process_time()
        threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        progress = tqdm(total=steps, initial=self.step, desc=self.label, unit="step", mininterval=1)
        loss = None
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for parts in batches:
                    loss = self._one_step(pool, parts)
                    self.wall_seconds = wall + time.perf_counter() - started_wall
                    self.cpu_seconds = cpu + time.process_time() - started_cpu
                    progress.update()
                    if self.step % _LOG_EVERY == 0:
                        self.losses.append((self.step, loss))
                        progress.set_postfix(loss=f"{loss:.5f}")
                    if self.step % every == 0:
                        self.save(checkpoint)
            if loss is not None and self.step % _LOG_EVERY:
                self.losses.append((self.step, loss))
        finally:
            progress.close()
            torch.set_num_threads(threads_before)
            if self.step:
                self.save(checkpoint)

    def _one_step(self, pool: ThreadPoolExecutor, parts: Sequence[tuple]) -> float:
        loss, gradients = side_by_side(pool, parts, self._loss, self.optimizer.parameters)
        if self.largest_gradient is not None:
            norm = float(torch.nn.utils.get_total_norm(gradients))
            torch._foreach_mul_(gradients, min(1.0, self.largest_gradient / (norm + 1e-6)))
        self.optimizer.step(gradients, self._rate_factor(), pool)
        self.step += 1
        if self.ema is not None:
            # Young averages forget faster, or they would carry the random start along.
            keep = min(self.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [p.detach() for p in self.optimizer.parameters], 1 - keep)
        return loss

    @abstractmethod
    def _loss(self, *part) -> Tensor:
        """The share of a step's loss that is this part's (a scalar)."""

    def _rate_factor(self) -> float:
        """The factor of all rates at this step: `rate_factor` with what the recipe says."""
        recipe = self.recipe
        return rate_factor(self.step, recipe.steps, recipe.warmup, recipe.constant)

    def averaged(self) -> dict[str, nn.Module]:
        """The networks with the averaged weights in place of the last: for export only."""
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self.optimizer.parameters], self.average)
        return self.networks

    def write_log(self, path: Path) -> None:
        """Write the losses as CSV: step, loss."""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *self.losses])

    def save(self, path: Path) -> None:
        """Write the whole state; an interruption while writing leaves the previous file."""
        state = {
            "recipe": self.recipe.as_dict(), "step": self.step,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "average": self.average, "optimizer": self.optimizer.state_dict(), "losses": self.losses,
            "wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds,
        }  # fmt: skip
        save_checkpoint(state, path)

    def restore(self, path: Path, *, only: Collection[str] | None = None) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when it was made by another recipe, or differs in the values
        `only` of it."""
        state = load_checkpoint(path, self.recipe, self.device, only=only)
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for own, saved in zip(self.average, state["average"], strict=True):
            own.copy_(saved)
        self.step, self.losses = state["step"], [tuple(entry) for entry in state["losses"]]
        self.wall_seconds, self.cpu_seconds = state["wall_seconds"], state["cpu_seconds"]
