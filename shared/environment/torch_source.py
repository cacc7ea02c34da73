"""Where PyTorch comes from on this machine: never several GB of CUDA on one without a GPU, if that can be avoided."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.environment.specification import CPU_WHEELS, satisfies

# Runs in the base Python. Lists what belongs to torch there: its own top-level folders and those of its CUDA packages.
DESCRIBE_TORCH = """
import importlib.metadata, json, re, torch
names, entries, wanted = set(), set(), ["torch"]
while wanted:
    name = wanted.pop()
    if name in names:
        continue
    names.add(name)
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    for file in distribution.files or []:
        if file.parts[0] not in ("..", "__pycache__"):
            entries.add(str(distribution.locate_file(file.parts[0])))
    for requirement in distribution.requires or []:
        required = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()
        if re.match(r"(triton|nvidia-|cuda-)", required):
            wanted.append(required)
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "entries": sorted(entries)}))
"""


@dataclass(frozen=True)
class BaseTorch:
    """The torch that a Python outside .venv can import. `entries`: the files and folders that make it up."""

    version: str
    cuda: str | None
    entries: tuple[str, ...]


@dataclass(frozen=True)
class LinkedTorch:
    """Use the base Python's torch by links to its files: no download."""

    torch: BaseTorch
    announcement: str


@dataclass(frozen=True)
class TorchWheel:
    """Install a wheel. `index` is the package index to take it from, None for the configured one."""

    requirement: str
    index: str | None
    by_pip: bool  # pip honours its configuration and needs no dependencies for CPU builds; else uv, with dependencies
    announcement: str


class Machine(Protocol):
    """What the choice depends on."""

    system: str  # as platform.system()

    def has_nvidia_gpu(self) -> bool: ...

    def base_torch(self) -> BaseTorch | None: ...

    def pip_finds(self, requirement: str, index: str | None) -> bool: ...


class ThisMachine:
    """The machine that this process runs on.

    `base_python` is asked for its torch; `pip` is the command of a pip whose configuration counts.
    """

    def __init__(self, base_python: str, pip: list[str]) -> None:
        self.system = platform.system()
        self.base_python = base_python
        self.pip = pip

    def has_nvidia_gpu(self) -> bool:
        """Whether NVIDIA's driver lists a GPU."""
        command = shutil.which("nvidia-smi")
        if command is None:
            return False
        try:
            answer = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return answer.returncode == 0 and "GPU" in answer.stdout

    def base_torch(self) -> BaseTorch | None:
        """The base Python's torch, None when it cannot import one."""
        try:
            answer = subprocess.run(
                [self.base_python, "-c", DESCRIBE_TORCH], capture_output=True, text=True, timeout=180, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode != 0:
            return None
        described = json.loads(answer.stdout.splitlines()[-1])
        return BaseTorch(described["version"], described["cuda"], tuple(described["entries"]))

    def pip_finds(self, requirement: str, index: str | None) -> bool:
        """Whether pip lists a wheel of this `name==version` that fits this Python. Downloads no wheel."""
        name, _, version = requirement.partition("==")
        command = [*self.pip, "index", "versions", name]
        if index:
            command += ["--index-url", index, "--timeout", "10", "--retries", "1"]
        answer = subprocess.run(command, capture_output=True, text=True)
        return re.search(rf"(?<!\S){re.escape(version)}(,|\s|$)", answer.stdout) is not None


def candidates(machine: Machine, version: str, accepted: str) -> Iterator[LinkedTorch | TorchWheel]:
    """Sources of torch in the order to try them. `version`: what to install; `accepted`: range for the base Python's.

    Raises nothing; the last candidate is always a wheel.
    """
    gpu = machine.has_nvidia_gpu()
    base = machine.base_torch()
    if base and satisfies(base.version, accepted) and (base.cuda or not gpu):
        yield LinkedTorch(base, f"PyTorch {base.version}: the one that this machine's Python has already")
    plain = f"torch=={version}"
    if machine.system == "Darwin":
        yield TorchWheel(plain, None, False, f"PyTorch {version} for macOS: about 80 MB")
        return
    if gpu:
        yield TorchWheel(plain, None, False, f"PyTorch {version} with CUDA, for this machine's NVIDIA GPU: several GB")
        return
    cpu = f"{plain}+cpu"
    if machine.pip_finds(cpu, None):
        yield TorchWheel(cpu, None, True, f"PyTorch {version}, CPU build, found by pip: about 200 MB")
    elif machine.pip_finds(cpu, CPU_WHEELS):
        yield TorchWheel(cpu, CPU_WHEELS, True, f"PyTorch {version}, CPU build, from {CPU_WHEELS}: about 200 MB")
    else:
        yield TorchWheel(
            plain,
            None,
            False,
            f"PyTorch {version} with CUDA: several GB, of no use without a GPU. No CPU build was found: pip's\n"
            f"configuration names none for this Python, and {CPU_WHEELS}\n"
            "did not answer or has none. To avoid this download interrupt it now, make a CPU build known to pip\n"
            "(PIP_FIND_LINKS=folder) or use another Python, and run the same command again.",
        )


def link(torch: BaseTorch, site_packages: Path) -> None:
    """Makes the base Python's torch importable from an environment whose packages lie in `site_packages`."""
    for entry in torch.entries:
        target = site_packages / Path(entry).name
        if not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(entry)


def unlink(torch: BaseTorch, site_packages: Path) -> None:
    """Takes the links away that `link` made."""
    for entry in torch.entries:
        target = site_packages / Path(entry).name
        if target.is_symlink():
            target.unlink()
