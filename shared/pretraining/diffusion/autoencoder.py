"""The autoencoder's training, and the latents of all training pictures, computed once."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from shared.pretraining.checkpoints import load_checkpoint, save_checkpoint
from shared.pretraining.diffusion.data import Drawer, as_input, autoencoder_batch, picture
from shared.pretraining.diffusion.networks import build_autoencoder, build_thumbnail
from shared.pretraining.diffusion.recipe import Recipe
from shared.pretraining.optimizing import Optimizers, rate_factor, side_by_side

_CHECKPOINT_EVERY = 100
_ENCODE = 32


class AutoencoderTrainer:
    """An autoencoder in training. `step` counts the steps done; `seconds` those of all runs so far, by the clock."""

    def __init__(
        self, recipe: Recipe, *, threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16,
        workers: int = 0,
    ):  # fmt: skip
        self.recipe, self.device, self.dtype, self.workers = recipe, device, dtype, workers
        self.threads = threads if device == "cpu" else 1
        self.model = build_autoencoder(recipe).to(device, memory_format=torch.channels_last)
        # Gives the mean colour of a patch from its latent; only the training needs it.
        self.thumbnail = build_thumbnail(recipe).to(device)
        own = recipe.autoencoder
        self.optimizer = Optimizers(
            [(dict(self.model.named_parameters()), 1.0), (dict(self.thumbnail.named_parameters()), 1.0)],
            muon_rate=own.rate, adamw_rate=own.rate, weight_decay=0.0, keep_out=("conv_in", "conv_out"),
        )  # fmt: skip
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []

    def train(self, checkpoint: Path, *, until: int | None = None) -> AutoencoderKL:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at the end."""
        own = self.recipe.autoencoder
        until = own.steps if until is None else until
        before, started, threads_before = self.seconds, time.perf_counter(), torch.get_num_threads()
        torch.set_num_threads(1)
        progress = tqdm(total=own.steps, initial=self.step, desc="autoencoder", unit="step", mininterval=1)
        try:
            with (
                ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
                Drawer(self.recipe, self.workers) as drawer,
            ):
                for pictures in drawer.batches(autoencoder_batch, range(self.step, until)):
                    loss = self._one_step(pool, pictures)
                    self.seconds = before + time.perf_counter() - started
                    progress.update()
                    if self.step % 20 == 0 or self.step == until:
                        self.losses.append((self.step, loss))
                        progress.set_postfix(loss=f"{loss:.4f}")
                    if self.step % _CHECKPOINT_EVERY == 0:
                        self.save(checkpoint)
        finally:
            progress.close()
            torch.set_num_threads(threads_before)
            if self.step:
                self.save(checkpoint)
        return self.model

    def _one_step(self, pool: ThreadPoolExecutor, pictures: np.ndarray) -> float:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        latents = (len(pictures), recipe.autoencoder.latent_channels, recipe.latent_side, recipe.latent_side)
        noise = torch.randn(latents, generator=generator)
        parts = [
            (as_input(part, self.device), part_noise.to(self.device), len(part) / len(pictures))
            for part, part_noise in zip(
                np.array_split(pictures, self.threads), torch.tensor_split(noise, self.threads), strict=True
            )
            if len(part)
        ]
        loss, gradients = side_by_side(pool, parts, self._loss, self.optimizer.parameters)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, min(1.0, 1.0 / (float(norm) + 1e-6)))
        self.optimizer.step(gradients, self._rate_factor())
        self.step += 1
        return loss

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

    def save(self, path: Path) -> None:
        """Write the whole state."""
        state = {
            "recipe": self.recipe.as_dict(), "step": self.step, "model": self.model.state_dict(),
            "thumbnail": self.thumbnail.state_dict(), "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds, "losses": self.losses,
        }  # fmt: skip
        save_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when another recipe of autoencoder or pictures made it."""
        own = ("autoencoder", "side", "pictures", "seed", "shares")
        state = load_checkpoint(path, self.recipe, self.device, only=own)
        self.model.load_state_dict(state["model"])
        self.thumbnail.load_state_dict(state["thumbnail"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses = [tuple(entry) for entry in state["losses"]]


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
