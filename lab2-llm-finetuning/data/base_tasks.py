"""Prompts and answers of what the embedded base model can do before it is fine-tuned: what it may forget."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from shared.pretraining.language import trials

_PER_TASK = 50


def forgetting_prompts(seed: int, per_task: int = _PER_TASK) -> Iterator[dict]:
    """Rows with `task`, `prompt` and `answer`, `per_task` of each task; a right continuation begins with the answer."""
    tasks = {
        "capitals": Random(f"capitals/{seed}").sample(trials.capitals(), per_task),
        "questions on a context": trials.context(per_task, held_out_frames=False, seed=seed),
        "sentiment": trials.sentiment(per_task, held_out_words=False, seed=seed),
        "few-shot classification": trials.few_shot(per_task, 4, seed=seed),
    }
    for task, asked in tasks.items():
        for trial in asked:
            yield {"task": task, "prompt": trial.prompt, "answer": f" {trial.answer}"}
