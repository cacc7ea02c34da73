"""The runner on small labs, in a process of its own as `make labs` starts it: results, faults, signals, parameters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy
import psutil
import pytest
from safetensors.numpy import save_file

from tests.sample_labs import PARAMETERS, ROOT, add, command, environment, markdown, run


class Rows(HTMLParser):
    """The texts of the cells of the report's first table."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self._deep = [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._deep += tag == "table" and (self._deep > 0 or not self.rows)
        if self._deep and tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag):
        self._deep -= tag == "table" and self._deep > 0

    def handle_data(self, data):
        if self._deep and self.rows:
            self.rows[-1] += data


def rows(folder: Path) -> list[str]:
    return [" ".join(row.split()) for row in Rows((folder / "report.html").read_text()).rows[1:]]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One run of notebooks that pass, fail, hang, die and leave: the process's end and its output folder."""
    root = tmp_path_factory.mktemp("labs {of} a user")  # papermill takes braces in a path for its own
    divide = [markdown("## Divide `it`"), "\nx = 1\nx / 0", "print('never')"]
    add(root, "1-fails", markdown("# A lab"), "good = 1", *divide)
    add(root, "2-passes", PARAMETERS, "import sys\nprint(sys.executable)\nprint(BACKEND)")
    add(root, "3-hangs", "import time\nwhile True:\n    time.sleep(1)", "print('never')")
    add(root, "4-dies", "import os", "os._exit(3)")
    add(root, "5-is-killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    add(root, "6-leaves", "import sys\nsys.exit(0)", "print('never')")
    add(root, "7-has-no-code", markdown("# Only words"))
    add(root, "10-is-further", "1", track="further")
    add(root, "1-is-of-lab-2", "print('lab 2 ran')", lab="lab2-demo")
    # What users may have: another kernel under the name python3, and start-up files of IPython.
    kernel = root / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    startup = root / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "0.py").write_text("print('start-up file')")
    users = {"JUPYTER_PATH": str(root / "jupyter"), "IPYTHONDIR": str(root / "ipython")}
    end = run("runner", root, "--out", root / "out", "--timeout", "3", **users)
    return end, root / "out"


def test_a_failure_gives_exit_code_1_and_stops_no_other_notebook(results):
    end, out = results
    assert end.returncode == 1, end.stdout
    assert "2 of 8 notebooks passed, 6 failed" in end.stdout
    found = [re.match(r"([\w-]+?)lab(\d).* through (passed|failed) ", row) for row in rows(out)]
    assert [" ".join(match.groups()) for match in found if match] == [
        "1-fails 1 failed",
        "2-passes 1 passed",
        "3-hangs 1 failed",
        "4-dies 1 failed",
        "5-is-killed 1 failed",
        "6-leaves 1 failed",
        "7-has-no-code 1 failed",
        "1-is-of-lab-2 2 passed",
    ]


def test_the_summary_names_notebook_cell_first_line_and_error(results):
    end, _ = results
    summary = end.stdout[end.stdout.index("2 of 8 notebooks passed") :]
    assert "lab1-demo/1-fails" in summary
    assert "cell 2 of 3, 'x = 1', under 'Divide it'" in summary
    assert "ZeroDivisionError: division by zero" in summary


def test_progress_names_notebook_cell_heading_and_seconds(results):
    end, _ = results
    lines = [line.split() for line in end.stdout.splitlines() if line.startswith("  1-fails")]
    assert [line[:2] for line in lines] == [["1-fails", "1/3"], ["1-fails", "2/3"]]
    assert lines[0][3:] == "s A lab: good = 1".split()
    assert lines[1][3:] == "s failed Divide it: x = 1".split()


@pytest.mark.parametrize(
    "notebook, place, error",
    [
        ("3-hangs", "cell 1 of 2", "CellTimeout: the cell ran for longer than 3 seconds"),
        ("4-dies", "cell 2 of 2", "KernelDied: the kernel's process ended with exit code 3"),
        ("5-is-killed", "cell 1 of 1", "KernelDied: the kernel's process ended by SIGKILL"),
        ("6-leaves", "cell 1 of 2", "SystemExit: 0"),
        ("7-has-no-code", "before its first cell", "NotExecuted: the notebook has no code cell"),
    ],
)
def test_what_papermill_would_let_pass_or_end_in_a_traceback_is_a_failure_with_a_cause(results, notebook, place, error):
    end, _ = results
    summary = end.stdout[end.stdout.index("2 of 8 notebooks passed") :]
    own = summary[summary.index(notebook) :].splitlines()
    assert place in own[1] and error in own[2]
    assert "Traceback" not in end.stdout


def test_the_kernel_is_this_python_whatever_the_user_registered(results):
    end, out = results
    text = saved_text(out / "lab1-demo" / "2-passes.ipynb")
    assert text.splitlines() == [sys.executable, "auto"]  # no parameter given: none injected
    assert "start-up file" not in text
    assert "TCP without encryption" not in end.stdout


def test_executed_notebooks_are_saved_with_the_error_in_its_cell(results):
    _, out = results
    saved = {path.stem: nbformat.read(path, as_version=4) for path in out.glob("lab1-demo/*.ipynb")}
    assert len(saved) == 7
    for notebook in saved.values():
        nbformat.validate(notebook)
    outputs = [output for cell in saved["3-hangs"].cells for output in cell.get("outputs", [])]
    assert outputs[0].ename == "CellTimeout"
    assert not list(out.rglob(".*")), "a file that was only half written"


def test_the_cleanup_hook_runs_after_each_failure(results):
    end, out = results
    assert end.stdout.count("cleaning up after lab 1") == 6
    assert "Cleaned up: " in (out / "report.html").read_text()


def test_a_notebook_that_fails_before_its_last_cell_leaves_nothing_on_a_server(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    save_file({"weight": numpy.zeros((2, 2), "float16")}, model / "model.safetensors")
    make = f"""
import boto3
from shared.workshop import Workshop
workshop = Workshop(lab="1", backend="local", model={str(model)!r})
image = workshop.model.image_uri(workshop.region)
boto3.client("sagemaker").create_model(
    ModelName=workshop.name("model"), PrimaryContainer={{"Image": image}}, ExecutionRoleArn=workshop.role,
    Tags=workshop.aws_tags,
)
"""
    add(tmp_path, "1-fails", make, "1 / 0", "workshop.cleanup()")
    end = run("runner", tmp_path, "--out", tmp_path / "out")
    assert end.returncode == 1
    assert "ZeroDivisionError" in end.stdout
    cleanup = end.stdout[end.stdout.index("cleaning up") : end.stdout.index("0 of 1 notebook passed")]
    assert "genai-workshop-lab1-model" in cleanup, end.stdout
    status = [sys.executable, "-m", "shared.local_sagemaker", "status"]
    after = subprocess.run(status, cwd=ROOT, env=environment(tmp_path / "state"), capture_output=True, text=True)
    assert "not running" in after.stdout, "the run ended, the server that it started did not"


def test_a_server_that_was_running_before_stays(tmp_path, local_sagemaker):
    state = Path(local_sagemaker["AWS_CONFIG_FILE"]).parent
    add(tmp_path, "1-passes", "1")
    end = run("runner", tmp_path, "--out", tmp_path / "out", SAGEMAKER_LOCAL_STATE=str(state))
    assert end.returncode == 0, end.stdout
    status = [sys.executable, "-m", "shared.local_sagemaker", "status", "--state", str(state)]
    assert subprocess.run(status, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_the_kernel_and_reports_what_ran(tmp_path, signum, code):
    hang = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "600"])
with open("pids.partial", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.replace("pids.partial", "pids")
time.sleep(600)
"""
    add(tmp_path, "1-passes", "print(1)")
    add(tmp_path, "2-hangs", "print(2)", markdown("## Wait"), hang)
    add(tmp_path, "3-waits", "print(3)")
    process = subprocess.Popen(
        command("runner", tmp_path, "--out", tmp_path / "out"),
        env=environment(tmp_path / "state"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    pids = tmp_path / "lab1-demo" / "pids"
    try:
        until(pids.exists, process)
        os.kill(process.pid, signum)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, output
    assert not [pid for pid in map(int, pids.read_text().split()) if alive(pid)]
    assert "Traceback" not in output and "never retrieved" not in output
    assert "1 of 3 notebooks passed, 2 not finished" in output
    table = rows(tmp_path / "out")
    assert "passed" in table[0] and "interrupted" in table[1] and "not run" in table[3]
    assert "Interrupted in cell 2 of 2, under “Wait”: import os" in table[2]


def test_parameters_are_passed_only_when_given(tmp_path):
    add(tmp_path, "1-says", PARAMETERS, "print(BACKEND, MODEL, KEEP)")
    end = run("runner", tmp_path, "--out", tmp_path / "out", "--lab", "1", "--backend", "local", "--model", "tiny's")
    assert end.returncode == 0, end.stdout
    assert saved_text(tmp_path / "out" / "lab1-demo" / "1-says.ipynb").strip() == "local tiny's False"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lab", "7"], "there is no lab '7'; there are: 1 (lab1-demo), 2 (lab2-empty), 3 (lab3-demo)"),
        (["--lab", "2"], "lab 2 (lab2-empty) has no notebooks yet"),
        (["--lab", "3"], "lab 3 (lab3-demo) has only further notebooks: add --all (make labs ALL=1)"),
        (["--model", "tiny"], "a model is for one lab: say which with --lab"),
        (["--lab", "1", "--model", "tiny"], "1-says has no parameter MODEL (it has BACKEND)"),
        (["--lab", "3", "--all", "--backend", "local"], "1-more has no parameter BACKEND (it has no cell with the tag"),
    ],
)
def test_a_wrong_command_says_what_there_is_and_runs_nothing(tmp_path, arguments, message, capfd):
    from shared import runner

    add(tmp_path, "1-says", '# %% tags=["parameters"]\nBACKEND = "auto"')
    add(tmp_path, "1-more", "1", lab="lab3-demo", track="further")
    (tmp_path / "lab2-empty").mkdir()
    assert runner.main([*arguments, "--out", str(tmp_path / "out")], root=tmp_path) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--timeout", "0"], ["--timeout", "soon"], ["--backend", "cloud"], ["--fast"]])
def test_a_wrong_option_is_refused(arguments, capfd):
    from shared import runner

    with pytest.raises(SystemExit) as exit_:
        runner.main(arguments)
    assert exit_.value.code == 2
    assert "error: " in capfd.readouterr().err


def test_a_notebook_that_was_not_built_is_named(tmp_path, capfd):
    from shared import runner

    add(tmp_path, "1-says", "1", built=False)
    assert runner.main(["--out", str(tmp_path / "out")], root=tmp_path) == 2
    assert "lab1-demo/1-says is not built: 1-says.ipynb is missing; run: make notebooks" in capfd.readouterr().err


def test_no_notebooks_at_all_is_no_success(tmp_path):
    end = run("runner", tmp_path, "--out", tmp_path / "out")
    assert end.returncode == 1
    assert "There was no notebook to run" in end.stdout
    assert "There was no notebook to run" in (tmp_path / "out" / "report.html").read_text()


def saved_text(path: Path) -> str:
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def until(condition, process: subprocess.Popen) -> None:
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
