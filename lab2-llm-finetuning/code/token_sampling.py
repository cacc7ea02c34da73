"""Choose the next token of every row of a batch, each by its own request's parameters.

Order of the steps as in `generate` and vLLM: penalties, temperature, top-k, top-p. Log probabilities are those of the
model itself: of the logits before any of these steps (vLLM's `raw_logprobs`), so that a client can compute every step.
"""

import random
from dataclasses import dataclass

import torch
from generation_request import GenerationParameters


@dataclass(frozen=True)
class Choice:
    """A chosen token. `log_prob` is None when not asked for; `top` holds (token id, log probability), best first."""

    token_id: int
    log_prob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class TokenSampler:
    """The sampling state of one request: its parameters, its random numbers and the tokens it has seen.

    Random numbers come from Python's `random.Random(seed)`, one per token, which gives the same sequence in every
    version, on every device and whatever else is in the batch.
    """

    def __init__(self, parameters: GenerationParameters, prompt_ids: list[int], seed: int, log_probs: bool):
        self.parameters = parameters
        self.log_probs = log_probs or parameters.top_n_tokens > 0
        self.penalized = (
            parameters.repetition_penalty != 1 or parameters.presence_penalty != 0 or parameters.frequency_penalty != 0
        )
        self.seed = seed
        self._random = random.Random(seed)
        self._prompt_ids = prompt_ids
        self._seen: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None

    def observe(self, token_id: int) -> None:
        """Record a generated token for the penalties of the next ones."""
        if self._counts is not None:
            self._seen[token_id] = True
            self._counts[token_id] += 1

    def penalize(self, logits: torch.Tensor) -> torch.Tensor:
        """Penalized copy of a row of logits, float [vocabulary].

        Repetition penalty (Keskar et al. 2019) divides positive and multiplies negative logits of tokens in prompt or
        output. Presence and frequency penalty (OpenAI's API) are subtracted once, or once per occurrence, for tokens
        in the output.
        """
        p = self.parameters
        if self._counts is None:
            self._counts = torch.zeros_like(logits)
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            self._seen[torch.tensor(self._prompt_ids, device=logits.device)] = True
        repeated = torch.where(logits > 0, logits / p.repetition_penalty, logits * p.repetition_penalty)
        logits = torch.where(self._seen, repeated, logits)
        return logits - p.frequency_penalty * self._counts - p.presence_penalty * (self._counts > 0)

    def sample(self, logits: torch.Tensor) -> int:
        """Draw a token id from a row of logits, float32 [vocabulary]."""
        p = self.parameters
        logits = (logits - logits.max()) / p.temperature
        if p.top_k or p.top_p < 1:
            kept, probabilities = _truncate(logits, p.top_k, p.top_p)
        else:
            kept, probabilities = None, logits.softmax(-1)
        # Inverse of the cumulative distribution in the order of token ids: a rounding error in the logits (they differ
        # in the last bit with the size of the batch) moves each boundary by that much and no token elsewhere.
        cumulative = probabilities.double().cumsum(-1)
        draw = self._random.random() * cumulative[-1]
        index = min(int(torch.searchsorted(cumulative, draw, right=True)), len(cumulative) - 1)
        return int(kept[index]) if kept is not None else index


def choose_tokens(logits: torch.Tensor, samplers: list[TokenSampler]) -> list[Choice | Exception]:
    """Choose one token per row.

    Args:
        logits: float32 [rows, vocabulary], the model's own.
        samplers: one per row.

    Returns:
        One `Choice` per row, or the exception that this row alone raised.
    """
    usable, greedy = torch.isfinite(logits.amax(dim=-1)).tolist(), _argmax(logits)
    with_log_probs = [row for row, sampler in enumerate(samplers) if sampler.log_probs]
    log_probs = dict(zip(with_log_probs, logits[with_log_probs].log_softmax(-1), strict=True)) if with_log_probs else {}
    choices: list[Choice | Exception] = []
    for row, sampler in enumerate(samplers):
        try:
            if not usable[row]:
                raise RuntimeError("the model produced logits that are not finite; try DTYPE=float32")
            choices.append(_choose(logits[row], greedy[row], log_probs.get(row), sampler))
        except Exception as error:
            choices.append(error)
    return choices


def _argmax(logits: torch.Tensor) -> list[int]:
    # NumPy's is six times as fast on CPU for a row of 50,000.
    return (logits.numpy() if logits.device.type == "cpu" else logits).argmax(-1).tolist()


def _choose(logits: torch.Tensor, best: int, log_probs: torch.Tensor | None, sampler: TokenSampler) -> Choice:
    if sampler.penalized:
        logits = sampler.penalize(logits)
        best = int(logits.argmax())
    token_id = sampler.sample(logits) if sampler.parameters.do_sample else best
    sampler.observe(token_id)
    if log_probs is None:
        return Choice(token_id)
    top = ()
    if sampler.parameters.top_n_tokens:
        values, ids = log_probs.topk(min(sampler.parameters.top_n_tokens, len(log_probs)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Choice(token_id, float(log_probs[token_id]), top)


def _truncate(logits: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (ascending) that top-k and then top-p keep, and their probabilities (not normalised)."""
    # Without top-k a full sort is needed only when the nucleus is larger than its first thousand tokens.
    size = min(top_k or 1024, len(logits))
    values, ids = logits.topk(size)
    total = values.exp().sum() if top_k else logits.exp().sum()
    if not top_k and values.exp().sum() < top_p * total:
        values, ids = logits.sort(descending=True)
    probabilities = values.exp() / total
    if top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        count = max(1, int((before < top_p).sum()))
        ids, probabilities = ids[:count], probabilities[:count]
    ids, order = ids.sort()
    return ids, probabilities[order]
