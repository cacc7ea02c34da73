"""Many texts at once from a causal language model in this process, and how probable a model finds a text."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.inference_mode()
def write(
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = 72,
    batch: int = 64,
) -> list[str]:
    """One sampled continuation for each prompt, up to its end-of-text token. The same seed gives the same texts."""
    was_training = model.training
    model.eval()
    end = tokenizer.eos_token_id
    texts: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch):
            ids = [tokenizer(prompt)["input_ids"] for prompt in prompts[start : start + batch]]
            longest = max(map(len, ids))
            padded = torch.tensor([[end] * (longest - len(row)) + row for row in ids])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
            written = model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=end,
            )
            for row in written[:, longest:].tolist():
                kept = row[: row.index(end)] if end in row else row
                texts.append(tokenizer.decode(kept))
    model.train(was_training)
    return texts


def log_probability(
    model, tokenizer, prompts: Sequence[str], texts: Sequence[str], *, batch: int = 64, max_new_tokens: int = 72
) -> Tensor:
    """The log-probability (nats) that the model writes each text, with its end, after its prompt: float32 [texts].

    A text of `max_new_tokens` tokens or more was cut off, so its end does not count. Gradients flow where they are on.
    """
    found = []
    for start in range(0, len(prompts), batch):
        rows, masks = [], []
        for prompt, text in zip(prompts[start : start + batch], texts[start : start + batch], strict=True):
            before, after = tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]
            if len(after) < max_new_tokens:
                after = [*after, tokenizer.eos_token_id]
            rows.append(before + after)
            masks.append([0] * len(before) + [1] * len(after))
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
        counted = torch.tensor([mask + [0] * (longest - len(mask)) for mask in masks])[:, 1:]
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        chosen = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        found.append((chosen * counted).sum(-1))
    return torch.cat(found)


@torch.inference_mode()
def answers_rightly(model, tokenizer, prompts: Sequence[str], answers: Sequence[str], *, batch: int = 25) -> list[bool]:
    """For each prompt, whether greedy decoding would begin with its answer, found by one pass over both."""
    right = []
    for start in range(0, len(prompts), batch):
        before = [tokenizer(prompt)["input_ids"] for prompt in prompts[start : start + batch]]
        after = [tokenizer(answer)["input_ids"] for answer in answers[start : start + batch]]
        longest = max(len(a) + len(b) for a, b in zip(before, after, strict=True))
        rows = [(a + b + [0] * longest)[:longest] for a, b in zip(before, after, strict=True)]
        best = model(input_ids=torch.tensor(rows), use_cache=False).logits.argmax(-1).tolist()
        for row, a, b in zip(best, before, after, strict=True):
            right.append(row[len(a) - 1 : len(a) + len(b) - 1] == b)
    return right
