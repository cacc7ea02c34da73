"""A tiny random model, small data, and a way to run train.py on them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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


class Running:
    """A process of train.py."""

    def __init__(self, trainings: Trainings, process: int, log: Path):
        self._trainings, self.process, self._log = trainings, process, log

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        return int(self._trainings.ask({"wait": self.process}))


class Trainings:
    """Starts train.py in forked processes (training_server.py)."""

    def __init__(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, str(Path(__file__).parent / "training_server.py")]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._server.stdout.readline() == "ready\n"

    def ask(self, request: dict) -> str:
        """Send a request; the answer's line."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()

    def start(self, log: Path, *arguments, **environment: str) -> Running:
        """Start train.py with these flags (name=value pairs come as environment variables)."""
        request = {"arguments": list(map(str, arguments)), "environment": environment, "log": str(log)}
        return Running(self, int(self.ask(request)), log)

    def run(self, folder: Path, *arguments, **environment: str) -> dict:
        """Train to the end with results below `folder`; metrics.json. Fails with the log if it does not end well."""
        running = self.start(folder.with_suffix(".log"), *arguments, *outputs(folder), **environment)
        assert running.wait() == 0, running.log
        return metrics(folder)

    def together(self, folder: Path, count: int, *arguments, hosts: int = 1) -> dict:
        """The same by `count` processes, with the environment that torchrun gives them, on so many hosts."""
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

    def close(self) -> None:
        """End the server; processes that still run are not its own to wait for."""
        self._server.stdin.close()
        self._server.wait()


def outputs(folder: Path) -> list[str]:
    """Flags for the folders of results below `folder`."""
    return [
        *("--model_dir", str(folder / "model"), "--output_data_dir", str(folder / "data")),
        *("--checkpoint_dir", str(folder / "checkpoints")),
    ]


def metrics(folder: Path) -> dict:
    """metrics.json below `folder`."""
    return json.loads((folder / "data" / "metrics.json").read_text(encoding="utf-8"))
