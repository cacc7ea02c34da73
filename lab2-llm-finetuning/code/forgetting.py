"""What fine-tuning destroys: tasks of the base model, asked before and after, or its perplexity on general text."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from language_metrics import autocast, measure
from processes import Processes, device
from text_documents import Document
from token_blocks import pack
from training_failure import InputError

GENERAL_TEXT = Path(__file__).parent / "general_text.txt"
_ENDS = (".", "\n")  # an answer ends before the first of these


@dataclass(frozen=True)
class Question:
    """A prompt, the answer that should follow it, and the name of the task that it belongs to."""

    prompt: str
    answer: str
    task: str


def read_questions(channel: Path) -> list[Question]:
    """All rows of the channel's jsonl files. Raises InputError for a row without prompt and answer, or no row."""
    files = [channel] if channel.is_file() else sorted(channel.rglob("*.jsonl"))
    questions = []
    for file in files:
        for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                question = Question(row["prompt"], row["answer"].strip(), str(row.get("task", "questions")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{file.name}, line {number}: the forgetting channel holds objects with texts prompt and answer"
                ) from error
            if not isinstance(question.prompt, str) or not question.prompt or not question.answer:
                raise InputError(f"{file.name}, line {number} of the forgetting channel has an empty prompt or answer")
            questions.append(question)
    if not questions:
        raise InputError(f"the forgetting channel {channel} has no questions: rows with prompt and answer in jsonl")
    return questions


def answer_questions(
    model: torch.nn.Module, tokenizer, questions: list[Question], batch_size: int, bf16: bool, processes: Processes
) -> dict:
    """Share of the questions whose greedy continuation, up to a full stop or line's end, is the answer; also by task.

    The questions are divided among the processes; all make the same number of calls of the model.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(questions)), key=lambda index: len(questions[index].prompt))
    share = -(-len(order) // processes.count)
    mine = (order[processes.rank :: processes.count] + order[:1])[:share]  # one may come twice
    longest = max(len(ids) for ids in tokenizer([" " + question.answer for question in questions]).input_ids)
    right: dict[int, bool] = {}
    for start in range(0, len(mine), batch_size):
        part = mine[start : start + batch_size]
        texts = _continue([questions[index].prompt for index in part], model, tokenizer, longest + 1, bf16)
        for index, text in zip(part, texts, strict=True):
            right[index] = _first_part(text) == _first_part(questions[index].answer)
    model.train(was_training)
    everything = {index: value for part in processes.gather(right) for index, value in part.items()}
    by_task: dict[str, list[bool]] = defaultdict(list)
    for index, question in enumerate(questions):
        by_task[question.task].append(everything[index])
    return {
        "accuracy": sum(everything.values()) / len(questions),
        "by_task": {
            task: {"accuracy": sum(values) / len(values), "prompts": len(values)} for task, values in by_task.items()
        },
    }


def general_perplexity(
    model: torch.nn.Module, tokenizer, block_size: int, batch_size: int, bf16: bool, processes: Processes
) -> dict:
    """Perplexity and bits per character of a page of everyday English that comes with the script."""
    blocks = pack([Document(GENERAL_TEXT.read_text(encoding="utf-8"))], tokenizer, block_size, completion_only=False)
    found = measure(model, blocks, batch_size, bf16, processes)
    return {"perplexity": found.perplexity, "bits_per_character": found.bits_per_character}


def _first_part(text: str) -> str:
    text = text.strip()
    for end in _ENDS:
        text = text.split(end)[0]
    return text.strip()


@torch.no_grad()
def _continue(prompts: list[str], model: torch.nn.Module, tokenizer, new_tokens: int, bf16: bool) -> list[str]:
    """The greedy continuations by `new_tokens` tokens. `generate` does not do for a model divided among processes."""
    encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(device())
    ids, mask = encoded.input_ids, encoded.attention_mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, made = None, []
    for _ in range(new_tokens):
        with autocast(bf16):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        cache = output.past_key_values
        ids = output.logits[:, -1:].argmax(-1)
        made.append(ids)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    texts = []
    for row in torch.cat(made, 1).tolist():
        end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        texts.append(tokenizer.decode(row[:end]))
    return texts
