"""Tables for people (Markdown) and for programs (JSON)."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Table:
    """A table of strings under a title."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells) -> None:
        """Append a row; raises ValueError if it has not one cell per column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns of {self.title!r}")
        self.rows.append([str(cell) for cell in cells])

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [f"**{self.title}**", "", _row(self.columns), _row(["---"] * len(self.columns))]
        return "\n".join([*lines, *map(_row, self.rows)]) + "\n"


def write(folder: Path, heading: str, tables: list[Table], notes: list[str]) -> Path:
    """Write bench.md and bench.json into `folder`, each whole or not at all; returns the Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown = "\n".join([heading + "\n", *(table.markdown() for table in tables), *notes]) + "\n"
    document = {"heading": heading, "tables": [asdict(table) for table in tables], "notes": notes}
    for name, text in (("bench.md", markdown), ("bench.json", json.dumps(document, indent=1))):
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
    return folder / "bench.md"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
