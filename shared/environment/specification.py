"""What pyproject.toml and requirements.lock ask for. Standard library only: read before anything is installed."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"  # PyTorch's own package index of CPU builds

# Which build of torch is right depends on the machine; the others come with its CUDA build only.
UNLOCKED = re.compile(r"^(torch|triton|nvidia-.+|cuda-.+)$")


@dataclass(frozen=True)
class Specification:
    """The dependencies that pyproject.toml declares, as requirement lines (`name==version`)."""

    python: str
    dependencies: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    torch_of_base_python: str
    requirements_txt: dict[str, str]
    lab_code: dict[str, tuple[str, ...]]
    clients: dict[str, tuple[str, ...]]

    @property
    def pins(self) -> tuple[str, ...]:
        """Every requirement of .venv, torch included, in the order of pyproject.toml."""
        return self.dependencies + tuple(line for group in self.groups.values() for line in group)

    @property
    def torch_version(self) -> str:
        """The version of torch that is installed where the base Python has none, such as `2.13.0`."""
        return next(line.partition("==")[2] for line in self.dependencies if name_of(line) == "torch")

    @property
    def digest(self) -> str:
        """SHA-256 of all that requirements.lock is made from."""
        return hashlib.sha256("\n".join([self.python, *sorted(self.pins)]).encode()).hexdigest()


def name_of(requirement: str) -> str:
    """The normalized name of the project in a requirement line: `Moto[server]==5.2.5` gives `moto`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def read(checkout: Path = CHECKOUT) -> Specification:
    """Reads the checkout's pyproject.toml."""
    content = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    workshop = content["tool"]["workshop"]
    return Specification(
        python=content["project"]["requires-python"],
        dependencies=tuple(content["project"]["dependencies"]),
        groups={name: tuple(lines) for name, lines in content["dependency-groups"].items()},
        torch_of_base_python=workshop["torch-of-base-python"],
        requirements_txt=workshop["requirements-txt"],
        lab_code={name: tuple(lines) for name, lines in workshop["lab-code"].items()},
        clients={name: tuple(lines) for name, lines in workshop["clients"].items()},
    )


def lock_entries(lock: str) -> dict[str, list[str]]:
    """A hashed lock's entries by project name: each `name==version ; marker` with its `--hash` lines, as one text.

    A project has several entries where its version depends on the Python or the platform.
    """
    entries: dict[str, list[str]] = {}
    for entry in re.findall(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*", lock, re.MULTILINE):
        entries.setdefault(name_of(entry), []).append(entry)
    return entries


def satisfies(version: str, range_: str) -> bool:
    """Whether a torch version such as `2.8.0+cu126` lies in a range of numeric bounds such as `>=2.6,<3`.

    Raises ValueError for an operator other than >= and <. Development builds count as their release.
    """

    def numbers(text: str) -> tuple[int, ...]:
        parts = [int(part) for part in re.match(r"\d+(?:\.\d+)*", text)[0].split(".")]
        return tuple(parts + [0] * (4 - len(parts)))

    for bound in range_.split(","):
        operator, limit = re.fullmatch(r"\s*([<>=!~]+)\s*([\d.]+)\s*", bound).groups()
        if operator not in (">=", "<"):
            raise ValueError(f"unsupported bound {bound!r} in {range_!r}")
        if (numbers(version) >= numbers(limit)) != (operator == ">="):
            return False
    return True
