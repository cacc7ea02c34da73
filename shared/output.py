"""What a cell shows: HTML for a notebook, plain text for a terminal, a headless run, a screen reader."""

from __future__ import annotations


class Output:
    """Something to look at: `html` for a notebook, `text` for everything else."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text
