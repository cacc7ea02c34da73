"""How well a language model predicts a text: loss, perplexity, bits per character, accuracy."""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from processes import Processes, device
from token_blocks import IGNORED, TokenBlocks
from torch.nn import functional


@dataclass(frozen=True)
class LanguageMetrics:
    """Of the predicted tokens: mean negative log likelihood in nats, its exponential, the sum in bits per character
    of text (which does not depend on how a tokenizer cuts it), and the share that was the most probable token."""

    eval_loss: float
    perplexity: float
    bits_per_character: float
    accuracy: float


def measure(
    model: torch.nn.Module, blocks: TokenBlocks, batch_size: int, bf16: bool, processes: Processes
) -> LanguageMetrics:
    """Predict every token of `blocks`, divided among the processes; the model's training mode is left as it was."""
    was_training = model.training
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64)
    rows = list(range(processes.rank, len(blocks), processes.count))
    # All processes make the same number of calls, or those of a divided model would wait for each other forever.
    calls = math.ceil(math.ceil(len(blocks) / processes.count) / batch_size)
    for call in range(calls):
        part = rows[call * batch_size : (call + 1) * batch_size]
        totals += _sums(model, blocks, part or [0], bf16) * bool(part)
    if processes.count > 1:
        on_device = totals.to(device())
        torch.distributed.all_reduce(on_device)
        totals = on_device.cpu()
    model.train(was_training)
    nats, right, tokens = totals.tolist()
    loss = nats / max(tokens, 1)
    return LanguageMetrics(
        eval_loss=loss,
        perplexity=math.exp(min(loss, 700)),
        bits_per_character=nats / math.log(2) / max(blocks.predicted_characters, 1),
        accuracy=right / max(tokens, 1),
    )


def autocast(bf16: bool):
    """Matrix products in bfloat16, or everything as the weights are."""
    return torch.autocast(device().type, torch.bfloat16) if bf16 else nullcontext()


@torch.no_grad()
def _sums(model: torch.nn.Module, blocks: TokenBlocks, rows: list[int], bf16: bool) -> torch.Tensor:
    where = device()
    ids = blocks.input_ids[rows].to(where)
    labels = blocks.labels[rows][:, 1:].to(where)
    with autocast(bf16):
        logits = model(input_ids=ids, use_cache=False).logits
    # A soft prompt's own positions come first.
    logits = logits[:, -ids.shape[1] : -1]
    wanted = labels != IGNORED
    logits, labels = logits[wanted].float(), labels[wanted]
    nats = functional.cross_entropy(logits, labels, reduction="sum")
    right = (logits.argmax(-1) == labels).sum()
    return torch.tensor([float(nats), float(right), float(len(labels))], dtype=torch.float64)
