"""The training set: which pictures, and their captions as tokens. Pictures are drawn anew when they are needed."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from shared.pretraining.diffusion.recipe import Recipe
from shared.pretraining.diffusion.tokens import encode
from shared.pretraining.pictures.abstract import abstract
from shared.pretraining.pictures.captions import caption
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.sampling import description

_BATCH = 2000


def write_captions(tokenizer: CLIPTokenizer, recipe: Recipe, path: Path) -> None:
    """Write the token ids of `recipe.captions` captions of each picture (npy, pictures × captions × tokens, uint16)."""
    ids = np.zeros((recipe.pictures, recipe.captions, recipe.tokens), np.uint16)
    with tqdm(total=recipe.pictures, desc="captions", unit="picture", mininterval=1) as progress:
        for start in range(0, recipe.pictures, _BATCH):
            numbers = range(start, min(start + _BATCH, recipe.pictures))
            texts = [text for number in numbers for text in captions_of(recipe, number)]
            found = encode(tokenizer, texts).view(len(numbers), recipe.captions, -1)
            ids[start : start + len(numbers)] = found.numpy()
            progress.update(len(numbers))
    partial_path = path.with_suffix(".partial.npy")
    np.save(partial_path, ids)
    os.replace(partial_path, path)


def captions_of(recipe: Recipe, number: int) -> list[str]:
    """The captions of training picture `number`."""
    rng = Random(f"captions/{recipe.seed}/{number}")
    shown = description(recipe.seed, number, recipe.shares)
    return [caption(shown, rng)[0] for _ in range(recipe.captions)]


def picture(recipe: Recipe, number: int) -> np.ndarray:
    """Training picture `number` (3 × side × side, uint8)."""
    image = draw(description(recipe.seed, number, recipe.shares), recipe.side)
    return np.asarray(image).transpose(2, 0, 1)


def autoencoder_batch(recipe: Recipe, step: int) -> np.ndarray:
    """The pictures of one step of the autoencoder's training (batch × 3 × side × side, uint8): the same for the same
    step. A share of them is of nothing in particular."""
    own = recipe.autoencoder
    rng = Random(f"autoencoder/{recipe.seed}/{step}")
    found = []
    for _ in range(own.batch):
        if rng.random() < own.abstract:
            found.append(np.asarray(abstract(rng, recipe.side)).transpose(2, 0, 1))
        else:
            found.append(picture(recipe, rng.randrange(recipe.pictures)))
    return np.stack(found)


def as_input(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """8-bit pictures as the networks take them: -1 to 1, channels last in memory."""
    pixels = torch.from_numpy(pictures).to(device).float().div_(127.5).sub_(1)
    return pixels.contiguous(memory_format=torch.channels_last)


class Drawer:
    """Draws in `workers` processes, ahead of the training. With none, in this one, when asked."""

    def __init__(self, recipe: Recipe, workers: int):
        self.recipe = recipe
        # Not forked: the threads of torch do not survive that.
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers else None

    def __enter__(self) -> Drawer:
        return self

    def __exit__(self, *error) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def batches(self, make, numbers: range, *, ahead: int = 6):
        """`make(recipe, number)` for every number, in order."""
        job = partial(make, self.recipe)
        if not self.pool:
            yield from map(job, numbers)
            return
        waiting = []
        for number in numbers:
            waiting.append(self.pool.submit(job, number))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
