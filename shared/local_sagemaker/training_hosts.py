"""One host of a training job: its /opt/ml, its environment, its container."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import accelerators, requirements
from .containers import ML_FOLDER, Container
from .kept_containers import TORCHRUN, KeptContainer
from .model_instances import PASSED_ON
from .training_plans import TrainingPlan

LOOPBACK_INTERFACE = "lo" if sys.platform == "linux" else "lo0"
HOSTS_FILE = Path("/etc/hosts")
TOOLKIT = Path(__file__).with_name("training_toolkit")
CODE_CHANNELS = ("code", "sm_drivers")
KEPT_LINES = 400
MAX_FAILURE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Surroundings:
    """What all hosts of a job share. `started` is when the job was created, in Unix seconds: it is part of the names of
    log streams. `log` takes (log stream, line); `on_line` gets what the containers print.
    """

    region: str
    started: float
    folder: Path
    log: Callable[[str, str], None]
    on_line: Callable[[str], None]
    grace_seconds: float
    master_port: int
    container_environment: Mapping[str, str] = field(default_factory=dict)


class TrainingHost:
    """One host, for one attempt at the job. Its folders exist from the start, its processes from `start`.

    With `kept`, its container is one that an earlier job may have used and a later one may use.
    """

    def __init__(
        self, plan: TrainingPlan, name: str, surroundings: Surroundings, kept: KeptContainer | None = None
    ) -> None:
        self.name = name
        self._kept = kept
        self._plan = plan
        self._surroundings = surroundings
        self._number = plan.hosts.index(name)
        self._root = kept.root if kept else surroundings.folder / name
        self._ml = self._root / "ml"
        self._stream = f"{plan.name}/{name}-{int(surroundings.started)}"
        self._container: Container | KeptContainer | None = kept
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        for folder in ("input/config", "input/data", "model", "output/data", "code"):
            (self._ml / folder).mkdir(parents=True)

    def folder(self, path: str) -> Path:
        """Where the container's folder `path`, /opt/ml or below, lies on this machine."""
        return self._ml / Path(path).relative_to(ML_FOLDER)

    def channel_folder(self, channel: str) -> Path:
        """Where the files of an input channel lie."""
        return self._ml / "input" / "data" / channel

    @property
    def exit_status(self) -> int | None:
        """The container's exit status; None before its end."""
        return None if self._container is None else self._container.exit_status

    @property
    def failure(self) -> str:
        """What the container wrote into /opt/ml/output/failure; empty where nothing."""
        try:
            with (self._ml / "output" / "failure").open("rb") as file:
                return file.read(MAX_FAILURE_BYTES).decode("utf-8", "replace")
        except (FileNotFoundError, IsADirectoryError):
            return ""

    def start(self, on_end: Callable[[], None]) -> None:
        """Start the container; `on_end` is called once, from a thread, when it has ended. Raises OSError."""
        self._write_settings()
        overlay = self._kept.overlay if self._kept else requirements.Overlay.create(self._root / "python")
        self._write_commands(overlay)
        argv = self._plan.entrypoint or [str(overlay.python), str(TOOLKIT)]
        if self._kept:
            self._kept.run(argv, self._environment(overlay), self._log, on_end, self._hosts_file())
            return
        container = Container(
            argv,
            root=self._root,
            environment=self._environment(overlay),
            log=self._log,
            on_end=on_end,
            grace_seconds=self._surroundings.grace_seconds,
            remove_when_server_dies=(self._surroundings.folder,),
            hosts_file=self._hosts_file(),
            await_group=True,
        )
        for channel in CODE_CHANNELS:
            if self.channel_folder(channel).is_dir():
                container.relocate(self.channel_folder(channel))
        self._container = container
        container.start()

    def stop(self, grace_seconds: float | None = None) -> None:
        """End every process: SIGTERM, and SIGKILL after the grace period. Returns when all are gone."""
        if self._container is not None:
            self._container.stop(grace_seconds)

    def log(self, line: str) -> None:
        """Write a line to the host's log stream that its container did not print."""
        self._surroundings.log(self._stream, line)

    def _log(self, line: str) -> None:
        self.last_lines.append(line)
        self._surroundings.log(self._stream, line)
        self._surroundings.on_line(line)

    def _write_settings(self) -> None:
        plan = self._plan
        settings = {
            "hyperparameters": plan.hyperparameters,
            "inputdataconfig": {channel.name: channel.describe() for channel in plan.channels},
            "resourceconfig": plan.resource_config(self.name, LOOPBACK_INTERFACE),
        }
        for name, content in settings.items():
            (self._ml / "input" / "config" / f"{name}.json").write_text(json.dumps(content))

    def _write_commands(self, overlay: requirements.Overlay) -> None:
        """Commands that must run in the overlay, not in the server's own environment."""
        for command, arguments in (
            ("pip", ["-m", "pip"]),
            ("pip3", ["-m", "pip"]),
            ("torchrun", [str(TORCHRUN)]),
        ):
            path = overlay.python.with_name(command)
            words = " ".join(_quoted(word) for word in [str(overlay.python), *arguments])
            path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            path.chmod(0o755)

    def _hosts_file(self) -> Path:
        known = HOSTS_FILE.read_text(errors="replace") if HOSTS_FILE.is_file() else "127.0.0.1 localhost\n"
        path = self._root / "hosts"
        path.write_text(f"{known.rstrip()}\n127.0.0.1 {' '.join(self._plan.hosts)}\n")
        return path

    def _environment(self, overlay: requirements.Overlay) -> dict[str, str]:
        plan, surroundings = self._plan, self._surroundings
        passed_on = {name: text for name, text in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
        path = [str(overlay.python.parent), str(Path(sys.executable).parent), passed_on.get("PATH", os.defpath)]
        environment = {
            **passed_on,
            **requirements.installer_environment(),
            "PATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "GLOO_SOCKET_IFNAME": LOOPBACK_INTERFACE,
            "LOCAL_SAGEMAKER_MASTER_PORT": str(surroundings.master_port),
            "TRAINING_JOB_NAME": plan.name,
            "TRAINING_JOB_ARN": plan.arn,
            "SAGEMAKER_BASE_DIR": ML_FOLDER,
            "SAGEMAKER_REGION": surroundings.region,
            **accelerators.environment(self._number, plan.instance_count),
            **surroundings.container_environment,
            **plan.environment,
        }
        # Programs of the server's environment, such as accelerate, see the overlay's packages by this.
        python_path = [str(overlay.packages), plan.environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in python_path if path)
        return environment


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
