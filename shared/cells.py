"""A notebook's code cells as people speak of them: number, heading above it, first line, errors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nbformat import NotebookNode

INJECTED = "injected-parameters"  # the tag of the cell that papermill adds
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Place:
    """Where a code cell stands: the `number`-th of `total` code cells, under the Markdown `heading` ("" if none).

    `index` counts all cells from 0. In a notebook that ran from top to bottom `number` is what stands before the cell
    in brackets; empty cells and the cell that papermill injects have no number.
    """

    index: int
    number: int
    total: int
    heading: str
    source: str

    @property
    def first_line(self) -> str:
        """The first line of the cell that is not blank."""
        return next((line.strip() for line in self.source.splitlines() if line.strip()), "")


@dataclass(frozen=True)
class CellError:
    """An error that a cell ended with: the exception's name and message, and the traceback without colours."""

    name: str
    message: str
    traceback: str


def places(notebook: NotebookNode) -> dict[int, Place]:
    """The numbered code cells of `notebook`, by their index among all cells."""
    found, heading = [], ""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            heading = last_heading(cell.source) or heading
        elif cell.cell_type == "code" and cell.source.strip() and INJECTED not in tags(cell):
            found.append((index, heading, cell.source))
    return {
        index: Place(index, number, len(found), heading, source)
        for number, (index, heading, source) in enumerate(found, start=1)
    }


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags, in order."""
    return list(cell.metadata.get("tags", []))


def last_heading(markdown: str) -> str:
    """The text of the last heading in `markdown`, without markup; "" when it has none."""
    heading, fence = "", ""
    for line in markdown.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        elif not fence and (match := re.match(r" {0,3}#{1,6}\s+(.+?)\s*#*\s*$", line)):
            heading = match[1]
    return re.sub(r"[`*]", "", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading))


def first_error(notebook: NotebookNode) -> tuple[Place | None, CellError] | None:
    """The first cell that ended with an error, and that error; None when there is none.

    The place is None when the cell has no number (papermill's injected cell).
    """
    numbered = places(notebook)
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                traceback = without_colours("\n".join(output.traceback))
                return numbered.get(index), CellError(output.ename, without_colours(output.evalue), traceback)
    return None


def without_colours(text: str) -> str:
    """`text` without terminal colour codes."""
    return _ANSI.sub("", text)
