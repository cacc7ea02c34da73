"""The autoencoder's training, and the latents of all training pictures, computed once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from shared.pretraining.diffusion.data import Drawer, as_input, autoencoder_batch, picture
from shared.pretraining.diffusion.networks import build_autoencoder, build_thumbnail
from shared.pretraining.diffusion.recipe import Recipe
from shared.pretraining.optimizing import Optimizers, rate_factor
from shared.pretraining.trainer import Trainer

_CHECKPOINT_EVERY = 100
_ENCODE = 32


class AutoencoderTrainer(Trainer):
    """An autoencoder in training."""

    label = "autoencoder"
    largest_gradient = 1.0

    def __init__(
        self, recipe: Recipe, *, threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16,
        workers: int = 0,
    ):  # fmt: skip
        self.workers = workers
        self.model = build_autoencoder(recipe).to(device, memory_format=torch.channels_last)
        # Gives the mean colour of a patch from its latent; only the training needs it.
        self.thumbnail = build_thumbnail(recipe).to(device)
        own = recipe.autoencoder
        optimizer = Optimizers(
            [(dict(self.model.named_parameters()), 1.0), (dict(self.thumbnail.named_parameters()), 1.0)],
            muon_rate=own.rate, adamw_rate=own.rate, weight_decay=0.0, keep_out=("conv_in", "conv_out"),
        )  # fmt: skip
        networks = {"autoencoder": self.model, "thumbnail": self.thumbnail}
        super().__init__(recipe, networks, optimizer, threads=threads, device=device, dtype=dtype)

    def train(self, checkpoint: Path, *, until: int | None = None) -> AutoencoderKL:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at the end."""
        own = self.recipe.autoencoder
        until = own.steps if until is None else until
        with Drawer(self.recipe, self.workers) as drawer:
            drawn = drawer.batches(autoencoder_batch, range(self.step, until))
            self._run(map(self._parts, drawn), checkpoint, steps=own.steps, every=_CHECKPOINT_EVERY)
        return self.model

    def _parts(self, pictures: np.ndarray) -> list[tuple]:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        latents = (len(pictures), recipe.autoencoder.latent_channels, recipe.latent_side, recipe.latent_side)
        noise = torch.randn(latents, generator=generator)
        return [
            (as_input(part, self.device), part_noise.to(self.device), len(part) / len(pictures))
            for part, part_noise in zip(
                np.array_split(pictures, self.threads), torch.tensor_split(noise, self.threads), strict=True
            )
            if len(part)
        ]

    def _rate_factor(self) -> float:
        own = self.recipe.autoencoder
        first = round(own.first_cycle * own.steps)
        if self.step < first:
            return rate_factor(self.step, first, own.warmup, 0.4)
        return 0.5 * rate_factor(self.step - first, own.steps - first, own.warmup, 0.4)

    def _loss(self, pixels: Tensor, noise: Tensor, share: float) -> Tensor:
        own, device = self.recipe.autoencoder, torch.device(self.device).type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            posterior = self.model.encode(pixels).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            latents = mean + (0.5 * log_variance).exp() * noise
            found = self.model.decode(latents).sample.float()
        weights = 1 + own.edge_weight * edges(pixels)
        error = (weights * (found - pixels).abs()).sum() / (weights.sum() * 3)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        thumbnail = F.mse_loss(self.thumbnail(latents), F.avg_pool2d(pixels, self.recipe.factor))
        return share * (error + own.kl_weight * divergence + own.thumbnail_weight * thumbnail)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when another recipe of autoencoder or pictures made it."""
        super().restore(path, only=("autoencoder", "side", "pictures", "seed", "shares"))


def edges(pixels: Tensor) -> Tensor:
    """Where colours change (batch × 1 × height × width, 0 to 1): the range of a pixel's 3 × 3 neighbourhood."""
    brightest = F.max_pool2d(pixels, 3, 1, 1)
    darkest = -F.max_pool2d(-pixels, 3, 1, 1)
    return (brightest - darkest).amax(1, keepdim=True).clamp(0, 1)


def encode_all(
    model: AutoencoderKL, recipe: Recipe, path: Path, *,
    threads: int = 2, workers: int = 0, device: str = "cpu", dtype: torch.dtype = torch.bfloat16,
) -> None:  # fmt: skip
    """Write the latents' means of all training pictures (npy, pictures × channels × height × width, fp16)."""
    side, channels = recipe.latent_side, recipe.autoencoder.latent_channels
    found = np.zeros((recipe.pictures, channels, side, side), np.float16)

    @torch.inference_mode()
    def encode(pictures: np.ndarray) -> np.ndarray:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            return model.encode(as_input(pictures, device)).latent_dist.mean.float().cpu().numpy()

    ranges = range(0, recipe.pictures, _ENCODE)
    with (
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        Drawer(recipe, workers) as drawer,
        tqdm(total=recipe.pictures, desc="latents", unit="picture", mininterval=1) as progress,
    ):
        for start, pictures in zip(ranges, drawer.batches(_some_pictures, ranges), strict=True):
            parts = [part for part in np.array_split(pictures, threads) if len(part)]
            found[start : start + len(pictures)] = np.concatenate(list(pool.map(encode, parts)))
            progress.update(len(pictures))
    partial = path.with_suffix(".partial.npy")
    np.save(partial, found)
    os.replace(partial, path)


def channel_statistics(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (fp32) of every channel of latents (pictures × channels × height × width)."""
    values = latents.astype(np.float32)
    found = values.mean((0, 2, 3), dtype=np.float64), values.std((0, 2, 3), dtype=np.float64)
    return found[0].astype(np.float32), found[1].astype(np.float32)


@torch.no_grad()
def standardise(model: AutoencoderKL, latents: np.ndarray) -> None:
    """Make every latent channel have mean 0 and deviation 1 over these latents: the change goes into the two linear
    layers around the latents, so the pipeline needs no other scaling."""
    mean, deviation = (torch.from_numpy(values) for values in channel_statistics(latents))
    before, after = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    # The decoder's first layer sees latents of their old scale again; then the encoder's last gives those of the new.
    after.bias += after.weight[:, :, 0, 0] @ mean.to(after.bias)
    after.weight *= deviation.to(after.weight)[None, :, None, None]
    before.weight[:channels] /= deviation.to(before.weight)[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean.to(before.bias)) / deviation.to(before.bias)
    before.bias[channels:] -= 2 * deviation.to(before.bias).log()


def _some_pictures(recipe: Recipe, start: int) -> np.ndarray:
    return np.stack([picture(recipe, number) for number in range(start, min(start + _ENCODE, recipe.pictures))])
