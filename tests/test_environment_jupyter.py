"""`make jupyter`: the server, its start page, and that no other configuration counts. And the Makefile's commands."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from shared.environment import clients, jupyter
from shared.environment.specification import CHECKOUT


@pytest.fixture
def server(tmp_path):
    """A running JupyterLab; gives its address and token. The user's own configuration would break it."""
    broken = tmp_path / "jupyter"
    broken.mkdir()
    (broken / "jupyter_server_config.py").write_text("raise SystemExit('the configuration of the user was read')\n")
    command = [sys.executable, "-m", "shared.environment.jupyter", "--no-browser", "--ServerApp.port=0"]
    variables = {**os.environ, "JUPYTER_CONFIG_DIR": str(broken), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output = ""
        for line in process.stdout:
            output += line
            found = re.search(r"http://127\.0\.0\.1:(\d+)/lab/tree/README\.md\?token=(\w+)", line)
            if found:
                break
        else:
            pytest.fail(f"JupyterLab did not start:\n{output}")
        yield f"http://127.0.0.1:{found[1]}", found[2]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _get(address: str, token: str | None = None) -> str:
    headers = {"Authorization": f"token {token}"} if token else {}
    for _ in range(100):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(address)


def test_jupyterlab_shows_the_readme_with_this_environments_kernel(server):
    address, token = server
    assert "README.md" in _get(f"{address}/api/contents", token)
    kernels = json.loads(_get(f"{address}/api/kernelspecs", token))
    assert kernels["default"] == "python3"
    settings = json.loads(_get(f"{address}/lab/api/settings/@jupyterlab/docmanager-extension:plugin", token))
    assert "Markdown Preview" in json.dumps(settings["schema"]["properties"]["defaultViewers"])
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _get(f"{address}/api/contents")


def test_jupyter_variables_of_the_user_do_not_count(tmp_path):
    inherited = {
        "JUPYTER_PATH": "/elsewhere",
        "JUPYTERLAB_DIR": "/elsewhere",
        "IPYTHONDIR": "/elsewhere",
        "HOME": "/home",
    }
    variables = jupyter.environment(tmp_path, inherited)
    assert "/elsewhere" not in variables.values()
    assert variables["HOME"] == "/home"
    assert "log_level" in (tmp_path / "ipython/profile_default/ipython_kernel_config.py").read_text()


def _make(*arguments: str) -> subprocess.CompletedProcess:
    """Runs make as from a shell, even if the tests were started by make."""
    own = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ALL", "LAB", "BACKEND", "MODEL"}
    variables = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(["make", *arguments], cwd=CHECKOUT, env=variables, capture_output=True, text=True)


def test_make_alone_lists_every_command():
    targets = set(re.search(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)[1].split())
    listed = set(re.findall(r"^make ([\w-]+)", _make().stdout, re.MULTILINE))
    assert listed == targets - {"help", "environment"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["labs"], "-m shared.runner --out out"),
        (["labs", "ALL=1"], "--out out --all"),
        (["labs", "ALL=0"], "--out out"),
        (["labs", "LAB=1", "MODEL=/models/a folder"], '--out out --lab "1" --model "/models/a folder"'),
        (["labs", "BACKEND=sagemaker"], '--backend "sagemaker"'),
    ],
)
def test_make_labs_hands_its_parameters_on(arguments, expected):
    last = re.sub(" +", " ", _make("-n", *arguments).stdout.splitlines()[-1]).strip()
    assert last.endswith(expected)


def test_an_unknown_parameter_is_an_error():
    run = _make("-n", "labs", "LABS=1")
    assert run.returncode != 0
    assert "Unknown parameter LABS" in run.stderr and "LAB" in run.stderr


def test_clients_interpreters_are_named_by_variables():
    assert clients.variable("sdk-v2") == "CLIENTS_SDK_V2_PYTHON"
    assert clients.variable("awscli") == "CLIENTS_AWSCLI_PYTHON"
