"""The labs' own notebooks: twins of their sources, and a short core one of each lab run again, cell by cell, by nbval.

nbval runs in a copy of the lab's folder with a local SageMaker of its own, so it changes nothing in this checkout, and
compares the outputs of cells tagged `nbval-check-output` with those that were saved.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from shared import notebooks
from shared.cells import INJECTED, places, tags
from tests.sample_labs import PARAMETERS, ROOT, add, change_saved, environment

CHECKED = "nbval-check-output"
ALL = notebooks.discover()


def shortest(found: list[notebooks.Notebook]) -> list[notebooks.Notebook]:
    """For each lab the core notebook that takes a person the fewest minutes."""
    core = [notebook for notebook in found if notebook.track == "core"]
    labs = dict.fromkeys(notebook.lab for notebook in core)
    return [min((n for n in core if n.lab == lab), key=lambda notebook: notebook.minutes) for lab in labs]


def nbval(notebook: notebooks.Notebook, folder: Path) -> subprocess.CompletedProcess:
    """Run nbval on a copy of the notebook's lab in `folder`, with BACKEND = "local"."""
    copy = folder / notebook.folder.name
    shutil.copytree(notebook.folder, copy, ignore=shutil.ignore_patterns("out"))
    (folder / "shared").symlink_to(ROOT / "shared")
    path = copy / notebook.path.name
    document = nbformat.read(path, as_version=4)
    parameters = next(index for index, cell in enumerate(document.cells) if "parameters" in tags(cell))
    document.cells.insert(parameters + 1, new_code_cell('BACKEND = "local"', metadata={"tags": [INJECTED]}))
    nbformat.write(document, path)
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", copy, "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300", path]
    variables = environment(folder / "state")
    try:
        return subprocess.run(
            command,
            cwd=copy,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        stop = [sys.executable, "-m", "shared.local_sagemaker", "stop"]
        subprocess.run(stop, cwd=ROOT, env=variables, capture_output=True, check=True)


def test_sources_and_notebooks_are_the_same_and_fit_to_commit():
    assert "1" in {notebook.lab for notebook in ALL}
    problems = notebooks.check(ALL)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("notebook", shortest(ALL), ids=lambda notebook: notebook.label)
def test_a_short_notebook_of_the_lab_runs_and_shows_what_was_saved(notebook, tmp_path):
    document = nbformat.read(notebook.path, as_version=4)
    checked = [cell for cell in document.cells if CHECKED in tags(cell) and cell.outputs]
    assert checked, f"tag a cell of {notebook.label} whose outputs are always the same with {CHECKED}"
    end = nbval(notebook, tmp_path)
    assert end.returncode == 0, end.stdout
    assert f"{len(places(document)) + 1} passed" in end.stdout, end.stdout


def test_nbval_finds_a_changed_output_and_a_cell_that_fails(tmp_path):
    checked = f'# %% tags=["{CHECKED}"]\nprint("the same")'
    notebook = add(tmp_path / "labs", "1-a", PARAMETERS, checked, 'assert BACKEND == "local"', "1 / 0")

    def save_outputs(document):
        output = {"name": "stdout", "output_type": "stream", "text": "another\n"}
        document["cells"][1].update(execution_count=2, outputs=[output])  # nbval compares no cell without a count

    change_saved(notebook, save_outputs)
    end = nbval(notebook, tmp_path)
    assert end.returncode == 1
    assert "2 failed, 3 passed" in end.stdout
    assert "another" in end.stdout, end.stdout
    assert "ZeroDivisionError" in end.stdout
