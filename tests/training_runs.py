"""A way to run a lab's train.py many times, quickly, each time in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_LABS = Path(__file__).resolve().parents[1]


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
    """Starts the train.py of a lab in forked processes (training_server.py), which need not import `modules` again."""

    def __init__(self, lab: str, *modules: str):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        server = Path(__file__).with_name("training_server.py")
        self._server = subprocess.Popen(
            [sys.executable, str(server), str(_LABS / lab / "code"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
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
