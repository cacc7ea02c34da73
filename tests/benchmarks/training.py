"""Lab 2's train.py: against the plain Trainer, and two processes against one."""

import json
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median

from tests.benchmarks.endpoints import ROOT
from tests.benchmarks.report import Table

_SCRIPT = ROOT / "lab2-llm-finetuning" / "code" / "train.py"
_PLAIN = Path(__file__).parent / "plain_trainer.py"
_RATE = "5e-4"
_DOCUMENTS, _HELD_OUT = 128, 24
_PLAIN_BATCH, _ROWS = 8, 4  # documents a step of the plain Trainer, rows a step of train.py
_WANTED = 2.2  # times the tokens/s of the plain Trainer, on a processor with bf16 instructions


def tables(weights: Path, folder: Path, rounds: int) -> list[Table]:
    """Both comparisons on the 82M GPT-2 in `weights`; works in `folder`."""
    folder.mkdir()
    train, validation = (
        _documents(folder / "train.jsonl", _DOCUMENTS, 1),
        _documents(folder / "held.jsonl", _HELD_OUT, 2),
    )
    return [
        _against_the_plain_trainer(weights, train, validation, folder, rounds),
        _processes(weights, train, validation, folder, rounds),
    ]


def _against_the_plain_trainer(weights: Path, train: Path, validation: Path, folder: Path, rounds: int) -> Table:
    table = Table(
        "Fine-tuning: train.py against the plain Trainer (float32, no packing), one epoch of the same documents",
        ["", "tokens/s", "held-out loss after the same tokens"],
    )
    pairs = []
    for turn in range(rounds):
        plain = _plain(weights, train, validation, folder)
        ours = _ours(weights, train, validation, folder / f"ours-{turn}")
        pairs.append((plain["tokens"] / plain["seconds"], _speed(ours), plain["eval_loss"], ours["after"]["eval_loss"]))
    plain_speed, speed, plain_loss, loss = (median(column) for column in zip(*pairs, strict=True))
    table.add("plain Trainer", f"{plain_speed:.0f}", f"{plain_loss:.3f}")
    table.add(f"train.py ({ours['training']['precision']})", f"{speed:.0f}", f"{loss:.3f}")
    ratio = median(pair[1] / pair[0] for pair in pairs)
    table.add(
        f"ratio (wanted: {_WANTED} with bf16 instructions)",
        f"{ratio:.2f}",
        "not worse" if loss <= plain_loss else "worse",
    )
    return table


def _processes(weights: Path, train: Path, validation: Path, folder: Path, rounds: int) -> Table:
    table = Table(
        "Fine-tuning: two processes of one thread against one (rows per step are the same)",
        ["processes", "tokens/s", "held-out loss"],
    )
    pairs = []
    for turn in range(rounds):
        one = _ours(weights, train, validation, folder / f"one-{turn}", threads="1")
        two = _ours(weights, train, validation, folder / f"two-{turn}", processes=2, threads="1")
        pairs.append((_speed(one), _speed(two), one["after"]["eval_loss"], two["after"]["eval_loss"]))
    one_speed, two_speed, one_loss, two_loss = (median(column) for column in zip(*pairs, strict=True))
    table.add(1, f"{one_speed:.0f}", f"{one_loss:.3f}")
    table.add(2, f"{two_speed:.0f}", f"{two_loss:.3f}")
    table.add("scaling", f"{median(pair[1] / pair[0] for pair in pairs):.2f}", "")
    return table


def _documents(path: Path, count: int, seed: int) -> Path:
    """Texts of 30 to 200 words out of 400, each word the likely successor of the one before."""
    generator = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            word, words = generator.randrange(400), []
            for _ in range(generator.randrange(30, 201)):
                word = (word * 7 + generator.choice((1, 1, 1, 5))) % 400
                words.append(f"w{word + 1}")
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def _block_size(train: Path) -> int:
    """So that both take the same number of steps: a step's rows predict as many tokens as a step's documents have."""
    with train.open(encoding="utf-8") as file:
        tokens = sum(len(json.loads(line)["text"].split()) for line in file)
    return math.ceil(tokens * _PLAIN_BATCH / _DOCUMENTS / _ROWS) + 1


def _environment() -> dict[str, str]:
    """For both: threads that wait sleep, as train.py has it, or a machine with other work would slow the plain one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
    return environment | {"OMP_WAIT_POLICY": "PASSIVE"}


def _plain(weights: Path, train: Path, validation: Path, folder: Path) -> dict:
    command = [sys.executable, str(_PLAIN), str(weights), str(train), str(validation), _RATE]
    done = subprocess.run(command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(
    weights: Path, train: Path, validation: Path, folder: Path, processes: int = 1, threads: str | None = None
) -> dict:
    """metrics.json of an epoch by train.py. Raises CalledProcessError where a process fails."""
    folder.mkdir()
    rows = _ROWS // processes
    command = [sys.executable, str(_SCRIPT), "--model", str(weights), "--train", str(train)]
    command += ["--validation", str(validation), "--num_train_epochs", "1", "--learning_rate", _RATE]
    command += ["--per_device_train_batch_size", str(rows), "--warmup_ratio", "0.12", "--save_steps", "100000"]
    command += ["--block_size", str(_block_size(train))]
    environment = _environment()
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(processes):
        if processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        running.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL))
    for process in running:
        if status := process.wait():
            raise subprocess.CalledProcessError(status, command)
    return json.loads((folder / "out" / "data" / "metrics.json").read_text(encoding="utf-8"))


def _speed(metrics: dict) -> float:
    """Tokens of the documents per second of training, evaluations left out."""
    return metrics["data"]["train"]["tokens"] / metrics["training"]["training_seconds"]
