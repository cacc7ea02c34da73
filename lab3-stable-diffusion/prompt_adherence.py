"""Does a picture show what its prompt says? Prompts by group, marks for pictures, and the share that is right.

For the embedded model the marks come from a judge: a program without any network that reads shapes, colours, sizes,
places and scenes from the pixels (`shared.pretraining.pictures.judge`). A picture is right when everything that its
prompt names is right. No program reads photographs so exactly, so for other models CLIP marks
(https://arxiv.org/abs/2104.08718): a picture is right when its own prompt gets the highest CLIP score of all prompts of
its group. That share is known as CLIP R-precision (Park et al. 2021, a benchmark for compositional text-to-image
synthesis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from shared.pretraining.diffusion.evaluation import GROUPS, prompts, wilson
from shared.pretraining.pictures.description import Named
from shared.pretraining.pictures.judge import judge
from shared.pretraining.pictures.scene_judge import read_time
from shared.pretraining.pictures.vocabulary import TIMES

CLIP = "openai/clip-vit-base-patch32"  # 150 million parameters, 605 MB

_THINGS = ("cat", "bicycle", "teapot", "chair", "horse", "guitar", "umbrella", "clock", "boat", "backpack")
_COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
_RELATIONS = ("to the left of", "to the right of", "above", "below")
_PHRASES = {"day": "a landscape in daylight", "sunset": "a landscape at sunset", "night": "a landscape at night"}


@dataclass(frozen=True)
class Trial:
    """A prompt of a group; `named` is what the judge looks for, None where CLIP marks."""

    group: str
    prompt: str
    named: Named | None = None


@dataclass(frozen=True)
class Mark:
    """Whether a picture is right; `remark` says so in words, `wrong` names the attributes that are not."""

    right: bool
    remark: str
    wrong: tuple[str, ...] = ()


def trials(model: Any, count: int) -> list[Trial]:
    """`count` prompts of each group that `model` (a catalogue entry) can be asked, the same each time."""
    if model.scored_by == "judge":
        return [
            Trial(group, prompt.text, prompt.named)
            for group, (kind, held_out) in GROUPS.items()
            for prompt in prompts(kind, held_out, count)
        ]
    return [Trial(group, text) for group, write in _WRITERS.items() for text in _different(group, write, count)]


def marks(model: Any, pictures: Sequence[Image.Image], asked: Sequence[Trial], clip: str = CLIP) -> list[Mark]:
    """A mark for each picture of the trial in the same place. Raises ValueError when the numbers differ, OSError when
    CLIP (its Hub id or folder is `clip`) is needed and cannot be had."""
    if len(pictures) != len(asked):
        raise ValueError(f"{len(pictures)} pictures for {len(asked)} trials")
    if model.scored_by == "judge":
        return [_judged(picture, trial) for picture, trial in zip(pictures, asked, strict=True)]
    found = []
    for picture, trial in zip(pictures, asked, strict=True):
        rivals = [trial.prompt, *(other.prompt for other in asked if other.group == trial.group)]
        rivals = list(dict.fromkeys(rivals))
        scores = clip_scores([picture], rivals, clip)[0]
        right = bool(scores[0] >= scores.max())
        wrong = () if right else ("another prompt fits better",)
        found.append(Mark(right, ", ".join([f"CLIP score {scores[0]:.0f}", *wrong]), wrong))
    return found


def shares(asked: Sequence[Trial], found: Sequence[Mark]) -> dict[str, tuple[float, float, float]]:
    """By group the share that is right, and the two ends of its 95% interval (Wilson's)."""
    result = {}
    for group in dict.fromkeys(trial.group for trial in asked):
        marked = [mark.right for trial, mark in zip(asked, found, strict=True) if trial.group == group]
        result[group] = (sum(marked) / len(marked), *wilson(sum(marked), len(marked)))
    return result


def share(found: Sequence[Mark]) -> tuple[float, float, float]:
    """The share of all marks that is right, and the two ends of its 95% interval (Wilson's)."""
    right = sum(mark.right for mark in found)
    return (right / len(found), *wilson(right, len(found)))


def times_of_day(model: Any, pictures: Sequence[Image.Image], clip: str = CLIP) -> list[str]:
    """Of each picture of a landscape "day", "sunset" or "night": by the sky's colour, or by CLIP."""
    if model.scored_by == "judge":
        small = [picture.convert("RGB").resize((64, 64), Image.Resampling.BOX) for picture in pictures]
        return [read_time(np.asarray(picture, np.float32)) for picture in small]
    scores = clip_scores(pictures, [_PHRASES[time] for time in TIMES], clip)
    return [TIMES[best] for best in scores.argmax(1)]


def clip_scores(pictures: Sequence[Image.Image], texts: Sequence[str], clip: str = CLIP) -> np.ndarray:
    """100 times the cosine similarity of each picture (row) with each text (column), 0 at least."""
    model, processor = _load_clip(clip)
    inputs = processor(text=list(texts), images=list(pictures), return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        similarity = model(**inputs).logits_per_image / model.logit_scale.exp()
    return (100 * similarity).clamp(min=0).numpy()


@cache
def _load_clip(clip: str):
    from transformers import CLIPModel, CLIPProcessor

    return CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)


def _judged(picture: Image.Image, trial: Trial) -> Mark:
    attributes = judge(picture, trial.named).attributes
    wrong = tuple(name for name, right in attributes.items() if not right)
    return Mark(not wrong, "right" if not wrong else f"wrong: {', '.join(wrong)}", wrong)


def _one(rng: Random) -> str:
    return f"a photo of {_with_article(rng.choice(_THINGS))}"


def _coloured(rng: Random) -> str:
    return f"a photo of {_with_article(f'{rng.choice(_COLOURS)} {rng.choice(_THINGS)}')}"


def _two(rng: Random) -> str:
    (first, second), (one, other) = rng.sample(_THINGS, 2), rng.sample(_COLOURS, 2)
    return f"a photo of {_with_article(f'{one} {first}')} and {_with_article(f'{other} {second}')}"


def _related(rng: Random) -> str:
    first, second = rng.sample(_THINGS, 2)
    return f"a photo of {_with_article(first)} {rng.choice(_RELATIONS)} {_with_article(second)}"


_WRITERS = {
    "one thing": _one,
    "a thing in a colour": _coloured,
    "two things in two colours": _two,
    "two things in a relation": _related,
}


def _different(group: str, write, count: int) -> list[str]:
    """`count` prompts, different from each other as long as the words suffice."""
    rng, found = Random(group), {}
    for _ in range(50 * count):
        if len(found) == count:
            break
        found[write(rng)] = None
    written = list(found)
    return [written[number % len(written)] for number in range(count)]


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
