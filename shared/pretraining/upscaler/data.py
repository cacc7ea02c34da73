"""The training set: patches of generated pictures, and what the embedded model's autoencoder makes of them small."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from shared.pretraining.pictures.abstract import abstract
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.sampling import KINDS
from shared.pretraining.upscaler.recipe import SCALE, Recipe, WorkFolder


def large_picture(recipe: Recipe, number: int) -> Image.Image:
    """Training picture `number`: the same for the same recipe."""
    rng = Random(f"upscaler/{recipe.seed}/{number}")
    kind = rng.choices(list(recipe.shares), list(recipe.shares.values()))[0]
    return abstract(rng, recipe.side) if kind == "abstract" else draw(KINDS[kind](rng), recipe.side)


def smaller(picture: Image.Image) -> Image.Image:
    """A picture a quarter as wide and high, by averaging."""
    return picture.reduce(SCALE)


def busy_places(picture: np.ndarray, patch: int, count: int, rng: Random) -> list[tuple[int, int]]:
    """Where to cut `count` patches (top, left; multiples of the scale): each the busiest of three random places.

    `picture` is height × width × 3. Flat areas teach nothing, but must be seen now and then.
    """
    last = (picture.shape[0] - patch) // SCALE
    coarse = picture[::SCALE, ::SCALE].astype(np.float32)
    places = []
    for _ in range(count):
        tries = [(rng.randint(0, last), rng.randint(0, last)) for _ in range(3)]
        side = patch // SCALE
        best = max(tries, key=lambda at: float(coarse[at[0] : at[0] + side, at[1] : at[1] + side].std((0, 1)).sum()))
        places.append((best[0] * SCALE, best[1] * SCALE))
    return places


def write_patches(recipe: Recipe, work: WorkFolder, autoencoder=None) -> None:
    """Draw the pictures and write their patches (npy, patches × patch × patch × 3, uint8).

    With an `autoencoder` (`AutoencoderKL`) also the same patches a quarter as wide, cut from the whole small picture
    after it was encoded and decoded (npy, patches × patch/4 × patch/4 × 3, uint8); else that file is removed.
    """
    total, small = recipe.pictures * recipe.patches, recipe.patch // SCALE
    fine = _partial(work.patches, (total, recipe.patch, recipe.patch, 3))
    coarse = _partial(work.decoded, (total, small, small, 3)) if autoencoder is not None else None
    row = 0
    for number in tqdm(range(recipe.pictures), desc="pictures", unit="picture", mininterval=1):
        picture = large_picture(recipe, number)
        pixels = np.asarray(picture)
        places = busy_places(pixels, recipe.patch, recipe.patches, Random(f"places/{recipe.seed}/{number}"))
        decoded = np.asarray(through(autoencoder, [smaller(picture)])[0]) if coarse is not None else None
        for top, left in places:
            fine[row] = pixels[top : top + recipe.patch, left : left + recipe.patch]
            if coarse is not None:
                y, x = top // SCALE, left // SCALE
                coarse[row] = decoded[y : y + small, x : x + small]
            row += 1
    work.about.write_text(json.dumps({"recipe": recipe.as_dict(), "decoded": coarse is not None}))
    for path, values in ((work.patches, fine), (work.decoded, coarse)):
        if values is None:
            path.unlink(missing_ok=True)
        else:
            values.flush()
            os.replace(_partial_path(path), path)


@torch.inference_mode()
def through(autoencoder, pictures: list[Image.Image]) -> list[Image.Image]:
    """Pictures after encoding (to the latents' means) and decoding."""
    pixels = torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    values = ((found + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in values]


def load_autoencoder(folder: Path):
    """The `AutoencoderKL` of a model folder (`folder`/vae), in fp32."""
    from diffusers import AutoencoderKL

    if not (folder / "vae" / "config.json").is_file():
        raise FileNotFoundError(f"no autoencoder in {folder}/vae: give --autoencoder a diffusion model's folder")
    return AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32).eval()


class Batches:
    """Patches in training: `batch(step)` gives (small, large), 0 to 1, the same for the same step."""

    def __init__(self, recipe: Recipe, work: WorkFolder):
        self.recipe = recipe
        self.fine = np.load(work.patches, mmap_mode="r")
        self.coarse = np.load(work.decoded, mmap_mode="r") if work.decoded.exists() else None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch × 3 × patch/4 × patch/4 and batch × 3 × patch × patch."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step))
        chosen = rng.integers(len(self.fine), size=recipe.batch)
        large = torch.from_numpy(self.fine[chosen]).permute(0, 3, 1, 2).float() / 255
        small = torch.nn.functional.avg_pool2d(large, SCALE)
        kinds = rng.random(recipe.batch)
        for index, kind in enumerate(kinds):
            if kind < recipe.soft:
                small[index] = worn(small[index], rng, recipe)
            elif self.coarse is not None and kind < recipe.soft + recipe.decoded:
                small[index] = torch.from_numpy(self.coarse[chosen[index]].copy()).permute(2, 0, 1).float() / 255
        # What the network will get has 8 bits.
        small = (small * 255).round().clamp(0, 255) / 255
        for index in range(recipe.batch):
            for pictures in (small, large):
                pictures[index] = _turned(pictures[index], kinds[index])
        return tuple(one.contiguous(memory_format=torch.channels_last) for one in (small, large))


def worn(picture: Tensor, rng: np.random.Generator, recipe: Recipe) -> Tensor:
    """A picture (3 × height × width, 0 to 1) with some blur and some noise."""
    deviation = float(rng.uniform(0.2, recipe.blur))
    at = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-at.square() / (2 * deviation**2))
    kernel /= kernel.sum()
    padded = torch.nn.functional.pad(picture[:, None], (3, 3, 3, 3), mode="replicate")
    soft = torch.nn.functional.conv2d(padded, kernel[None, None, :, None])
    soft = torch.nn.functional.conv2d(soft, kernel[None, None, None, :])[:, 0]
    noise = rng.standard_normal(soft.shape, np.float32) * float(rng.uniform(0, recipe.noise)) / 255
    return (soft + torch.from_numpy(noise)).clamp(0, 1)


def _turned(picture: Tensor, key: float) -> Tensor:
    """The picture turned, mirrored and with its channels in another order, as `key` (0 to 1) says."""
    rng = Random(key)
    turned = torch.rot90(picture, rng.randrange(4), (1, 2))
    if rng.random() < 0.5:
        turned = turned.flip(2)
    return turned[rng.sample(range(3), 3)].clone()


def _partial(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(_partial_path(path), mode="w+", dtype=np.uint8, shape=shape)


def _partial_path(path: Path) -> Path:
    return path.with_suffix(".partial.npy")
