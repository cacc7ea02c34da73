"""Building notebooks from their sources, and the check that stands between them and a commit."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from shared import notebooks
from tests.sample_labs import PARAMETERS, ROOT, add, change_saved, command, environment, markdown, run, source_text


def saved(notebook):
    return nbformat.read(notebook.path, as_version=4)


def test_notebooks_are_found_in_the_order_of_the_day(tmp_path):
    for lab, name in [("lab10-x", "1-a"), ("lab2-x", "10-b"), ("lab2-x", "2-c"), ("lab1-x", "1-d")]:
        add(tmp_path, name, "1", lab=lab, built=False)
    add(tmp_path, "3-e", "1", lab="lab1-x", built=False, track="further", minutes=20)
    (tmp_path / "lab1-x" / "Untitled.ipynb").write_text("the user's own")
    found = notebooks.discover(tmp_path)
    assert [notebook.label for notebook in found] == [
        "lab1-x/1-d", "lab1-x/3-e", "lab2-x/2-c", "lab2-x/10-b", "lab10-x/1-a",
    ]  # fmt: skip
    assert (found[1].lab, found[1].track, found[1].minutes) == ("1", "further", 20)


@pytest.mark.parametrize(
    "text",
    ["# %%\n1\n", source_text("1", track="main"), source_text("1", minutes="'5'"), source_text("1", minutes=0)],
)
def test_a_source_without_a_proper_header_is_named(tmp_path, text):
    source = tmp_path / "lab1-x" / "source" / "1-a.py"
    source.parent.mkdir(parents=True)
    source.write_text(text)
    with pytest.raises(notebooks.NotebookError, match=r"lab1-x/source/1-a\.py: its header needs"):
        notebooks.discover(tmp_path)


def test_a_converted_notebook_is_valid_and_carries_header_tags_and_kernel(tmp_path):
    notebook = add(tmp_path, "1-a", markdown("# Title"), PARAMETERS, "print(1)", track="further", minutes=20)
    built = saved(notebook)
    nbformat.validate(built)
    assert built.metadata["workshop"] == {"track": "further", "minutes": 20}
    assert built.metadata["kernelspec"]["name"] == "python3"
    assert built.metadata["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert "version" not in built.metadata["language_info"]
    assert [cell.cell_type for cell in built.cells] == ["markdown", "code", "code"]
    assert built.cells[1].metadata == {"tags": ["parameters"]}
    assert notebook.path.read_text().endswith("}\n")


def test_cell_ids_stay_when_other_cells_change_and_are_unique(tmp_path):
    before = saved(add(tmp_path, "1-a", "print(1)", "same", "same", markdown("Text")))
    after = saved(add(tmp_path, "1-a", markdown("New"), "same", "print(2)", "same", "print(1)", markdown("Text")))
    old = {(cell.source, number): cell.id for number, cell in enumerate(before.cells)}
    new = {cell.source: cell.id for cell in after.cells}
    assert old["print(1)", 0] == new["print(1)"] and old["Text", 3] == new["Text"]
    assert len({cell.id for cell in after.cells}) == 6
    assert [cell.id for cell in after.cells if cell.source == "same"] == [old["same", 1], old["same", 2]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A notebook that was executed by the command line, and the command's end."""
    root = tmp_path_factory.mktemp("lab")
    show = "import ipywidgets\nipywidgets.VBox([ipywidgets.IntSlider(), ipywidgets.HTML('long ' * 99)])"
    where = "import os\nfrom pathlib import Path\nprint(Path.cwd().name, os.environ.get('AWS_REGION'), BACKEND)"
    notebook = add(root, "1-a", PARAMETERS, markdown("# Title"), where, "'value'", show, built=False)
    end = run("notebooks", root, "build", "1-a", AWS_REGION="eu-west-3")
    return notebook, end


def test_a_built_notebook_ran_in_its_folder_on_the_local_backend(built):
    notebook, end = built
    assert end.returncode == 0, end.stdout
    assert saved(notebook).cells[2].outputs[0].text == "lab1-demo None local\n"


def test_a_built_notebook_has_nothing_of_its_run_but_outputs(built):
    notebook, end = built
    document = saved(notebook)
    nbformat.validate(document)
    assert set(document.metadata) == {"kernelspec", "language_info", "workshop"}
    assert all(set(cell.metadata) <= {"tags"} for cell in document.cells)
    assert [cell.get("execution_count") for cell in document.cells] == [1, None, 2, 3, 4]
    assert document.cells[3].outputs[0].execution_count == 3
    assert "injected-parameters" not in notebook.path.read_text()
    assert document.cells[4].outputs == [], "a widget without its state shows as an error"
    assert not list(notebook.folder.glob(".*"))


def test_a_built_notebook_passes_the_check_and_building_again_changes_nothing(built):
    notebook, end = built
    assert notebooks.check([notebook]) == []
    before = notebook.path.read_bytes()
    again = run("notebooks", notebook.folder.parent, "build")
    assert again.returncode == 0 and notebook.path.read_bytes() == before


def test_conversion_alone_keeps_the_outputs_of_cells_that_did_not_change(tmp_path):
    notebook = add(tmp_path, "1-a", "1", "2")

    def execute(document):
        for number, cell in enumerate(document["cells"], start=1):
            output = {"name": "stdout", "output_type": "stream", "text": f"{number}"}
            cell.update(execution_count=number, outputs=[output])

    change_saved(notebook, execute)
    cells = saved(add(tmp_path, "1-a", "2", "3")).cells
    assert [len(cell.outputs) for cell in cells] == [1, 0]


def test_a_notebook_that_fails_is_not_written(tmp_path):
    notebook = add(tmp_path, "1-a", PARAMETERS, markdown("## Divide"), "1 / 0")
    before = notebook.path.read_bytes()
    end = run("notebooks", tmp_path, "build")
    assert end.returncode == 1
    assert "lab1-demo/1-a failed, so its .ipynb was not written" in end.stdout
    assert "cell 2 of 2, '1 / 0', under 'Divide'" in end.stdout
    assert "ZeroDivisionError: division by zero" in end.stdout
    assert notebook.path.read_bytes() == before


def test_an_interrupted_build_leaves_the_notebook_as_it_was(tmp_path):
    wait = "import time\nfrom pathlib import Path\nPath('begun').touch()\ntime.sleep(600)"
    notebook = add(tmp_path, "1-a", PARAMETERS, wait)
    before = notebook.path.read_bytes()
    build = command("notebooks", tmp_path, "build")
    process = subprocess.Popen(build, cwd=ROOT, env=environment(tmp_path / "state"), stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if (notebook.folder / "begun").exists():
                break
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors == "interrupted; the .ipynb stays as it was\n"
    assert notebook.path.read_bytes() == before
    assert {path.name for path in notebook.folder.iterdir()} == {"source", "1-a.ipynb", "begun"}


def test_a_name_that_no_notebook_has_lists_those_there_are(tmp_path, capfd):
    add(tmp_path, "1-a", "1")
    assert notebooks.main(["build", "2-b"], root=tmp_path) == 1
    assert "no notebook '2-b'; there are: lab1-demo/1-a" in capfd.readouterr().err


def executed(tmp_path, *cells):
    """A notebook as if its cells had run, printing their number."""
    notebook = add(tmp_path, "1-a", *(cells or ("print(1)", "print(2)")))

    def fill(document):
        count = 0
        for cell in document["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                output = {"name": "stdout", "output_type": "stream", "text": f"{count}\n"}
                cell.update(execution_count=count, outputs=[output])

    change_saved(notebook, fill)
    return notebook


def test_check_finds_nothing_in_a_notebook_that_is_as_it_should_be(tmp_path):
    assert notebooks.check([executed(tmp_path)]) == []


DEFECTS = {
    "another text": (lambda d: d["cells"][0].update(source="print(9)"), "has another text in source and notebook"),
    "other tags": (lambda d: d["cells"][0]["metadata"].update(tags=["x"]), "has another tags in source and notebook"),
    "another id": (lambda d: d["cells"][0].update(id="mine"), "has another id in source and notebook"),
    "a cell too few": (lambda d: d["cells"].pop(), "source has 2 cells, notebook has 1"),
    "other minutes": (lambda d: d["metadata"]["workshop"].update(minutes=9), "are not those of the source (workshop)"),
    "no kernel": (lambda d: d["metadata"].pop("kernelspec"), "are not those of the source (kernelspec)"),
    "not executed": (lambda d: d["cells"][1].update(execution_count=None), "cell 2 has execution count None, not 2"),
    "out of order": (lambda d: d["cells"][0].update(execution_count=3), "code cell 1 has execution count 3, not 1"),
    "cell times": (lambda d: d["cells"][0]["metadata"].update(execution={}), "metadata other than tags (execution)"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_check_finds(defect, tmp_path):
    edit, message = DEFECTS[defect]
    notebook = executed(tmp_path)
    change_saved(notebook, edit)
    problems = notebooks.check([notebook])
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith("lab1-demo/1-a: ") for problem in problems)


@pytest.mark.parametrize(
    "text, message",
    [
        (f"saved to {ROOT}/out/model.tar.gz", "shows"),
        (f"{Path.home()}/x" if str(Path.home()) != "/" else "/root/x", "shows"),
        ("/tmp/ipykernel_12/34.py:3: UserWarning", "shows '/tmp/ipykernel_12/34.py'"),
        ("file:/Users/ada/x", None),  # a URL's path after a colon is one as well
        ("(/home/ada/x.py)", "shows '/home/ada/x.py'"),
        ("/opt/ml/model/code/inference.py, https://x.org/home/ada, a/tmp/b, ~/tmp/x", ""),
        ("AKIA" + "ABCDEFGH23456789", "shows an AWS access key"),
        ("hf_" + "a" * 34, "shows a Hugging Face token"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=abc", "shows a signed URL"),
        ("arn:aws:iam::111122223333:role/x", "shows an AWS account's ARN"),
        ("arn:aws:iam::123456789012:role/x and 763104351884.dkr.ecr.us-east-1.amazonaws.com/x", ""),
        ("-----BEGIN RSA PRIVATE KEY-----", "shows a private key"),
    ],
)
def test_check_finds_paths_and_secrets_in_outputs(text, message, tmp_path):
    notebook = executed(tmp_path)
    change_saved(notebook, lambda document: document["cells"][0]["outputs"][0].update(text=text))
    problems = notebooks.check([notebook])
    assert problems == [] if message == "" else len(problems) == 1 and (message or "shows") in problems[0], problems


def test_check_finds_a_secret_in_a_source_but_no_path_in_a_picture(tmp_path):
    notebook = executed(tmp_path, "token = 'hf_" + "a" * 34 + "'")
    html = '<img alt="x" src="data:image/png;base64,AAAA/tmp/AAAA/root/AAAA=">'
    output = new_output("display_data", {"text/html": html, "image/png": "/tmp/AAAA"})
    change_saved(notebook, lambda document: document["cells"][0].update(outputs=[output]))
    assert [problem.split(": ", 1)[1] for problem in notebooks.check([notebook])] == [
        "it shows a Hugging Face token: remove it, and revoke it"
    ]


def test_check_finds_an_error_an_empty_cell_a_large_file_and_a_missing_one(tmp_path):
    notebook = executed(tmp_path)
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    change_saved(notebook, lambda document: document["cells"][0].update(outputs=[error]))
    assert "code cell 1 ended with ValueError: no" in notebooks.check([notebook])[0]

    def grow(document):
        document["cells"].append(dict(new_code_cell("")))
        document["cells"][0]["outputs"] = [new_output("stream", text="x" * 4_000_000)]

    change_saved(notebook, grow)
    problems = "\n".join(notebooks.check([notebook]))
    assert "3.8 MiB, but at most 3" in problems and "an empty code cell" in problems
    notebook.path.unlink()
    assert notebooks.check([notebook]) == ["lab1-demo/1-a: 1-a.ipynb is missing; run: make notebooks"]


def test_the_check_command_fails_when_something_is_wrong_or_nothing_is_there(tmp_path, capfd):
    assert notebooks.main(["check"], root=tmp_path) == 1
    notebook = executed(tmp_path)
    assert notebooks.main(["check"], root=tmp_path) == 0
    notebook.source.write_text(source_text("print(3)", "print(2)"))
    assert notebooks.main(["check"], root=tmp_path) == 1
    output = capfd.readouterr().out
    assert "no notebooks found" in output and "1 notebooks checked, 1 problems" in output
