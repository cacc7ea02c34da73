"""Small labs made on the fly, and the commands on them, for the tests of notebooks, runner and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shared import notebooks

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = '# %% tags=["parameters"]\nBACKEND = "auto"\nMODEL = "embedded"\nKEEP = False\n'


def source_text(*cells: str, track: str = "core", minutes: object = 5) -> str:
    """A py:percent notebook: code cells as they are, Markdown ones for cells that begin with "# %%"."""
    header = f"# ---\n# jupyter:\n#   workshop:\n#     minutes: {minutes}\n#     track: {track}\n# ---\n\n"
    return header + "\n\n".join(cell if cell.startswith("# %%") else f"# %%\n{cell}" for cell in cells) + "\n"


def markdown(text: str) -> str:
    """A Markdown cell of a source."""
    return "# %% [markdown]\n" + "\n".join(f"# {line}" for line in text.splitlines())


def add(root: Path, name: str, *cells: str, lab: str = "lab1-demo", built: bool = True, **header) -> notebooks.Notebook:
    """Write a source (and, if `built`, its .ipynb without outputs); returns the notebook."""
    folder = root / lab / "source"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(source_text(*cells, **header))
    notebook = next(n for n in notebooks.discover(root) if n.folder.name == lab and n.name == name)
    if built:
        notebooks.build(notebook, execute=False)
    return notebook


def change_saved(notebook: notebooks.Notebook, edit: Callable[[dict], object]) -> None:
    """Edit the built notebook's file."""
    document = json.loads(notebook.path.read_text())
    edit(document)
    notebook.path.write_text(json.dumps(document))


def command(module: str, root: Path, *arguments: object) -> list[str]:
    """The command line of `shared.<module>` on the labs under `root` instead of this checkout's."""
    program = f"import sys; from pathlib import Path; from shared.{module} import main; "
    program += f"sys.exit(main(sys.argv[1:], root=Path({str(root)!r})))"
    return [sys.executable, "-c", program, *map(str, arguments)]


def environment(state: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing touches the user's own local SageMaker, AWS or Jupyter settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    return kept | {"SAGEMAKER_LOCAL_STATE": str(state), "PYTHONPATH": str(ROOT)} | more


def run(module: str, root: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess:
    """Run `command` to its end; its output, standard error included, is in `stdout`."""
    return subprocess.run(
        command(module, root, *arguments),
        cwd=ROOT,
        env=environment(root / "state", **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
