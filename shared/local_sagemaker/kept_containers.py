"""Containers that outlive their job: the next one's script finds its modules imported (see warm_start/)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import accelerators, requirements
from .containers import ML_FOLDER, Container
from .isolation import available_isolation

WARM_START = Path(__file__).with_name("warm_start")
HOOK = "_local_sagemaker_warm_start"
TORCHRUN = Path(__file__).with_name("training_torchrun.py")
SCRIPTS = (
    f"{ML_FOLDER}/input/data/code",
    f"{ML_FOLDER}/input/data/sm_drivers/distributed_drivers",
    f"{ML_FOLDER}/code",
    str(TORCHRUN),
)
"""What is run by a fork: the scripts in these folders, and the last itself."""


def can_be_kept() -> bool:
    """Whether containers of this machine can be kept.

    A process namespace is needed to find what a job has left running; and a process that has asked for a GPU, as some
    modules do at their import, cannot be forked.
    """
    return sys.platform == "linux" and available_isolation().pid_namespace and not accelerators.gpus()


class KeptContainer:
    """A container for one job after the other, each given by `run`, until `stop`."""

    def __init__(self, folder: Path, grace_seconds: float) -> None:
        self.root = folder / secrets.token_hex(8)
        self.root.mkdir(parents=True)
        self.overlay = requirements.Overlay.create(self.root / "python")
        # sockaddr_un holds about 100 characters; the state folder's path may be longer.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="sagemaker-", dir="/tmp"))
        self._grace_seconds = grace_seconds
        self._token = f"[{secrets.token_hex(16)}]"
        self._container: Container | None = None
        self._lock = threading.Lock()
        self._log: Callable[[str], None] | None = None
        self._on_end: Callable[[], None] | None = None
        self._packages = self._install_hook()
        self._last_empty = False
        self.exit_status: int | None = None

    def run(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log: Callable[[str], None],
        on_end: Callable[[], None],
        hosts_file: Path,
    ) -> None:
        """Run a command. `exit_status` is None from now until `on_end` is called. Raises OSError."""
        environment = {
            **environment,
            "LOCAL_SAGEMAKER_WARM_START": str(self._socket_folder / "socket"),
            "LOCAL_SAGEMAKER_WARM_SCRIPTS": os.pathsep.join(SCRIPTS),
        }
        with self._lock:
            self.exit_status = None
            self._log, self._on_end = log, on_end
        order = {"argv": list(argv), "environment": environment, "folder": ML_FOLDER}
        new = self.root / "order.new"
        new.write_text(json.dumps(order))
        new.replace(self.root / "order")
        if self._container is None:
            arguments = [str(self.root / "order"), self._token, str(self._socket_folder / "socket")]
            self._container = Container(
                [str(self.overlay.python), str(WARM_START / "agent.py"), *arguments],
                root=self.root,
                environment=environment,
                log=self._read,
                on_end=self._ended,
                grace_seconds=self._grace_seconds,
                remove_when_server_dies=(self.root, self._socket_folder),
                hosts_file=hosts_file,
                await_group=True,
            )
            self._container.start()

    @property
    def lives(self) -> bool:
        """Whether its processes are there, waiting for a command or at one."""
        return self._container is not None and self._container.exit_status is None

    def stop(self, grace_seconds: float | None = None) -> None:
        """End every process. Idempotent; returns when all are gone."""
        if self._container is not None:
            self._container.stop(grace_seconds)

    def remove(self) -> None:
        """End every process and delete every file."""
        self.stop(0)
        for folder in (self.root, self._socket_folder):
            shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> bool:
        """Make it as new for the next job; False where that cannot be done, because packages were installed."""
        if not self.lives or sorted(os.listdir(self.overlay.packages)) != self._packages:
            return False
        for entry in (self.root / "ml").iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return True

    def _install_hook(self) -> list[str]:
        packages = self.overlay.packages
        shutil.copyfile(WARM_START / "hook.py", packages / f"{HOOK}.py")
        (packages / f"{HOOK}.pth").write_text(f"import {HOOK}\n")
        (packages / "__pycache__").mkdir()
        return sorted(os.listdir(packages))

    def _read(self, line: str) -> None:
        before, token, status = line.partition(self._token)
        if token:
            # The agent ends the last line, if the command has not.
            self._report(int(status))
            return
        if self._last_empty:
            self._pass_on("")
        self._last_empty = not before
        if before:
            self._pass_on(before)

    def _pass_on(self, line: str) -> None:
        if self._log is not None:
            self._log(line)

    def _ended(self) -> None:
        self._report(self._container.exit_status)

    def _report(self, status: int) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
            self._last_empty = False
            if on_end is not None:
                self.exit_status = status
        if on_end is not None:
            on_end()
