"""The report: what a hostile cell prints stays text, nothing is fetched, pictures keep their alternative texts."""

from __future__ import annotations

import base64
import tempfile
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from shared import report
from shared.cells import CellError, places
from shared.execution import Execution
from shared.notebooks import Notebook

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
HOSTILE = [
    "<script>document.title='x'</script>",
    "<img src=x onerror=\"document.title='x'\">",
    "<svg onload=\"document.title='x'\"><script>1</script></svg>",
    "<a href='javascript:alert(1)'>a</a><a href=' JaVaScRiPt:alert(1)'>b</a><a href='data:text/html,<b>x</b>'>c</a>",
    "<iframe src='https://example.com'></iframe><object data='x'></object><embed src='x'><base href='//example.com'>",
    "<img src='https://example.com/x.png'><img srcset='https://example.com/x.png 2x'><video poster='//example.com/x'>",
    "<form action='https://example.com'><input autofocus onfocus=alert(1)><button formaction='javascript:1'>x</form>",
    "<div style=\"position:fixed;inset:0;background:url('https://example.com/x')\" onclick=alert(1)>over all</div>",
    "<style>* { display: none }</style><link rel=stylesheet href='https://example.com/x.css'>",
    "<meta http-equiv=refresh content='0;url=https://example.com'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "</div></figure></section></main></body></html><script>1</script>",
]


class Page(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def shown(*outputs, heading="## A heading"):
    """The page of a run of one notebook whose one cell has these outputs."""
    return page(new_notebook(cells=[new_markdown_cell(heading), new_code_cell("cell", outputs=list(outputs))]))


def page(notebook, **ended):
    outcome = report.Outcome(
        Notebook("1", Path("lab1-demo"), ended.pop("name", "1-demo"), "core", 5),
        report.FAILED if ended.get("error") else report.PASSED,
        Execution(notebook, 1.0, 1, 1, **ended),
        notes=["<b>note</b>"],
    )
    return render(outcome)


def render(*outcomes, facts=None):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out" / "report.html"
        report.write(path, outcomes, facts or {"Versions": {"<i>": "<script>"}}, datetime(2026, 11, 21, 3, 7), 125.0)
        assert [file.name for file in path.parent.iterdir()] == ["report.html"]
        return Page(path.read_text())


def html_output(html):
    return new_output("display_data", {"text/html": html, "text/plain": "plain"})


def assert_harmless(found: Page):
    tags = {tag for tag, _ in found.elements}
    assert not tags & set("script iframe object embed base form input button video audio svg math link".split())
    assert len(found.all("style")) == 1 and len(found.all("meta")) == 4, "only the page's own"
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "formaction", "poster")]
        style = attributes.get("style") or ""
        assert "url(" not in style and "position" not in style and "inset" not in style
    assert all((image.get("src") or "data:image/").startswith("data:image/") for image in found.all("img"))
    assert all(not (a.get("href") or "#").lower().strip().startswith(("javascript", "data")) for a in found.all("a"))


@pytest.mark.parametrize("html", HOSTILE)
def test_hostile_html_of_a_cell_cannot_run_load_or_cover_anything(html):
    found = shown(html_output(html), html_output("<table><tr><td>after it</td></tr></table>"))
    assert_harmless(found)
    assert "after it" in found.text and "What ran where" in found.text


def test_all_other_text_is_escaped():
    evil = "<script>alert(1)</script>"
    notebook = new_notebook(cells=[new_markdown_cell(f"# {evil}"), new_code_cell(f"# {evil}")])
    error = CellError(evil, evil, evil)
    found = page(notebook, name=evil, place=places(notebook)[1], error=error)
    assert_harmless(found)
    assert found.text.count(evil) >= 8


def test_the_page_forbids_scripts_and_requests_and_asks_for_none():
    found = shown(html_output("<table></table>"))
    policies = [meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not found.all("link") and not found.all("script")


def test_tables_keep_their_markup_and_looks():
    table = (
        "<table><caption>Variety</caption><thead><tr><th style='text-align:right' scope='col'>n</th></tr></thead>"
        "<tbody><tr><td colspan='2' style='white-space:pre-wrap'>1</td></tr></tbody></table>"
    )
    found = shown(html_output(table))
    assert "Variety" in found.text
    assert {"colspan": "2", "style": "white-space:pre-wrap"} in found.all("td")
    assert {"scope": "col", "style": "text-align:right"} in found.all("th")


def test_pictures_are_embedded_with_their_alternative_text():
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    found = shown(
        html_output(f"<img alt='bars of &quot;the&quot;' width='300' src='data:image/png;base64,{PNG}'>"),
        new_output("display_data", {"image/png": PNG + "\n", "text/plain": "<Figure size 640x480 with 1 Axes>"}),
        new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "x"}, "alt": "a curve"}),
        new_output("display_data", {"image/svg+xml": svg, "text/plain": "a drawing"}),
    )
    assert [image["alt"] for image in found.all("img")] == [
        'bars of "the"',
        "Picture made by cell 1, under the heading A heading",
        "a curve",
        "a drawing",
    ]
    assert found.all("img")[1]["src"] == f"data:image/png;base64,{PNG}"
    assert found.all("img")[3]["src"].startswith("data:image/svg+xml;base64,")
    assert_harmless(found)


def test_outputs_without_anything_to_look_at_are_left_out():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/html": "<b>x</b>", "text/plain": "x"}
    found = shown(
        new_output("stream", text="only text"),
        new_output("display_data", widget),
        html_output("<style>p {}</style> <div></div>"),
    )
    assert not found.all("figure") and "It shows no tables or pictures." in found.text


def test_outputs_stand_under_the_heading_of_their_cell():
    table = html_output("<table><tr><td>1</td></tr></table>")
    cells = [
        new_code_cell("a", outputs=[table]),
        new_markdown_cell("# Title\n\n```\n# no heading\n```"),
        new_code_cell("b", outputs=[table]),
        new_code_cell("c", outputs=[table]),
        new_markdown_cell("## Use [`top_k`](x.md)"),
        new_code_cell("d", outputs=[table]),
    ]
    assert [(exhibit.cell, exhibit.heading) for exhibit in report.exhibits(new_notebook(cells=cells))] == [
        (1, ""),
        (2, "Title"),
        (3, "Title"),
        (4, "Use top_k"),
    ]


def test_rows_say_what_was_not_run_and_the_facts_are_there():
    notebook = Notebook("2", Path("lab2-demo"), "1-later", "further", 20)
    found = render(report.Outcome(notebook), facts={"Machine": {"processor": "abacus"}})
    assert "0 of 1 notebook passed, 1 not finished" in found.text
    assert "not run" in found.text and "It was not run." in found.text
    assert "abacus" in found.text and "21 November 2026 at 03:07 in 2 min 05 s" in found.text


@pytest.mark.parametrize(
    "statuses, sentence",
    [
        ([], "There was no notebook to run"),
        (["passed"], "The notebook passed"),
        (["passed", "passed"], "All 2 notebooks passed"),
        (["passed", "failed", "not run"], "1 of 3 notebooks passed, 1 failed, 1 not finished"),
        (["interrupted"], "0 of 1 notebook passed, 1 not finished"),
    ],
)
def test_the_headline_counts(statuses, sentence):
    notebook = Notebook("1", Path("lab1-demo"), "1-demo", "core", 5)
    assert report.headline([report.Outcome(notebook, status) for status in statuses]) == sentence
