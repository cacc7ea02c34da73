"""The language model's training: Muon and AdamW on packed rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from shared.pretraining.language.network import build, loss_sum
from shared.pretraining.language.recipe import Recipe, WorkFolder
from shared.pretraining.optimizing import Optimizers
from shared.pretraining.trainer import Trainer


class LanguageTrainer(Trainer):
    """A language model in training."""

    def __init__(self, recipe: Recipe, *, threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16):
        self.model = build(recipe).to(device)
        optimizer = Optimizers(
            [(dict(self.model.named_parameters()), 1.0)], muon_rate=recipe.muon_rate, adamw_rate=recipe.adamw_rate,
            weight_decay=recipe.weight_decay, keep_out=("embed",), adjust="original", betas=(0.9, 0.99),
        )  # fmt: skip
        super().__init__(recipe, {"model": self.model}, optimizer, threads=threads, device=device, dtype=dtype)

    def train(self, rows_path: Path, checkpoint: Path, *, until: int | None = None) -> LlamaForCausalLM:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end."""
        recipe = self.recipe
        with np.load(rows_path) as rows:
            ids, weights, lengths = rows["ids"], rows["weights"], rows["lengths"]
        parts = self._parts(ids, weights, lengths, recipe.steps if until is None else until)
        self._run(parts, checkpoint, steps=recipe.steps, every=recipe.checkpoint_every)
        return self.model

    def _parts(self, ids: np.ndarray, weights: np.ndarray, lengths: np.ndarray, until: int) -> Iterator[list[tuple]]:
        while self.step < until:
            shape = (-1, int(lengths[self.step]))
            of_step = ids[self.step].reshape(shape), weights[self.step].reshape(shape)
            total = float(of_step[1][:, 1:].sum())
            split = (np.split(values, self.recipe.parts) for values in of_step)
            yield [(*part, total) for part in zip(*split, strict=True)]

    def _loss(self, ids: np.ndarray, weights: np.ndarray, total: float) -> Tensor:
        rows = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        return loss_sum(self.model, rows, torch.from_numpy(weights).to(self.device), self.dtype) / total

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


def train(recipe: Recipe, work: WorkFolder, *, threads: int, device: str, dtype: torch.dtype) -> LanguageTrainer:
    """Train in `work`, going on from its checkpoint if there is one, and write the losses as CSV beside it."""
    trainer = LanguageTrainer(recipe, threads=threads, device=device, dtype=dtype)
    if work.checkpoint.exists():
        trainer.restore(work.checkpoint)
    trainer.train(work.rows, work.checkpoint)
    trainer.write_log(work.log)
    return trainer
