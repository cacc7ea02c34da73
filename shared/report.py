"""The report of a run: one HTML file that needs nothing else, not even a network.

What cells print is foreign text. Everything is escaped; HTML outputs pass through a sanitiser that knows tables,
pictures and plain text only; pictures become data URIs; and the page forbids the browser to run any script or to fetch
anything.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from nbformat import NotebookNode

from .cells import Place, places
from .execution import Execution
from .notebooks import Notebook
from .progress import clock

PASSED, FAILED, INTERRUPTED, NOT_RUN = "passed", "failed", "interrupted", "not run"

_TEMPLATE = "report_template.html"
_TAGS = set(
    "table caption colgroup col thead tbody tfoot tr th td img figure figcaption div span p br hr pre code kbd samp "
    "b strong i em u s small sub sup ul ol li dl dt dd blockquote a details summary".split()
)
_ATTRIBUTES = {
    "*": {"style", "title", "lang", "dir", "align"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan", "headers"},
    "th": {"colspan", "rowspan", "scope"},
    "col": {"span"},
    "ol": {"start"},
}
# What a cell may say about its own looks: nothing that could cover or imitate the rest of the page.
_STYLES = set(
    "text-align vertical-align white-space font-weight font-style font-size font-family text-decoration opacity "
    "border border-left border-right border-top border-bottom border-collapse border-radius "
    "padding padding-left padding-right width max-width height line-height".split()
)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
_REPR = re.compile(r"<[\w. ]+.*>", re.DOTALL)


@dataclass
class Outcome:
    """How one notebook of a run ended: `status` is one of PASSED, FAILED, INTERRUPTED, NOT_RUN.

    `saved` is the executed notebook's file, `notes` are lines about what was done after a failure.
    """

    notebook: Notebook
    status: str = NOT_RUN
    execution: Execution | None = None
    saved: Path | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Exhibit:
    """A table, picture or text that a cell showed, as safe HTML, with the heading above the cell."""

    heading: str
    cell: int
    html: Markup


def write(
    path: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Mapping[str, str]], started: datetime, seconds: float
) -> None:
    """Write the report of `outcomes` to `path` in one step.

    `facts` are tables about the run by title (versions, machine, settings), `seconds` the time it took.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["clock"] = clock
    rows = [
        {
            "outcome": outcome,
            "id": f"notebook-{number}",
            "groups": _by_heading(exhibits(outcome.execution.notebook) if outcome.execution else []),
            "saved": os.path.relpath(outcome.saved, path.parent) if outcome.saved else "",
        }
        for number, outcome in enumerate(outcomes, start=1)
    ]
    page = environment.get_template(_TEMPLATE).render(
        rows=rows, facts=facts, started=started, seconds=seconds, headline=headline(outcomes)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def headline(outcomes: Sequence[Outcome]) -> str:
    """The run in one sentence."""
    if not outcomes:
        return "There was no notebook to run"
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in (PASSED, FAILED)}
    total, left = len(outcomes), len(outcomes) - sum(counts.values())
    words = "notebook" if total == 1 else "notebooks"
    if counts[PASSED] == total:
        return f"All {total} notebooks passed" if total > 1 else "The notebook passed"
    parts = [f"{counts[PASSED]} of {total} {words} passed"]
    parts += [f"{counts[FAILED]} failed"] if counts[FAILED] else []
    parts += [f"{left} not finished"] if left else []
    return ", ".join(parts)


def _by_heading(shown: list[Exhibit]) -> list[tuple[str, list[Exhibit]]]:
    return [(heading, list(group)) for heading, group in groupby(shown, key=lambda exhibit: exhibit.heading)]


def exhibits(notebook: NotebookNode | None) -> list[Exhibit]:
    """What is worth looking at in an executed notebook, in order."""
    if notebook is None:
        return []
    found = []
    for index, place in places(notebook).items():
        for output in notebook.cells[index].get("outputs", []):
            found += [Exhibit(place.heading, place.number, html) for html in _shown(output, place)]
    return found


def _shown(output: NotebookNode, place: Place) -> Iterator[Markup]:
    """The richest form of an output that the report can show, if any."""
    data = output.get("data", {})
    for kind in ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp"):
        if kind in data:
            yield _picture(kind, data, output.get("metadata", {}), place)
            return
    if "text/html" in data and "application/vnd.jupyter.widget-view+json" not in data:
        cleaned = sanitised(data["text/html"])
        if re.search(r"<img\b|<table\b", cleaned) or re.sub(r"<[^>]*>|\s", "", cleaned):
            yield Markup(cleaned)


def _picture(kind: str, data: Mapping[str, str], metadata: Mapping, place: Place) -> Markup:
    payload = data[kind]
    if kind == "image/svg+xml":  # inside <img> a browser neither runs its scripts nor loads what it refers to
        payload = base64.b64encode(payload.encode()).decode("ascii")
    plain = data.get("text/plain", "")
    own = metadata.get("alt") or ("" if _REPR.fullmatch(plain) else plain)
    alt = own or f"Picture made by cell {place.number}, under the heading {place.heading or '(none)'}"
    source = f"data:{kind};base64,{''.join(payload.split())}"
    return Markup('<img alt="{}" src="{}">').format(alt, source)


def sanitised(html: str) -> str:
    """`html` with nothing left in it but tables, embedded pictures and marked-up text."""
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags={"script", "style", "title", "textarea", "template", "noscript"},
        attributes=_ATTRIBUTES,
        attribute_filter=_allowed,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=_STYLES,
        link_rel="noopener noreferrer",
    )


def _allowed(tag: str, attribute: str, value: str) -> str | None:
    """The value of an attribute, None to drop it: pictures only as embedded data, links never as data."""
    if attribute == "src":
        return value if _PICTURE.fullmatch(value) else None
    if attribute == "href":
        return value if re.match(r"https?://|mailto:", value, re.IGNORECASE) else None
    return value
