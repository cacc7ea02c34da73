"""What the model can do, measured: perplexity, variety, facts, and answers that stand in the prompt."""

from __future__ import annotations

import math
import re
import statistics
import time
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from shared.pretraining.language import trials
from shared.pretraining.language.corpus import MIXTURE, documents
from shared.pretraining.language.document import plain
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.templates import with_articles
from shared.pretraining.language.trials import Trial

# Seeds of evaluation documents are far from those of training documents and of the tokenizer's.
_SEED = 900_000
TEMPERATURES = (0.3, 0.7, 1.0, 1.5)
STORY_PROMPTS = (
    "Once upon a time, in a small village by the sea,",
    "The old clock on the wall struck twelve, and",
    "In the middle of the forest there was a house where",
)
SAMPLE_PROMPTS = (
    *STORY_PROMPTS,
    "One day, a little girl named",
    "Tom was a",
    "It was a cold winter night, and",
    "Dear Anna,",
    "My name is",
    "The fox and the",
    "France is a country in",
)


def evaluate(folder: Path, *, trials_per_cell: int = 500) -> dict:
    """All measurements of the model in `folder` as plain values; each cell of skills has `trials_per_cell` trials."""
    writer = Writer(folder)
    steps = {
        "perplexity": lambda: perplexity(writer, 200),
        "entropy": lambda: opening_entropy(writer, 200),
        "variety": lambda: variety(writer),
        "skills": lambda: skills(writer, trials_per_cell),
        "rules": lambda: broken_rules(writer, 50),
        "tokens_per_second": lambda: tokens_per_second(writer),
        "samples": lambda: samples(writer),
    }
    return {name: measure() for name, measure in tqdm(steps.items(), desc="evaluation", unit="part")}


def perplexity(writer: Writer, count: int) -> dict[str, float]:
    """Perplexity per token on `count` fresh documents of each kind."""
    found = {}
    for kind in MIXTURE:
        losses: list[float] = []
        for document in islice(documents(_SEED, kind.name), count):
            losses += writer.token_log_probs(plain(document))
        found[kind.name] = math.exp(-statistics.fmean(losses))
    return found


def opening_entropy(writer: Writer, count: int) -> dict[str, float]:
    """Entropy (nats) of the next token in the first 60 tokens of `count` fresh stories."""
    values: list[float] = []
    for document in islice(documents(_SEED + 1, "stories"), count):
        table = writer.log_probs(plain(document))[:60]
        values += (-(table.exp() * table).sum(-1)).tolist()
    return {
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "above_1": statistics.fmean(value > 1 for value in values),
        "above_2": statistics.fmean(value > 2 for value in values),
    }


def variety(writer: Writer) -> list[dict[str, float]]:
    """By temperature: 20 continuations of 20 tokens of each story prompt. Distinct ones, distinct-2, plausibility."""
    rows = []
    for temperature in TEMPERATURES:
        different, pairs, scores = [], [], []
        for prompt in STORY_PROMPTS:
            texts = writer.sample(prompt, seed=1, temperature=temperature, count=20, max_new_tokens=20)
            different.append(len(set(texts)))
            found = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
            pairs.append(len(set(found)) / len(found))
            scores += [score for text in texts for score in writer.token_log_probs(text, prompt)]
        rows.append(
            {
                "temperature": temperature,
                "different_of_20": statistics.fmean(different),
                "distinct_2": statistics.fmean(pairs),
                "mean_log_prob": statistics.fmean(scores),
            }
        )
    return rows


def skills(writer: Writer, trials_per_cell: int) -> list[dict]:
    """One row per cell of the table: what was asked, how many right of how many, the 95% interval of the share."""
    n = trials_per_cell
    cells: list[tuple[str, list[Trial]]] = [
        *((f"few-shot, fresh labels, k={k}", trials.few_shot(n, k)) for k in (0, 1, 2, 4, 8)),
        *((f"few-shot, held-out topic words too, k={k}", trials.few_shot(n, k, held_out_words=True)) for k in (2, 8)),
        ("few-shot, formats never trained on, k=4", trials.few_shot(n, 4, layout=None)),
        *((f"flipped labels, k={k}", trials.flipped(n, k)) for k in (0, 1, 2, 4)),
        ("sentiment, held-out adjectives, `This review is`", trials.sentiment(n)),
        ("sentiment, held-out adjectives, `Sentiment:`", trials.sentiment(n, layout=trials.SENTIMENT)),
        ("sentiment, trained adjectives, `This review is`", trials.sentiment(n, held_out_words=False)),
        ("question on a context", trials.context(n)),
        ("the same in trained sentence frames", trials.context(n, held_out_frames=False)),
        ("the same question without the context", trials.context(n, given=False)),
        ('the answer is not there, and "not given" is allowed', trials.context(n, decline=True, held_out_frames=False)),
        ("capitals", trials.capitals()),
    ]
    return [{"cell": name, **score(writer, asked)} for name, asked in tqdm(cells, desc="skills", unit="cell")]


def score(writer: Writer, asked: list[Trial]) -> dict:
    """How many answers are right up to a full stop: `right`, `trials`, `share`, its interval from `low` to `high`."""
    answers = writer.answers([trial.prompt for trial in asked])
    right = sum(given.partition(".")[0].strip() == trial.answer for given, trial in zip(answers, asked, strict=True))
    low, high = wilson(right, len(asked))
    return {"right": right, "trials": len(asked), "share": right / len(asked), "low": low, "high": high}


def wilson(right: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share (https://doi.org/10.1080/01621459.1927.10502953); `z` 1.96 gives 95%."""
    share, squared = right / trials, z * z / trials
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def broken_rules(writer: Writer, count: int) -> dict[str, float]:
    """The share of `count` stories of each prompt, temperature 0.8, that break each of a few rules of writing."""
    texts = [
        prompt + text
        for prompt in STORY_PROMPTS
        for text in writer.sample(prompt, seed=2, temperature=0.8, count=count, max_new_tokens=250)
    ]
    return {name: statistics.fmean(map(broken, texts)) for name, broken in RULES.items()}


def _wrong_article(text: str) -> bool:
    return with_articles(re.sub(r"\b([Aa])n (?=[\"']?[A-Za-z])", r"\1 ", text)) != text


RULES = {
    "a or an": _wrong_article,
    "capital after a full stop": lambda text: bool(re.search(r"[^.]\. [a-z]", text)),
    "balanced quotation marks": lambda text: text.count('"') % 2 == 1,
    "the same word twice": lambda text: bool(re.search(r"\b(\w+) \1\b", text)),
}


def tokens_per_second(writer: Writer, tokens: int = 200) -> float:
    """Greedy tokens per second of one sequence on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ids = writer.tokenizer(STORY_PROMPTS[0], return_tensors="pt")["input_ids"]
        settings = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
        with torch.inference_mode():
            writer.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
            started = time.perf_counter()
            writer.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return tokens / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)


def samples(writer: Writer) -> list[dict]:
    """One continuation of each of ten fixed prompts at temperature 0.8, seeds 0 to 9."""
    return [
        {
            "prompt": prompt,
            "seed": seed,
            "text": writer.sample(prompt, seed=seed, temperature=0.8, max_new_tokens=160)[0],
        }
        for seed, prompt in enumerate(SAMPLE_PROMPTS)
    ]
