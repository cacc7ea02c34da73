"""A tiny random model, small data, and Lab 2's train.py run on them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.training_runs import Trainings, metrics, outputs

END = "<|end|>"
_WORDS = "the a cat dog bird tree river house is was ran sat saw red green old small and then . ,".split()


def sentences(count: int, start: int = 0) -> list[str]:
    """Different short texts that a tiny model can learn a little of in a few steps."""
    texts = []
    for index in range(start, start + count):
        words = [_WORDS[(index * 7 + place * (1 + index % 5)) % len(_WORDS)] for place in range(6 + index % 9)]
        texts.append(f"Number {index}: " + " ".join(words) + ".")
    return texts


def save_tiny_model(folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """A Llama of 2 layers of 32 with a byte-level tokenizer of its own, stored in `dtype`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sentences(200), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSON lines, with the folder that they lie in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class TextTrainings(Trainings):
    """Lab 2's trainings."""

    def __init__(self):
        imported = ("accelerate.accelerator", "fine_tuning", "peft", "transformers.models.llama.modeling_llama")
        super().__init__("lab2-llm-finetuning", *imported)

    def together(self, folder: Path, count: int, *arguments, hosts: int = 1) -> dict:
        """As `run`, by `count` processes, with the environment that torchrun gives them, on so many hosts."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        processes = []
        for rank in range(count):
            local_rank = rank % (count // hosts)
            place = folder / f"host-{rank // (count // hosts)}"
            place.mkdir(parents=True, exist_ok=True)
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(local_rank), "LOCAL_WORLD_SIZE": str(count // hosts)}
            processes.append(self.start(folder / f"{rank}.log", *arguments, *outputs(place), **common, **ranks))
        ended = [process.wait() for process in processes]
        assert ended == [0] * count, "\n".join(process.log for process in processes)
        return metrics(folder / "host-0")
