"""What the upscaler gains over bicubic enlargement, on pictures that no training has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageFilter
from tqdm import tqdm

from shared.image_quality import psnr, ssim
from shared.pretraining.pictures.abstract import abstract
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.from_above import CLASSES, view_from_above
from shared.pretraining.pictures.sampling import KINDS
from shared.pretraining.upscaler.data import smaller, through
from shared.pretraining.upscaler.recipe import SCALE, network

_SIDE = 512


def held_out(kind: str, number: int) -> Image.Image:
    """Picture `number` of a group of `GROUPS`, 512 pixels a side: what is on it is in no training picture."""
    rng = Random(f"upscaler held out/{kind}/{number}")
    if kind == "abstract":
        return abstract(rng, _SIDE)
    if kind == "from above":
        return view_from_above(CLASSES[number % len(CLASSES)], rng, _SIDE)
    return draw(KINDS[kind](rng, held_out=True), _SIDE)


GROUPS = {
    "single": "single shapes", "pair": "pairs", "scene": "scenes", "abstract": "abstract pictures",
    "from above": "land from above (a kind that the training has not)",
}  # fmt: skip


def worn(picture: Image.Image, number: int) -> Image.Image:
    """A picture with a little blur and noise."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
    noise = np.random.default_rng(number).normal(0, 4, soft.shape)
    return Image.fromarray(np.clip(np.rint(soft + noise), 0, 255).astype(np.uint8))


def bicubic(picture: Image.Image) -> Image.Image:
    """A picture four times as wide and high, by bicubic interpolation."""
    return picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.BICUBIC)


def evaluate(folder: Path, *, trials: int = 40, threads: int = 1, autoencoder=None) -> dict:
    """All measurements of the model in `folder` as plain values.

    `rows`: for each input (averaged down, worn, and decoded when an `autoencoder` is given) and each group PSNR and
    SSIM of bicubic enlargement and of the network, and the gains with their 95% intervals over `trials` pictures.
    `seconds`: for one picture of 128 pixels a side, on one thread.
    """
    module = network()
    model = module.load_upscaler(folder)
    inputs: dict[str, Callable] = {"averaged down": lambda picture, _: picture, "blurred, with noise": worn}
    if autoencoder is not None:
        inputs["from the autoencoder"] = lambda picture, _: through(autoencoder, [picture])[0]
    rows = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, change in inputs.items():
            for kind, label in tqdm(GROUPS.items(), desc=name, unit="group"):
                measured = []
                for number in range(trials):
                    true = held_out(kind, number)
                    small = change(smaller(true), number)
                    plain, fine = bicubic(small), module.upscale(model, small)
                    measured.append((psnr(plain, true), psnr(fine, true), ssim(plain, true), ssim(fine, true)))
                rows.append({"input": name, "group": label, "trials": trials, **_summary(np.array(measured))})
        torch.set_num_threads(1)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            module.upscale(model, small)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return {"rows": rows, "seconds": min(seconds)}


def _summary(measured: np.ndarray) -> dict:
    """`measured`: trials × (PSNR bicubic, PSNR network, SSIM bicubic, SSIM network)."""
    means = measured.mean(0)
    found = dict(zip(("psnr_bicubic", "psnr", "ssim_bicubic", "ssim"), map(float, means), strict=True))
    for name, gains in (("gain", measured[:, 1] - measured[:, 0]), ("ssim_gain", measured[:, 3] - measured[:, 2])):
        half = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        found |= {name: float(gains.mean()), f"{name}_low": float(gains.mean()) - half,
                  f"{name}_high": float(gains.mean()) + half}  # fmt: skip
    return found
