"""The labs' notebooks: finds them, builds them from their sources, and checks that both are the same notebook.

A notebook is written as lab*/source/NAME.py (py:percent) and built to lab*/NAME.ipynb with its outputs; both are
committed. What is built depends on nothing but the source and what its cells print: cell ids are fingerprints of the
cells, execution counts run from 1, and times, widget states and papermill's traces are left out.

    python -m shared.notebooks build [NAME...] [--no-execute]
    python -m shared.notebooks check
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from . import notebook_checks
from .cells import INJECTED, tags

ROOT = Path(__file__).resolve().parent.parent
TRACKS = ("core", "further")
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class NotebookError(RuntimeError):
    """A source that cannot be built; the message says which and why."""


@dataclass(frozen=True)
class Notebook:
    """A notebook of the lab `lab` ("1") in `folder`: `track` is "core" or "further", `minutes` what a person needs."""

    lab: str
    folder: Path
    name: str
    track: str
    minutes: int

    @property
    def source(self) -> Path:
        """The py:percent file."""
        return self.folder / "source" / f"{self.name}.py"

    @property
    def path(self) -> Path:
        """The built .ipynb file."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def label(self) -> str:
        """What to call it in messages, such as "lab1-llm-inference/1-deploy-an-llm"."""
        return f"{self.folder.name}/{self.name}"


def discover(root: Path = ROOT) -> list[Notebook]:
    """All notebooks that have a source under `root`, by lab and then by the number their name begins with.

    Other .ipynb files in a lab's folder are the user's own. Raises NotebookError for a source without a proper header.
    """
    found = []
    for lab, folder in labs(root).items():
        for source in folder.glob("source/*.py"):
            header = _header(source, jupytext.read(source, fmt="py:percent"))
            found.append(Notebook(lab, folder, source.stem, **header))
    return sorted(found, key=lambda notebook: (_natural(notebook.lab), _natural(notebook.name)))


def labs(root: Path = ROOT) -> dict[str, Path]:
    """The labs' folders by number: {"1": .../lab1-llm-inference, ...}."""
    folders = {match[1]: path for path in root.glob("lab*") if (match := re.match(r"lab(\d+)", path.name))}
    return dict(sorted((item for item in folders.items() if item[1].is_dir()), key=lambda item: int(item[0])))


def convert(notebook: Notebook) -> NotebookNode:
    """The notebook of the source, without outputs. Raises NotebookError for a source without a proper header."""
    read = jupytext.read(notebook.source, fmt="py:percent")
    _header(notebook.source, read)
    return _tidy(read, read.metadata["workshop"])


def build(notebook: Notebook, execute: bool = True) -> None:
    """Write the .ipynb of `notebook`: with its outputs, or without `execute` with those of cells that did not change.

    It is executed in the lab's folder on a local SageMaker of its own, which ends afterwards. Raises NotebookError when
    a cell fails, and KeyboardInterrupt; the .ipynb then stays as it was.
    """
    built = convert(notebook)
    if execute:
        built = _tidy(_executed(notebook, built), built.metadata["workshop"])
    elif notebook.path.exists():
        _keep_outputs(built, nbformat.read(notebook.path, as_version=4))
    built = nbformat.from_dict(built)
    nbformat.validate(built)
    write(built, notebook.path)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write `notebook` to `path` as one step, so that nobody ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check(notebooks: Sequence[Notebook]) -> list[str]:
    """What is wrong with the committed notebooks, one readable line each; empty when all is well."""
    problems = []
    for notebook in notebooks:
        if not notebook.path.exists():
            problems.append(f"{notebook.label}: {notebook.path.name} is missing; run: make notebooks")
            continue
        saved = nbformat.read(notebook.path, as_version=4)
        found = notebook_checks.differences(convert(notebook), saved)
        found += notebook_checks.problems(saved, notebook.path.stat().st_size, ROOT)
        problems += [f"{notebook.label}: {problem}" for problem in found]
    return problems


def _header(source: Path, read: NotebookNode) -> dict:
    header = read.metadata.get("workshop", {})
    track, minutes = header.get("track"), header.get("minutes")
    if track not in TRACKS or type(minutes) is not int or minutes <= 0:
        raise NotebookError(
            f"{source.parent.parent.name}/source/{source.name}: its header needs, under `jupyter:`, `workshop:` with "
            f"`track: core` or `track: further` and `minutes:` as a whole number; it has {dict(header)}"
        )
    return {"track": track, "minutes": minutes}


def _natural(text: str) -> list:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", text)]


def _tidy(notebook: NotebookNode, workshop: dict) -> NotebookNode:
    """`notebook` with nothing in it that depends on when, where and how it was run."""
    cells = [cell for cell in notebook.cells if INJECTED not in tags(cell)]
    seen, count = Counter(), 0
    for cell in cells:
        cell.metadata = NotebookNode(tags=tags(cell)) if tags(cell) else NotebookNode()
        cell.id = cell_id(cell, seen)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in map(_tidy_output, cell.outputs) if output]
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    metadata = {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO, "workshop": dict(workshop)}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def cell_id(cell: NotebookNode, seen: Counter) -> str:
    """An id made of the cell's type and text, so that moving a cell or editing another one does not change it.

    `seen` counts the fingerprints so far; a repeated cell gets a number.
    """
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _tidy_output(output: NotebookNode) -> NotebookNode | None:
    """The output without its widget, of which nothing would be left in a file; None when it was nothing else."""
    data = output.get("data")
    if data is None or _WIDGET_VIEW not in data:
        return output
    del data[_WIDGET_VIEW]
    # A widget's repr, of which IPython cuts off the end of a long one, says nothing to readers.
    if re.fullmatch(r"\w+\(.*[)…]", data.get("text/plain", ""), re.DOTALL):
        del data["text/plain"]
    return output if data else None


def _keep_outputs(built: NotebookNode, saved: NotebookNode) -> None:
    """Take over outputs and counts of cells that are in both, by their ids."""
    old = {cell.id: cell for cell in saved.cells if cell.cell_type == "code"}
    for cell in built.cells:
        if cell.cell_type == "code" and cell.id in old:
            cell.outputs, cell.execution_count = old[cell.id].outputs, old[cell.id].execution_count


def _executed(notebook: Notebook, converted: NotebookNode) -> NotebookNode:
    from .execution import UnknownParameter, execute  # late: takes 3 s, and only this needs it
    from .progress import Progress, describe

    with tempfile.TemporaryDirectory(prefix="workshop-build-") as folder, Progress() as progress:
        draft = Path(folder) / notebook.path.name
        write(converted, draft)
        progress.notebook(notebook.label)
        with _own_local_sagemaker() as environment:
            try:
                run = execute(draft, progress, {"BACKEND": "local"}, environment=environment, folder=notebook.folder)
            except UnknownParameter as error:
                raise NotebookError(f"{notebook.label}: every notebook has a cell with BACKEND; {error}") from error
    if run.interrupted:
        raise KeyboardInterrupt
    if run.error:
        raise NotebookError(f"{notebook.label} failed, so its .ipynb was not written\n{describe(run.place, run.error)}")
    return run.notebook


@contextmanager
def _own_local_sagemaker() -> Iterator[dict[str, str]]:
    """An environment for a kernel whose local SageMaker is no other's, with no AWS setting of the user's in it."""
    with tempfile.TemporaryDirectory(prefix="workshop-build-") as state:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment["SAGEMAKER_LOCAL_STATE"] = state
        environment["LOGNAME"] = "learner"  # resource names carry the login; outputs must not tell who built them
        try:
            yield environment
        finally:
            stop = [sys.executable, "-m", "shared.local_sagemaker", "stop"]
            subprocess.run(stop, cwd=ROOT, env=environment, capture_output=True, stdin=subprocess.DEVNULL)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shared.notebooks", description="Build and check the notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build .ipynb files from the sources, and execute them")
    building.add_argument("names", nargs="*", metavar="NAME", help="such as 1-deploy-an-llm (default: all)")
    building.add_argument("--no-execute", action="store_true", help="convert only; unchanged cells keep their outputs")
    commands.add_parser("check", help="say whether sources and notebooks are the same, and fit to commit")
    options = parser.parse_args(arguments)
    try:
        notebooks = discover(root)
        if options.command == "check":
            return _report(check(notebooks), len(notebooks))
        for notebook in _chosen(notebooks, options.names):
            build(notebook, execute=not options.no_execute)
            print(f"built {notebook.path.relative_to(root)} ({notebook.path.stat().st_size:,} bytes)")
        return 0
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the .ipynb stays as it was", file=sys.stderr)
        return 130


def _chosen(notebooks: list[Notebook], names: list[str]) -> list[Notebook]:
    known = {name for notebook in notebooks for name in (notebook.name, notebook.label)}
    for name in names:
        if name not in known:
            raise NotebookError(f"no notebook {name!r}; there are: {', '.join(n.label for n in notebooks) or 'none'}")
    return [notebook for notebook in notebooks if not names or notebook.name in names or notebook.label in names]


def _report(problems: list[str], count: int) -> int:
    for problem in problems:
        print(problem)
    print(f"{count} notebooks checked, {len(problems)} problems" if count else "no notebooks found")
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main())
