"""The training loop: Muon and AdamW on packed rows, with a checkpoint that an interrupted run goes on from."""

from __future__ import annotations

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaForCausalLM

from shared.pretraining.checkpoints import load_checkpoint, save_checkpoint
from shared.pretraining.language.network import build, loss_sum
from shared.pretraining.language.recipe import Recipe, WorkFolder

_LOG_EVERY = 20


class Trainer:
    """A model in training. `step` counts the steps done; `cpu_seconds` and `wall_seconds` those of all runs so far."""

    def __init__(self, recipe: Recipe, *, threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16):
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self.model = build(recipe).to(device)
        self.parameters = list(self.model.parameters())
        inner = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in self.model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers = [
            torch.optim.Muon(
                inner, lr=recipe.muon_rate, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="original"
            ),
            torch.optim.AdamW(rest, lr=recipe.adamw_rate, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.threads = threads if device == "cpu" else 1
        self.step = 0
        self.cpu_seconds = self.wall_seconds = 0.0
        self.losses: list[tuple[int, float]] = []

    def train(self, rows_path: Path, checkpoint: Path, *, until: int | None = None) -> LlamaForCausalLM:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end.

        Workers are threads with one core each, every one with its own rows: their gradients are added in a fixed order,
        so the result does not depend on timing, and a busy core delays one of them only.
        """
        with np.load(rows_path) as rows:
            ids, weights, lengths = rows["ids"], rows["weights"], rows["lengths"]
        until = self.recipe.steps if until is None else until
        started_wall, started_cpu = time.perf_counter(), time.process_time()
        wall, cpu = self.wall_seconds, self.cpu_seconds
        threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        progress = tqdm(total=self.recipe.steps, initial=self.step, desc="training", unit="step", mininterval=1)
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                while self.step < until:
                    shape = (-1, int(lengths[self.step]))
                    loss = self._one_step(pool, ids[self.step].reshape(shape), weights[self.step].reshape(shape))
                    self.wall_seconds = wall + time.perf_counter() - started_wall
                    self.cpu_seconds = cpu + time.process_time() - started_cpu
                    progress.update()
                    if self.step % _LOG_EVERY == 0 or self.step == until:
                        self.losses.append((self.step, loss))
                        progress.set_postfix(loss=f"{loss:.3f}", cpu_s=f"{self.cpu_seconds:.0f}")
                    if self.step % self.recipe.checkpoint_every == 0:
                        self.save(checkpoint)
        finally:
            progress.close()
            torch.set_num_threads(threads_before)
            if self.step:
                self.save(checkpoint)
        return self.model

    def _one_step(self, pool: ThreadPoolExecutor, ids: np.ndarray, weights: np.ndarray) -> float:
        total = float(weights[:, 1:].sum())
        parts = zip(np.split(ids, self.recipe.parts), np.split(weights, self.recipe.parts), strict=True)
        results = list(pool.map(lambda part: self._gradients(*part, total), parts))
        for index, parameter in enumerate(self.parameters):
            parameter.grad = torch.stack([gradients[index] for _, gradients in results]).sum(0)
        factor = self._rate_factor()
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        self.step += 1
        return sum(loss for loss, _ in results)

    def _gradients(self, ids: np.ndarray, weights: np.ndarray, total: float) -> tuple[float, tuple[Tensor, ...]]:
        rows = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        loss = loss_sum(self.model, rows, torch.from_numpy(weights).to(self.device), self.dtype) / total
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def _rate_factor(self) -> float:
        recipe = self.recipe
        done, highest, constant = self.step, 1.0, recipe.constant
        for steps in recipe.rounds:
            if done < steps:
                break
            done, highest, constant = done - steps, recipe.later_rate, 0.0
        rising = min(1.0, (done + 1) / recipe.warmup) if recipe.warmup else 1.0
        falling = min(1.0, (steps - done) / max(1.0, steps * (1 - constant)))
        return highest * rising * falling

    def save(self, path: Path) -> None:
        """Write the whole state; an interruption while writing leaves the previous file."""
        state = {
            "recipe": self.recipe.as_dict(),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "losses": self.losses,
        }
        save_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when it was made by another recipe than this trainer's."""
        state = load_checkpoint(path, self.recipe, self.device)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.losses = state["step"], [tuple(entry) for entry in state["losses"]]
        self.cpu_seconds, self.wall_seconds = state["cpu_seconds"], state["wall_seconds"]


def train(recipe: Recipe, work: WorkFolder, *, threads: int, device: str, dtype: torch.dtype) -> Trainer:
    """Train in `work`, going on from its checkpoint if there is one, and write the losses as CSV beside it."""
    trainer = Trainer(recipe, threads=threads, device=device, dtype=dtype)
    if work.checkpoint.exists():
        trainer.restore(work.checkpoint)
    trainer.train(work.rows, work.checkpoint)
    with work.log.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *trainer.losses])
    return trainer
