"""What the model draws, judged: every attribute that a caption names must be right."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from shared.pretraining.diffusion.export import DEFAULTS
from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.description import Description, Named
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.judge import judge
from shared.pretraining.pictures.sampling import KINDS
from shared.pretraining.pictures.scene_judge import count_lights

GUIDANCE, STEPS = DEFAULTS["guidance_scale"], DEFAULTS["num_inference_steps"]
GROUPS = {
    "single shapes": ("single", False),
    "colour and shape never seen together": ("single", True),
    "pairs": ("pair", False),
    "pairs never seen so": ("pair", True),
    "scenes": ("scene", False),
    "scenes never seen so": ("scene", True),
}


@dataclass(frozen=True)
class Prompt:
    """A caption, what it names, and the picture's description that it was written for."""

    text: str
    named: Named
    description: Description


def prompts(kind: str, held_out: bool, count: int) -> Iterator[Prompt]:
    """Prompts of a group: in all the wordings of the training, of descriptions that the training does not have.

    Those of shapes name every colour, so that what is held out is asked for.
    """
    rng = Random(f"evaluation/{kind}/{held_out}")
    made = 0
    while made < count:
        shown = KINDS[kind](rng, held_out=held_out)
        text, named = caption(shown, rng)
        if kind != "scene" and (named.background is None or any(colour is None for _, colour, _ in named.things)):
            continue
        if kind == "scene" and (named.time is None or named.ground is None):
            continue
        made += 1
        yield Prompt(text, named, shown)


class Painter:
    """Draws with a model folder, in batches, every picture from a seed of its own."""

    def __init__(self, folder: Path, *, threads: int = 2, device: str = "cpu"):
        self.pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.threads, self.device = threads, device

    def draw(
        self, texts: list[str], *, first_seed: int = 0, guidance: float = GUIDANCE, steps: int = STEPS, batch: int = 20
    ) -> list[Image.Image]:
        """One picture of each text; the i-th from seed `first_seed` + i."""
        found: list[Image.Image] = []
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for start in range(0, len(texts), batch):
                chosen = texts[start : start + batch]
                generators = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(chosen))]
                with torch.inference_mode():
                    result = self.pipe(chosen, num_inference_steps=steps, guidance_scale=guidance, generator=generators)
                found += result.images
        finally:
            torch.set_num_threads(before)
        return found


def evaluate(
    folder: Path, *, trials: int = 300, threads: int = 2, device: str = "cpu", guidance: float = GUIDANCE,
    steps: int = STEPS,
) -> dict:  # fmt: skip
    """All measurements of the model in `folder` as plain values: `groups` (see `score`), `autoencoder`, `seconds`."""
    painter = Painter(folder, threads=threads, device=device)
    groups = []
    for number, (name, (kind, held_out)) in enumerate(tqdm(GROUPS.items(), desc="groups", unit="group")):
        asked = list(prompts(kind, held_out, trials))
        texts = [prompt.text for prompt in asked]
        drawn = painter.draw(texts, first_seed=10_000 * number, guidance=guidance, steps=steps)
        groups.append({"group": name, **score(drawn, asked)})
    return {
        "guidance": guidance,
        "steps": steps,
        "groups": groups,
        "autoencoder": reconstruction(painter.pipe.vae, trials, device),
        "seconds": seconds_per_picture(painter, steps),
    }


def score(drawn: list[Image.Image], asked: list[Prompt]) -> dict:
    """How many pictures are right in all that their captions name: `right`, `trials`, `share`, its interval from `low`
    to `high`, `attributes`: of each, the share that is right where it is named, and `second_lights`: the share of the
    pictures of scenes with more than one sun or moon, which no attribute is about."""
    right, named, correct, lights = 0, Counter(), Counter(), []
    for picture, prompt in zip(drawn, asked, strict=True):
        verdict = judge(picture, prompt.named)
        right += verdict.right
        if prompt.named.kind == "scene":
            lights.append(count_lights(picture))
        named.update(list(verdict.attributes))
        correct.update(name for name, holds in verdict.attributes.items() if holds)
    low, high = wilson(right, len(asked))
    return {
        "right": right, "trials": len(asked), "share": right / len(asked), "low": low, "high": high,
        "attributes": {name: correct[name] / count for name, count in named.items()},
        "second_lights": sum(count > 1 for count in lights) / max(1, len(lights)),
    }  # fmt: skip


def wilson(right: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share (https://doi.org/10.1080/01621459.1927.10502953); `z` 1.96 gives 95%."""
    share, squared = right / trials, z * z / trials
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def reconstruction(autoencoder, trials: int, device: str = "cpu") -> dict[str, dict]:
    """By kind of picture: the mean PSNR (dB) of true pictures after encoding and decoding, and the share of them that
    is still right for the judge."""
    found = {}
    side = autoencoder.config.sample_size
    for kind in KINDS:
        asked = list(prompts(kind, False, trials))
        kept, ratios = [], []
        for start in range(0, trials, 20):
            true = np.stack([np.asarray(draw(prompt.description, side)) for prompt in asked[start : start + 20]])
            pixels = torch.from_numpy(true).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
            with torch.inference_mode():
                decoded = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mean).sample
            values = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).cpu().numpy()
            error = np.square(values - true).mean((1, 2, 3))
            ratios += list(10 * np.log10(255**2 / np.maximum(error, 1e-3)))
            kept += [Image.fromarray(value.astype(np.uint8)) for value in values]
        found[kind] = {"psnr": float(np.mean(ratios)), "right": score(kept, asked)["share"]}
    return found


def seconds_per_picture(painter: Painter, steps: int = STEPS) -> float:
    """Seconds for one picture alone on one thread: the fastest of three."""
    threads, painter.threads = painter.threads, 1
    try:
        taken = []
        for seed in range(4):
            started = time.perf_counter()
            painter.draw(["a large red ring on a blue background"], first_seed=seed, steps=steps)
            taken.append(time.perf_counter() - started)
        return min(taken[1:])
    finally:
        painter.threads = threads
