"""The training of UNet and text encoder on cached latents, with a checkpoint that an interrupted run goes on from."""

from __future__ import annotations

import csv
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from shared.pretraining.checkpoints import load_checkpoint, save_checkpoint
from shared.pretraining.diffusion.autoencoder import channel_statistics
from shared.pretraining.diffusion.networks import build_scheduler, build_text_encoder, build_unet
from shared.pretraining.diffusion.recipe import Recipe, WorkFolder
from shared.pretraining.diffusion.tokens import encode, load_tokenizer
from shared.pretraining.optimizing import Optimizers, rate_factor, side_by_side

_LOG_EVERY = 20
# AdamW's: what is no map between features of one width and another.
_KEEP_OUT = ("embedding", "conv_in", "conv_out")


class Trainer:
    """UNet and text encoder in training, and the moving average of their weights.

    `step` counts the steps done, `wall_seconds` and `cpu_seconds` those of all runs so far. With `compiled`,
    torch.compile makes the UNet's steps cheaper, for minutes of compiling first; on a CPU it needs a C++ compiler.
    """

    def __init__(
        self, recipe: Recipe, tokenizer: CLIPTokenizer, *,
        threads: int = 2, device: str = "cpu", dtype: torch.dtype = torch.bfloat16,
        compiled: bool = False,
    ):  # fmt: skip
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self.threads = threads if device == "cpu" else 1
        self.unet = build_unet(recipe).to(device, memory_format=torch.channels_last)
        self.text_encoder = build_text_encoder(recipe, tokenizer).to(device)
        # On CPU in a third of the time of scaled_dot_product_attention's backward pass at these sizes.
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        self.networks = {"unet": self.unet, "text_encoder": self.text_encoder}
        groups = [
            (dict(self.unet.named_parameters()), 1.0),
            (dict(self.text_encoder.named_parameters()), recipe.text_rate),
        ]
        self.optimizer = Optimizers(
            groups, muon_rate=recipe.muon_rate, adamw_rate=recipe.adamw_rate, weight_decay=recipe.weight_decay,
            keep_out=_KEEP_OUT, shards=recipe.parts,
        )  # fmt: skip
        self.compiled = compiled
        self.denoise = torch.compile(self.unet, dynamic=False) if compiled else self.unet
        self.average = [parameter.detach().clone() for parameter in self.optimizer.parameters]
        self.no_caption = encode(tokenizer, [""])[0].to(device)
        self.levels = NoiseLevels(recipe)
        self.step = 0
        self.wall_seconds = self.cpu_seconds = 0.0
        self.losses: list[tuple[int, float]] = []

    def train(self, latents: Path, captions: Path, checkpoint: Path, *, until: int | None = None) -> None:
        """Train until step `until` (default: the recipe's last), writing `checkpoint` now and then and at every end."""
        recipe = self.recipe
        pictures, texts = np.load(latents), np.load(captions, mmap_mode="r")
        if len(pictures) != len(texts):
            raise ValueError(f"{latents} has {len(pictures)} pictures, {captions} {len(texts)}: make both anew")
        mean, deviation = (values[:, None, None] for values in channel_statistics(pictures))
        pictures = ((pictures - mean) / deviation).astype(np.float16)
        until = recipe.steps if until is None else until
        wall, cpu = self.wall_seconds, self.cpu_seconds
        started_wall, started_cpu = time.perf_counter(), time.process_time()
        threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        progress = tqdm(total=recipe.steps, initial=self.step, desc="training", unit="step", mininterval=1)
        try:
            if self.compiled and self.step < until:
                self._compile(pictures, texts)
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                while self.step < until:
                    loss = self._one_step(pool, pictures, texts)
                    self.wall_seconds = wall + time.perf_counter() - started_wall
                    self.cpu_seconds = cpu + time.process_time() - started_cpu
                    progress.update()
                    if self.step % _LOG_EVERY == 0 or self.step == until:
                        self.losses.append((self.step, loss))
                        progress.set_postfix(loss=f"{loss:.4f}")
                    if self.step % recipe.checkpoint_every == 0:
                        self.save(checkpoint)
        finally:
            progress.close()
            torch.set_num_threads(threads_before)
            if self.step:
                self.save(checkpoint)

    def _compile(self, pictures: np.ndarray, texts: np.ndarray) -> None:
        """Compile both passes here, or every thread of the pool would."""
        print("compiling the UNet: some minutes, once on this machine", flush=True)
        value = self._loss(*self._batch(pictures, texts)[0])
        torch.autograd.grad(value, self.optimizer.parameters)

    def _one_step(self, pool: ThreadPoolExecutor, pictures: np.ndarray, texts: np.ndarray) -> float:
        parts = self._batch(pictures, texts)
        loss, gradients = side_by_side(pool, parts, self._loss, self.optimizer.parameters)
        recipe = self.recipe
        self.optimizer.step(gradients, rate_factor(self.step, recipe.steps, recipe.warmup, recipe.constant), pool)
        self.step += 1
        # Young averages forget faster, or they would carry the random start along.
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.optimizer.parameters], 1 - keep)
        return loss

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

    def averaged(self) -> dict[str, torch.nn.Module]:
        """The networks (`unet`, `text_encoder`) with the averaged weights in place of the last: for export only."""
        with torch.no_grad():
            torch._foreach_copy_([p.detach() for p in self.optimizer.parameters], self.average)
        return self.networks

    def save(self, path: Path) -> None:
        """Write the whole state."""
        state = {
            "recipe": self.recipe.as_dict(), "step": self.step,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "average": self.average, "optimizer": self.optimizer.state_dict(), "losses": self.losses,
            "wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds,
        }  # fmt: skip
        save_checkpoint(state, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises OtherRecipe when it was made by another recipe than this trainer's."""
        state = load_checkpoint(path, self.recipe, self.device)
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(self.average, state["average"])
        self.step, self.losses = state["step"], [tuple(entry) for entry in state["losses"]]
        self.wall_seconds, self.cpu_seconds = state["wall_seconds"], state["cpu_seconds"]


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
) -> Trainer:
    """Train in `work`, going on from its checkpoint if there is one, and write the losses as CSV beside it."""
    tokenizer = load_tokenizer(work.tokenizer)
    trainer = Trainer(recipe, tokenizer, threads=threads, device=device, dtype=dtype, compiled=compiled)
    if work.checkpoint.exists():
        trainer.restore(work.checkpoint)
    trainer.train(work.latents, work.captions, work.checkpoint)
    with work.log.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *trainer.losses])
    return trainer
