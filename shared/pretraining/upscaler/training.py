"""The training, with a checkpoint that an interrupted run goes on from."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from shared.pretraining.checkpoints import load_checkpoint, save_checkpoint
from shared.pretraining.optimizing import Optimizers, rate_factor, side_by_side
from shared.pretraining.upscaler.data import Batches
from shared.pretraining.upscaler.recipe import Recipe, network

_LOG_EVERY = 20


class Trainer:
    """An upscaler in training, and the moving average of its weights.

    `step` counts the steps done; `wall_seconds` and `cpu_seconds` those of all runs so far.
    """

    def __init__(
        self, recipe: Recipe, *, threads: int = 1, device: str = "cpu", dtype: torch.dtype = torch.bfloat16
    ):  # fmt: skip
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self.threads = threads if device == "cpu" else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = network().Upscaler(recipe.channels, recipe.blocks)
        self.model.to(device, memory_format=torch.channels_last)
        self.optimizer = Optimizers(
            [(dict(self.model.named_parameters()), 1.0)], muon_rate=recipe.muon_rate, adamw_rate=recipe.adamw_rate,
            weight_decay=0.0, keep_out=("first", "last"),
        )  # fmt: skip
        self.average = [parameter.detach().clone() for parameter in self.optimizer.parameters]
        self.step = 0
        self.wall_seconds = self.cpu_seconds = 0.0
        self.losses: list[tuple[int, float]] = []

    def train(self, batches: Batches, checkpoint: Path, *, until: int | None = None) -> None:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end."""
        until = self.recipe.steps if until is None else until
        wall, cpu = self.wall_seconds, self.cpu_seconds
        started_wall, started_cpu = time.perf_counter(), time.process_time()
        threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        progress = tqdm(total=self.recipe.steps, initial=self.step, desc="training", unit="step", mininterval=1)
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                while self.step < until:
                    loss = self._one_step(pool, *batches.batch(self.step))
                    self.wall_seconds = wall + time.perf_counter() - started_wall
                    self.cpu_seconds = cpu + time.process_time() - started_cpu
                    progress.update()
                    if self.step % _LOG_EVERY == 0 or self.step == until:
                        self.losses.append((self.step, loss))
                        progress.set_postfix(loss=f"{loss:.5f}")
                    if self.step % self.recipe.checkpoint_every == 0:
                        self.save(checkpoint)
        finally:
            progress.close()
            torch.set_num_threads(threads_before)
            if self.step:
                self.save(checkpoint)

    def _one_step(self, pool: ThreadPoolExecutor, small: Tensor, large: Tensor) -> float:
        recipe = self.recipe
        split = [values.tensor_split(self.threads) for values in (small, large)]
        parts = [(one, other, len(one) / len(small)) for one, other in zip(*split, strict=True) if len(one)]
        loss, gradients = side_by_side(pool, parts, self._loss, self.optimizer.parameters)
        self.optimizer.step(gradients, rate_factor(self.step, recipe.steps, recipe.warmup, recipe.constant))
        self.step += 1
        # Young averages forget faster, or they would carry the random start along.
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.optimizer.parameters], 1 - keep)
        return loss

    def _loss(self, small: Tensor, large: Tensor, share: float) -> Tensor:
        small, large = small.to(self.device), large.to(self.device)
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32):
            found = self.model(small)
        epsilon = self.recipe.epsilon
        return share * (((found.float() - large).square() + epsilon**2).sqrt() - epsilon).mean()

    def averaged(self) -> torch.nn.Module:
        """The network with the averaged weights in place of the last: for export only."""
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self.optimizer.parameters], self.average)
        return self.model

    def save(self, path: Path) -> None:
        """Write the whole state."""
        state = {
            "recipe": self.recipe.as_dict(), "step": self.step, "model": self.model.state_dict(),
            "average": self.average, "optimizer": self.optimizer.state_dict(), "losses": self.losses,
            "wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds,
        }  # fmt: skip
        save_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when it was made by another recipe than this trainer's."""
        state = load_checkpoint(path, self.recipe, self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(self.average, state["average"])
        self.step, self.losses = state["step"], [tuple(entry) for entry in state["losses"]]
        self.wall_seconds, self.cpu_seconds = state["wall_seconds"], state["cpu_seconds"]
