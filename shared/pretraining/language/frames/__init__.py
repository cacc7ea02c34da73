"""Frames and words as text files: `== name` begins a section, a blank line a group, `# ` a comment; `-` is empty.

What begins with `~` is held out: the training data never uses it in the way that the file says, the evaluation does.
What begins with `+` comes into the training data in its last round only.
"""

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


def split(items: Group, *, late: bool = False) -> tuple[Group, Group]:
    """The items for training, `late` ones among them or not, and those held out; without their signs."""
    kept = tuple(item.removeprefix("+ ") for item in items if not item.startswith("~" if late else ("~", "+")))
    return kept, tuple(item[1:].strip() for item in items if item.startswith("~"))


def listed(lines: Group) -> Group:
    """The items of lines that are lists with commas."""
    return tuple(item for line in lines for item in (part.strip() for part in line.split(",")) if item)
