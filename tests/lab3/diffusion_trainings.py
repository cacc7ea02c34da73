"""A way to run Lab 3's train.py many times, quickly, each time in a process of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path


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
    """Starts train.py in forked processes (diffusion_training_server.py)."""

    def __init__(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, str(Path(__file__).parent / "diffusion_training_server.py")]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._server.stdout.readline() == "ready\n"

    def ask(self, request: dict) -> str:
        """Send a request; the answer's line."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()

    def start(self, folder: Path, *arguments, **environment: str) -> Running:
        """Start train.py with these flags and results below `folder`; its log is beside it."""
        log = folder.with_suffix(".log")
        words = [*(() if "SM_MODEL_DIR" in environment else outputs(folder)), *map(str, arguments)]
        request = {"arguments": words, "environment": environment, "log": str(log)}
        return Running(self, int(self.ask(request)), log)

    def run(self, folder: Path, *arguments, **environment: str) -> dict:
        """Train to the end; metrics.json. Fails with the log if it does not end well."""
        running = self.start(folder, *arguments, **environment)
        assert running.wait() == 0, running.log
        return metrics(folder)

    def refuse(self, folder: Path, *arguments, **environment: str) -> str:
        """Start a training that must fail by its input; what it says at the end."""
        running = self.start(folder, *arguments, **environment)
        assert running.wait() == 1, running.log
        last = running.log.splitlines()[-1]
        assert last.startswith("ERROR: ") and "Traceback" not in running.log, running.log
        return last.removeprefix("ERROR: ")

    def close(self) -> None:
        """End the server; processes that still run are not its own to wait for."""
        self._server.stdin.close()
        self._server.wait()


@functools.cache
def trainings_of_this_run() -> Trainings:
    """One server for all test modules."""
    server = Trainings()
    atexit.register(server.close)
    return server


def outputs(folder: Path) -> list[str]:
    """Flags for the folders of results below `folder`."""
    return [
        *("--model_dir", str(folder / "model"), "--output_data_dir", str(folder / "data")),
        *("--checkpoint_dir", str(folder / "checkpoints")),
    ]


def metrics(folder: Path) -> dict:
    """metrics.json below `folder`."""
    return json.loads((folder / "data" / "metrics.json").read_text(encoding="utf-8"))
