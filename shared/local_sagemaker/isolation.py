"""How far this machine can separate a container from the host without an administrator's help; found by trying once."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
LAUNCHER_COMMAND = [sys.executable, "-I", "-S", str(LAUNCHER)]
PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Isolation:
    """What the kernel gives a container: a true /opt/ml, process ids of its own, by way of a user namespace or not."""

    mount_namespace: bool
    pid_namespace: bool
    user_namespace: bool


NONE = Isolation(mount_namespace=False, pid_namespace=False, user_namespace=False)

# Best first. As root no user namespace is needed, and without one root keeps its access to other users' files; a
# container of a container engine has a root without that right, but perhaps user namespaces. Some engines allow mounts
# but no second /proc.
CANDIDATES = [
    Isolation(mount_namespace=True, pid_namespace=pid_namespace, user_namespace=user_namespace)
    for pid_namespace in (True, False)
    for user_namespace in (False, True)
]

_probing = threading.Lock()


def available_isolation() -> Isolation:
    """The best isolation that works here; `NONE` on macOS and where the kernel refuses. Thread-safe, tried once."""
    with _probing:
        return _probe_all()


@functools.cache
def _probe_all() -> Isolation:
    if sys.platform != "linux":
        return NONE
    for candidate in CANDIDATES:
        if candidate.user_namespace or os.geteuid() == 0:
            if _works(candidate):
                return candidate
    return NONE


def _works(isolation: Isolation) -> bool:
    """Start a process under `isolation` that reads a file below /opt/ml and its own entry in /proc."""
    with tempfile.TemporaryDirectory(prefix="sagemaker-probe-") as folder:
        settings = launcher_settings(
            ["/bin/sh", "-c", 'read word < /opt/ml/proof && test "$word" = here && test -r /proc/self/status'],
            Path(folder),
            isolation,
        )
        Path(settings["ml_folder"], "proof").write_text("here\n")
        process = subprocess.Popen(
            LAUNCHER_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        with process:
            try:
                process.stdin.write(json.dumps(settings).encode() + b"\n")
                return process.wait(PROBE_SECONDS) == 0
            except (subprocess.TimeoutExpired, BrokenPipeError):
                process.kill()
                return False


def launcher_settings(
    argv: list[str],
    root: Path,
    isolation: Isolation,
    *,
    working_folder: str = "/",
    grace_seconds: float = 0.0,
    remove_when_server_dies: tuple[Path, ...] = (),
    hosts_file: Path | None = None,
    await_group: bool = False,
) -> dict:
    """What the launcher reads from its first line; makes the folders `ml` and `staging` in `root`."""
    folders = {name: root / name for name in ("ml", "staging")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "argv": argv,
        "ml_folder": str(folders["ml"].resolve()),
        "staging_folder": str(folders["staging"].resolve()),
        "working_folder": working_folder,
        "grace_seconds": grace_seconds,
        "hosts_file": None if hosts_file is None else str(hosts_file.resolve()),
        "await_group": await_group,
        "remove_when_server_dies": [str(folder) for folder in remove_when_server_dies],
        "mount_namespace": isolation.mount_namespace,
        "pid_namespace": isolation.pid_namespace,
        "user_namespace": isolation.user_namespace,
    }
