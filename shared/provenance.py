"""Which software and which machine a result comes from."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "diffusers", "sagemaker", "boto3", "papermill")


def versions(root: Path) -> dict[str, str]:
    """Versions of Python, of the packages that matter, and the commit of the project in `root`."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {"project": commit(root)}


def commit(root: Path) -> str:
    """The git commit of `root`, and whether files differ from it; "unknown" outside a git checkout."""
    head = _output("git", "-C", str(root), "log", "-1", "--format=%h of %cs")
    if not head:
        return "unknown (not a git checkout)"
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"commit {head}" + (", with local changes" if changed else "")


def machine() -> dict[str, str]:
    """Processor, cores this process may use, memory, GPU and operating system of this machine."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": str(cores),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": _gpu(),
        "system": _system(),
    }


def _processor() -> str:
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str:
    if shutil.which("nvidia-smi"):
        names = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines()
        if names:
            return "; ".join(names)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU (Metal)"
    return "none"


def _system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]} ({platform.machine()})"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()} ({platform.machine()})"


def _output(*command: str) -> str:
    """What `command` prints, "" when it cannot be run or fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
