"""The training of UNet and text encoder on cached latents, with a checkpoint that an interrupted run goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from shared.pretraining.diffusion.autoencoder import channel_statistics
from shared.pretraining.diffusion.networks import build_scheduler, build_text_encoder, build_unet
from shared.pretraining.diffusion.recipe import Recipe, WorkFolder
from shared.pretraining.diffusion.tokens import encode, load_tokenizer
from shared.pretraining.optimizing import Optimizers
from shared.pretraining.trainer import Trainer

# AdamW's: what is no map between features of one width and another.
_KEEP_OUT = ("embedding", "conv_in", "conv_out")


class UNetTrainer(Trainer):
    """UNet and text encoder in training, and the moving average of their weights.

    With `compiled`, torch.compile makes the UNet's steps cheaper, for minutes of compiling first; on a CPU it needs a
    C++ compiler.
    """

    def __init__(
        self, recipe: Recipe, tokenizer: CLIPTokenizer, *,
        threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16,
        compiled: bool = False,
    ):  # fmt: skip
        self.unet = build_unet(recipe).to(device, memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(recipe, tokenizer).to(device)
        # On CPU in a third of the time of scaled_dot_product_attention's backward pass at these sizes.
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        groups = [
            (dict(self.unet.named_parameters()), 1.0),
            (dict(self.text_encoder.named_parameters()), recipe.text_rate),
        ]
        optimizer = Optimizers(
            groups, muon_rate=recipe.muon_rate, adamw_rate=recipe.adamw_rate, weight_decay=recipe.weight_decay,
            keep_out=_KEEP_OUT, shards=recipe.parts,
        )  # fmt: skip
        networks = {"unet": self.unet, "text_encoder": self.text_encoder}
        super().__init__(
            recipe, networks, optimizer, threads=threads, device=device, dtype=dtype, ema=recipe.ema
        )  # fmt: skip
        self.compiled = compiled
        self.denoise = torch.compile(self.unet, dynamic=False) if compiled else self.unet
        self.no_caption = encode(tokenizer, [""])[0].to(device)
        self.levels = NoiseLevels(recipe)

    def train(self, latents: Path, captions: Path, checkpoint: Path, *, until: int | None = None) -> None:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end."""
        recipe = self.recipe
        pictures, texts = np.load(latents), np.load(captions, mmap_mode="r")
        if len(pictures) != len(texts):
            raise ValueError(f"{latents} has {len(pictures)} pictures, {captions} {len(texts)}: make both anew")
        mean, deviation = (values[:, None, None] for values in channel_statistics(pictures))
        pictures = ((pictures - mean) / deviation).astype(np.float16)
        batches = self._batches(pictures, texts, recipe.steps if until is None else until)
        self._run(batches, checkpoint, steps=recipe.steps, every=recipe.checkpoint_every)

    def _batches(self, pictures: np.ndarray, texts: np.ndarray, until: int) -> Iterator[list[tuple]]:
        if self.compiled and self.step < until:
            print("compiling the UNet: some minutes, once on this machine", flush=True)
            # Both passes, here, or every thread of the pool would.
            torch.autograd.grad(self._loss(*self._batch(pictures, texts)[0]), self.optimizer.parameters)
        while self.step < until:
            yield self._batch(pictures, texts)

    def _batch(self, pictures: np.ndarray, texts: np.ndarray) -> list[tuple]:
        """The parts of this step: latents, noise, levels, token ids, share of the batch. They depend on the step's
        number only, so a run that was interrupted goes on as if it had not been."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.step))
        chosen = np.sort(rng.integers(len(pictures), size=recipe.batch))
        clean = torch.from_numpy(pictures[chosen].astype(np.float32)).to(self.device)
        wording = rng.integers(texts.shape[1], size=recipe.batch)
        ids = torch.from_numpy(texts[chosen, wording].astype(np.int64)).to(self.device)
        dropped = torch.from_numpy(rng.random(recipe.batch) < recipe.caption_dropout).to(self.device)
        ids = torch.where(dropped[:, None], self.no_caption, ids)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32)).to(self.device)
        levels = torch.from_numpy(self.levels.draw(rng, recipe.batch)).to(self.device)
        split = recipe.parts
        return [
            (*values, 1 / split)
            for values in zip(*(torch.tensor_split(all, split) for all in (clean, noise, levels, ids)), strict=True)
        ]

    def _loss(self, clean: Tensor, noise: Tensor, levels: Tensor, ids: Tensor, share: float) -> Tensor:
        signal, amount, weight = (table.to(clean.device)[levels][:, None, None, None] for table in self.levels.tables)
        noisy = (signal * clean + amount * noise).contiguous(memory_format=torch.channels_last)
        target = signal * noise - amount * clean
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32):
            states = self.text_encoder(ids).last_hidden_state
            (found,) = self.denoise(noisy, levels, states, return_dict=False)
        return share * (weight * (found.float() - target).square()).mean()


class NoiseLevels:
    """The schedule's levels: how much signal and noise each has, how much it counts, and how often it is drawn.

    `tables` has three fp32 tensors, one value a level: factors of signal and noise (their squares add up to one), and
    the weight of the level's loss.
    """

    def __init__(self, recipe: Recipe):
        kept = build_scheduler(recipe).alphas_cumprod.double()
        ratio = kept / (1 - kept)
        # The loss of v counts a picture's error snr + 1 times; above the limit, no more than there.
        weight = torch.clamp((recipe.snr_limit + 1) / (ratio + 1), max=1.0)
        self.recipe = recipe
        self.tables = (kept.sqrt().float(), (1 - kept).sqrt().float(), weight.float())
        self.logs = (-0.5 * ratio.log()).numpy()  # of noise over signal, rising

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` levels (int64) in random order, spread evenly over the distribution of the recipe."""
        recipe = self.recipe
        shares = (np.arange(count) + rng.random(count)) / count
        normal = NormalDist(recipe.noise_mean, recipe.noise_deviation)
        wanted = np.array([normal.inv_cdf(min(max(share, 1e-6), 1 - 1e-6)) for share in shares])
        levels = np.clip(np.searchsorted(self.logs, wanted), 0, len(self.logs) - 1)
        anywhere = rng.random(count) < recipe.uniform_noise
        levels[anywhere] = rng.integers(len(self.logs), size=int(anywhere.sum()))
        return rng.permutation(levels).astype(np.int64)


def train(
    recipe: Recipe, work: WorkFolder, *, threads: int, device: str, dtype: torch.dtype, compiled: bool
) -> UNetTrainer:
    """Train in `work`, going on from its checkpoint if there is one, and write the losses as CSV beside it."""
    tokenizer = load_tokenizer(work.tokenizer)
    trainer = UNetTrainer(recipe, tokenizer, threads=threads, device=device, dtype=dtype, compiled=compiled)
    if work.checkpoint.exists():
        trainer.restore(work.checkpoint)
    trainer.train(work.latents, work.captions, work.checkpoint)
    trainer.write_log(work.log)
    return trainer
