"""The upscaler's training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from shared.pretraining.optimizing import Optimizers
from shared.pretraining.trainer import Trainer
from shared.pretraining.upscaler.data import Batches
from shared.pretraining.upscaler.recipe import Recipe, network


class UpscalerTrainer(Trainer):
    """An upscaler in training, and the moving average of its weights."""

    def __init__(
        self, recipe: Recipe, *, threads: int = 1, device: str = "cpu", dtype: torch.dtype = torch.bfloat16
    ):  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = network().Upscaler(recipe.channels, recipe.blocks)
        self.model.to(device, memory_format=torch.channels_last)
        optimizer = Optimizers(
            [(dict(self.model.named_parameters()), 1.0)], muon_rate=recipe.muon_rate, adamw_rate=recipe.adamw_rate,
            weight_decay=0.0, keep_out=("first", "last"),
        )  # fmt: skip
        super().__init__(
            recipe, {"upscaler": self.model}, optimizer, threads=threads, device=device, dtype=dtype, ema=recipe.ema
        )  # fmt: skip

    def train(self, batches: Batches, checkpoint: Path, *, until: int | None = None) -> None:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end."""
        recipe = self.recipe
        parts = self._parts(batches, recipe.steps if until is None else until)
        self._run(parts, checkpoint, steps=recipe.steps, every=recipe.checkpoint_every)

    def _parts(self, batches: Batches, until: int) -> Iterator[list[tuple]]:
        while self.step < until:
            small, large = batches.batch(self.step)
            split = [values.tensor_split(self.threads) for values in (small, large)]
            yield [(one, other, len(one) / len(small)) for one, other in zip(*split, strict=True) if len(one)]

    def _loss(self, small: Tensor, large: Tensor, share: float) -> Tensor:
        small, large = small.to(self.device), large.to(self.device)
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32):
            found = self.model(small)
        epsilon = self.recipe.epsilon
        return share * (((found.float() - large).square() + epsilon**2).sqrt() - epsilon).mean()
