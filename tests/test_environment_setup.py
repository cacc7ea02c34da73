"""Setting up .venv, for real and offline: a small checkout whose lock names wheels that the tests make.

The base Python is one of the tests' making that has a torch already.
"""

import ast
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shared.environment import interpreter
from shared.environment.installation import STAMP
from shared.environment.specification import CHECKOUT
from tests.environment_support import TORCH_VERSION, make_python_with_torch, site_packages

PYPROJECT = """
[project]
requires-python = ">=3.11,<3.14"
dependencies = ["torch==2.13.0", "first==1.0"]
[dependency-groups]
[tool.workshop]
torch-of-base-python = ">=2.6,<3"
[tool.workshop.requirements-txt]
[tool.workshop.lab-code]
[tool.workshop.clients]
"""


def _make_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


class SmallCheckout:
    """A checkout with the setup program and a lock of the tests' wheels, in a folder whose name has a space."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.wheels = folder / "wheels"
        self.commands = folder / "bin"
        for path in (self.root, self.wheels, self.commands):
            path.mkdir()
        shutil.copytree(CHECKOUT / "shared" / "environment", self.root / "shared" / "environment")
        (self.root / "shared" / "__init__.py").touch()
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.commands / "uv").symlink_to(Path(sys.prefix, "bin", "uv"))
        _make_wheel(self.wheels, "first", "1.0")
        self.lock("first==1.0")
        self.base_python = make_python_with_torch(folder / "base")

    def lock(self, *pins: str) -> None:
        """Writes requirements.lock. A wheel that does not exist gets the hash of nothing."""
        lines = []
        for pin in pins:
            wheel = self.wheels / f"{pin.replace('==', '-')}-py3-none-any.whl"
            digest = hashlib.sha256(wheel.read_bytes() if wheel.exists() else b"").hexdigest()
            lines.append(f"{pin} \\\n    --hash=sha256:{digest}\n")
        (self.root / "requirements.lock").write_text("".join(lines))

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
        return {
            **kept,
            "PATH": f"{self.commands}:/usr/bin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": str(self.wheels),
        }

    def start(self, **options) -> subprocess.Popen:
        command = [self.base_python, "-m", "shared.environment"]
        return subprocess.Popen(command, cwd=self.root, env=self.variables, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, **options)  # fmt: skip

    def set_up(self) -> tuple[int, str]:
        """Runs the setup program; returns its exit status and what it printed."""
        process = self.start()
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def python(self, code: str) -> str:
        run = subprocess.run([self.root / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    def contents(self) -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in self.root.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def small_checkout(tmp_path):
    return SmallCheckout(tmp_path)


@pytest.fixture(scope="module")
def finished_checkout(tmp_path_factory):
    checkout = SmallCheckout(tmp_path_factory.mktemp("finished"))
    status, output = checkout.set_up()
    assert status == 0, output
    assert "It downloads about" in output and "GB of disk" in output and "has already" in output
    return checkout


def test_it_installs_the_lock_and_the_base_pythons_torch(finished_checkout):
    assert finished_checkout.python("import first; print(first.version)") == "1.0"
    assert finished_checkout.python("import torch; print(torch.__version__)") == TORCH_VERSION


def test_a_second_run_does_nothing_and_says_nothing(finished_checkout):
    before = finished_checkout.contents()
    assert finished_checkout.set_up() == (0, "")
    assert finished_checkout.contents() == before


def test_a_changed_lock_is_installed_into_the_environment_that_is_there(finished_checkout):
    mark = finished_checkout.root / ".venv" / "mark"
    mark.touch()
    _make_wheel(finished_checkout.wheels, "second", "2.0")
    finished_checkout.lock("first==1.0", "second==2.0")
    status, output = finished_checkout.set_up()
    assert status == 0 and output.startswith("Bringing .venv up to date")
    assert finished_checkout.python("import second; print(second.version)") == "2.0"
    assert mark.exists()
    assert finished_checkout.set_up() == (0, "")


@pytest.mark.parametrize("damage", ["no stamp", "half a stamp", "another python", "broken python", "no torch"])
def test_an_unfinished_or_broken_environment_is_made_anew(finished_checkout, damage):
    environment = finished_checkout.root / ".venv"
    stamp = environment / STAMP
    if damage == "no stamp":
        stamp.unlink()
    elif damage == "half a stamp":
        stamp.write_text(stamp.read_text()[:20])
    elif damage == "another python":
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "python": "3.9"}))
    elif damage == "no torch":
        (site_packages(environment) / "torch").unlink()
        (site_packages(environment) / "torch").symlink_to("/nowhere/torch")
    else:
        (environment / "bin" / "python").unlink()
        (environment / "bin" / "python").symlink_to("/nowhere/python3")
    (environment / "mark").touch()
    status, output = finished_checkout.set_up()
    assert status == 0 and output.startswith("Setting up .venv")
    assert not (environment / "mark").exists()
    assert finished_checkout.set_up() == (0, "")


def test_a_failed_installation_says_what_to_do_and_is_begun_again(small_checkout):
    small_checkout.lock("first==1.0", "missing==3.0")
    status, output = small_checkout.set_up()
    assert status == 1
    assert "Could not install the packages" in output and "run the same command again" in output
    assert "Traceback" not in output
    assert not (small_checkout.root / ".venv" / STAMP).exists()
    small_checkout.lock("first==1.0")
    assert small_checkout.set_up()[0] == 0


def test_an_interrupted_installation_leaves_no_stamp_and_no_process(small_checkout):
    """uv is replaced by a command that waits."""
    (small_checkout.commands / "uv").unlink()
    uv = small_checkout.commands / "uv"
    uv.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "uv $$" >&2\nexec sleep 600\n')
    uv.chmod(0o755)
    process = small_checkout.start(start_new_session=True)
    line = next(line for line in process.stdout if line.startswith("uv "))
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    output = process.stdout.read()
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    assert "The same command begins again" in output and "Traceback" not in output
    assert not (small_checkout.root / ".venv" / STAMP).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[1]), 0)


def test_a_second_command_waits_for_the_first(small_checkout):
    with open(small_checkout.root / "pyproject.toml", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = small_checkout.start()
        assert process.stdout.readline().startswith("Another command is setting up .venv")
        fcntl.flock(file, fcntl.LOCK_UN)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def test_too_little_disk_is_said_before_anything_is_made(tmp_path, monkeypatch):
    from shared.environment import installation

    checkout = SmallCheckout(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(installation.SetupError, match="Only 1.0 GB are free"):
        installation.set_up(installation.Environment(checkout.root))
    assert not (checkout.root / ".venv").exists()


def _command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_an_unsuitable_python3_is_passed_over(tmp_path, monkeypatch):
    _command(tmp_path, "python3", "echo 3 9")
    _command(tmp_path, "python3.13", "echo 'no version is set' >&2; exit 127")
    _command(tmp_path, "python3.12", "echo 3 12")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert interpreter.find() == str(tmp_path / "python3.12")


def test_a_python_that_uv_knows_is_the_last_resort(tmp_path, monkeypatch):
    _command(tmp_path, "python3", "echo 3 15")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert interpreter.find() is None
    _command(tmp_path, "uv", f'[ "$*" = "python find >=3.11,<3.14" ] && echo {sys.executable}')
    assert interpreter.find() == sys.executable


def test_without_a_suitable_python_the_advice_names_the_versions():
    advice = interpreter.advice((3, 9))
    assert "Python 3.11, 3.12, 3.13" in advice and "this is Python 3.9" in advice


@pytest.mark.parametrize(
    ("version", "supported"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_supported_pythons(version, supported):
    assert interpreter.supports(version) is supported


@pytest.mark.parametrize(
    "file", ["__init__.py", "environment/__init__.py", "environment/__main__.py", "environment/interpreter.py"]
)
def test_an_old_python_can_read_what_tells_it_that_it_is_too_old(file):
    ast.parse((CHECKOUT / "shared" / file).read_text(), feature_version=(3, 6))
