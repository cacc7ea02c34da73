"""Frames and words as text files: `== name` begins a section, a blank line a group, `# ` a comment; `-` is empty."""

from __future__ import annotations

from functools import cache
from pathlib import Path

Group = tuple[str, ...]


@cache
def load(name: str) -> dict[str, tuple[Group, ...]]:
    """The sections of the file `name`.txt of this folder, each as its groups of lines, in the file's order."""
    sections: dict[str, list[list[str]]] = {}
    groups: list[list[str]] = []
    for line in (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            groups = sections.setdefault(line[3:], [[]])
        elif not line.strip():
            groups.append([])
        elif not line.startswith("# "):
            groups[-1].append("" if line == "-" else line)
    return {section: tuple(tuple(group) for group in groups if group) for section, groups in sections.items()}
