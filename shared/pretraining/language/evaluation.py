"""What the model can do, measured: perplexity, variety, facts, and answers that stand in the prompt."""

from __future__ import annotations

import math
import re
import statistics
import time
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from shared.pretraining.language.atlas import COUNTRIES
from shared.pretraining.language.corpus import MIXTURE, documents
from shared.pretraining.language.document import plain
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.tasks import TOPICS, invented_word, review
from shared.pretraining.language.templates import with_articles

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


def evaluate(folder: Path, *, trials: int = 200) -> dict:
    """All measurements of the model in `folder` as plain values. Each task is asked `trials` times."""
    writer = Writer(folder)
    steps = {
        "perplexity": lambda: perplexity(writer, trials),
        "entropy": lambda: opening_entropy(writer, trials),
        "variety": lambda: variety(writer),
        "capitals": lambda: capitals(writer),
        "sentiment": lambda: sentiment(writer, trials),
        "context": lambda: context(writer, trials),
        "few_shot": lambda: few_shot(writer, trials),
        "rules": lambda: broken_rules(writer, max(1, trials // 4)),
        "tokens_per_second": lambda: tokens_per_second(writer),
        "samples": lambda: samples(writer),
    }
    return {name: measure() for name, measure in tqdm(steps.items(), desc="evaluation", unit="part")}


def perplexity(writer: Writer, count: int) -> dict[str, float]:
    """Perplexity per token on `count` fresh documents of each kind."""
    found = {}
    for kind, _, _ in MIXTURE:
        losses: list[float] = []
        for document in islice(documents(_SEED, kind), count):
            losses += writer.token_log_probs(plain(document))
        found[kind] = math.exp(-statistics.fmean(losses))
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


def capitals(writer: Writer) -> dict[str, float]:
    """Share of the countries of the atlas whose capital comes first, in two ways of asking."""
    layouts = {"sentence": "The capital of {c} is", "question": "Question: What is the capital of {c}?\nAnswer:"}
    found = {}
    for name, layout in layouts.items():
        answers = writer.answers([layout.format(c=country.name) for country in COUNTRIES])
        right = [a.startswith(country.capital) for a, country in zip(answers, COUNTRIES, strict=True)]
        found[name] = statistics.fmean(right)
    return found


def sentiment(writer: Writer, trials: int) -> float:
    """Accuracy on fresh reviews, half of them praise, without an example."""
    rng = Random(_SEED + 2)
    wanted = [trial % 2 for trial in range(trials)]
    prompts = [f"Review: {review(rng, label)}\nSentiment:" for label in wanted]
    labels = ("positive", "negative")
    right = [a.lower() == labels[w] for a, w in zip(writer.answers(prompts), wanted, strict=True)]
    return statistics.fmean(right)


def context(writer: Writer, trials: int) -> dict[str, float]:
    """Accuracy of questions on invented people and places, with the context that tells it and without it."""
    rng = Random(_SEED + 3)
    questions, contexts, wanted = [], [], []
    for _ in range(trials):
        people = [invented_word(rng).capitalize() for _ in range(3)]
        places = [invented_word(rng).capitalize() for _ in range(3)]
        contexts.append(" ".join(f"{who} lives in {place}." for who, place in zip(people, places, strict=True)))
        asked = rng.randrange(3)
        questions.append(f"Question: Where does {people[asked]} live?\nAnswer:")
        wanted.append(places[asked])
    prompts = [f"Context: {text}\n{question}" for text, question in zip(contexts, questions, strict=True)]
    answers = {"with": writer.answers(prompts), "without": writer.answers(questions)}
    return {name: _accuracy(given, wanted) for name, given in answers.items()}


def few_shot(writer: Writer, trials: int) -> dict[int, float]:
    """Accuracy of two-class classification with invented labels, by the number of examples of each class."""
    found = {}
    for k in (0, 1, 2, 4, 8):
        rng = Random(_SEED + 4)
        prompts, wanted = [], []
        for _ in range(trials):
            topics = rng.sample(list(TOPICS), 2)
            labels = [invented_word(rng), invented_word(rng)]
            shots = [0, 1] * k
            rng.shuffle(shots)
            lines = [f"{TOPICS[topics[shot]](rng)} -> {labels[shot]}\n" for shot in shots]
            asked = rng.randrange(2)
            prompts.append("".join(lines) + f"{TOPICS[topics[asked]](rng)} ->")
            wanted.append(labels[asked])
        found[k] = _accuracy(writer.answers(prompts), wanted)
    return found


def _accuracy(answers: list[str], wanted: list[str]) -> float:
    return statistics.fmean(a.rstrip(".") == w for a, w in zip(answers, wanted, strict=True))


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
