"""Makes .venv: creates it when it is missing, brings it up to date when it is stale, else does nothing at once.

A stamp, written last, says what a finished .venv was made from; an installation that was interrupted has none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shared.environment import pip_configuration, specification, torch_source
from shared.environment.specification import CHECKOUT, Specification, lock_entries, satisfies

STAMP = "workshop-environment.json"

# Measured on Linux (x86-64, 2 cores, Python 3.11): what is read from the index, what .venv takes, torch apart, and the
# seconds of all of it with an empty cache on a line on which the download itself took 9 s.
PACKAGES_MB, TORCH_CPU_MB, PACKAGES_DISK_GB, TORCH_DISK_GB, SECONDS = 440, 190, 1.3, 0.7, 21


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


class Environment:
    """The virtual environment of a checkout, by default this one's."""

    def __init__(self, checkout: Path = CHECKOUT) -> None:
        self.checkout = checkout
        self.folder = checkout / ".venv"
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / STAMP
        self.lock = checkout / "requirements.lock"

    def wanted(self, spec: Specification) -> str:
        """Digest of all that .venv is made from."""
        parts = [self.lock.read_text(encoding="utf-8"), spec.torch_version, spec.torch_of_base_python]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def finished(self) -> dict | None:
        """The stamp of a finished installation whose Python still runs and whose torch is still there, else None."""
        try:
            stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
            version = _output([str(self.python), "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        except (OSError, ValueError, subprocess.CalledProcessError):
            return None
        if not isinstance(stamp, dict) or stamp.get("python") != version:
            return None
        torch = self.folder / "lib" / f"python{version}" / "site-packages" / "torch" / "__init__.py"
        return stamp if torch.exists() else None  # it may be a link to the base Python's

    def is_current(self, spec: Specification) -> bool:
        """Whether nothing is left to do."""
        stamp = self.finished()
        return stamp is not None and stamp.get("digest") == self.wanted(spec)

    def site_packages(self) -> Path:
        """Where its packages lie."""
        return Path(_output([str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))

    def write_stamp(self, spec: Specification, torch: str) -> None:
        """Marks the installation as finished."""
        version = _output([str(self.python), "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        partial = self.stamp.with_suffix(".partial")
        stamp = {"digest": self.wanted(spec), "python": version, "torch": torch}
        partial.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.stamp)


def _output(command: list[str]) -> str:
    """What a command prints. Raises CalledProcessError when it fails, OSError when there is none."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(command: list[str], purpose: str, environment: dict[str, str]) -> None:
    """Runs a command, whose output the user sees but for uv's list of what it installed.

    Raises SetupError when it fails.
    """
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        for line in process.stderr:
            if not line.startswith((" + ", " - ", " ~ ")):
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise SetupError(
            f"Could not {purpose} (exit status {process.returncode}); the lines above say why. Without network or\n"
            "behind a proxy, see to it that `pip download six` works. Then run the same command again: what was\n"
            "downloaded is kept."
        )


@contextlib.contextmanager
def _only_one(checkout: Path) -> Iterator[None]:
    """Waits until no other process sets up this checkout's environment."""
    with open(checkout / "pyproject.toml", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is setting up .venv; waiting for it.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _base_python(environment: Environment) -> str:
    """The interpreter that .venv is made with: this one, unless it is .venv's own."""
    if Path(sys.prefix).resolve() == environment.folder.resolve():
        return sys._base_executable
    return sys.executable


def _uv_on_path() -> str | None:
    """The command uv, None when there is none or it does not run."""
    command = shutil.which("uv")
    if command is None:
        return None
    try:
        _output([command, "--version"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return command


def _announce(environment: Environment, again: bool) -> None:
    """Says what is about to happen and what it costs. Raises SetupError when the disk is too small for it."""
    needed = 0.5 if again else PACKAGES_DISK_GB + TORCH_DISK_GB
    free = shutil.disk_usage(environment.checkout).free / 1e9
    if again:
        print("Bringing .venv up to date: only what changed is downloaded.", flush=True)
    else:
        version, total = platform.python_version(), PACKAGES_MB + TORCH_CPU_MB
        print(
            f"Setting up .venv with Python {version}, once. It downloads about {total} MB: {PACKAGES_MB} MB of\n"
            f"packages, {TORCH_CPU_MB} MB of PyTorch (several GB where there is only a CUDA build: it will say so).\n"
            f"It takes {needed:.0f} GB of disk, and about {SECONDS} seconds plus the download: "
            f"{total * 8 / 50 / 60:.0f} minutes at 50 Mbit/s.",
            flush=True,
        )
    if free < needed:
        raise SetupError(f"Only {free:.1f} GB are free in {environment.checkout}; {needed:.1f} GB are needed.")


def _create(environment: Environment, base: str, with_pip: bool, variables: dict[str, str]) -> None:
    """Makes an empty .venv in place of what is there."""
    command = [base, "-m", "venv", "--clear", "--prompt", "workshop", str(environment.folder)]
    if with_pip:
        try:
            _output([base, "-c", "import ensurepip"])
        except subprocess.CalledProcessError:
            raise SetupError(
                f"{base} lacks the modules that make virtual environments. Debian, Ubuntu: sudo apt install\n"
                "python3-venv. Or install uv, which needs none of them. Then run the same command again."
            ) from None
    else:
        command.append("--without-pip")
    _run(command, "create .venv", variables)


def _install_uv(environment: Environment, variables: dict[str, str]) -> None:
    """Installs the locked uv by pip into .venv."""
    print("Installing uv, which installs the rest faster than pip.", flush=True)
    entries = lock_entries(environment.lock.read_text(encoding="utf-8"))["uv"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        command = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*command, "--no-deps", "--require-hashes", "-r", file.name], "install uv", variables)


def _torch_version(environment: Environment) -> str | None:
    """Version of the torch that .venv imports, None when it cannot."""
    try:
        return _output([str(environment.python), "-c", "import torch; print(torch.__version__)"])
    except (OSError, subprocess.CalledProcessError):
        return None


def _install_torch(environment: Environment, spec: Specification, base: str, uv: list[str], env: dict[str, str]) -> str:
    """Gets torch from the first source that works, and returns its version."""
    there = _torch_version(environment)
    if there and (there.partition("+")[0] == spec.torch_version or _is_linked_and_accepted(environment, spec, there)):
        return there
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check"]
    machine = torch_source.ThisMachine(base, pip)
    for source in torch_source.candidates(machine, spec.torch_version, spec.torch_of_base_python):
        print(source.announcement, flush=True)
        if isinstance(source, torch_source.LinkedTorch):
            site_packages = environment.site_packages()
            torch_source.link(source.torch, site_packages)
            if _torch_version(environment) != source.torch.version:
                torch_source.unlink(source.torch, site_packages)
                print("It cannot be used from .venv.", flush=True)
                continue
        elif source.by_pip:
            index = ["--index-url", source.index] if source.index else []
            _run([*pip, "install", "--no-deps", *index, source.requirement], "install PyTorch", env)
        else:
            install = [*uv, "pip", "install", "--python", str(environment.python)]
            _run([*install, source.requirement], "install PyTorch", env)
        version = _torch_version(environment)
        if version:
            return version
    raise SetupError(
        "PyTorch was installed but cannot be imported: see `.venv/bin/python -c 'import torch'`."
        + (" PyTorch no longer supports Macs with Intel processors." if platform.machine() == "x86_64" else "")
    )


def _is_linked_and_accepted(environment: Environment, spec: Specification, version: str) -> bool:
    """Whether .venv's torch is the base Python's and may stay."""
    linked = (environment.site_packages() / "torch").is_symlink()
    return linked and satisfies(version, spec.torch_of_base_python)


def set_up(environment: Environment) -> bool:
    """Makes .venv current. Returns False when it was so already.

    Raises SetupError, or KeyboardInterrupt; the next call then starts with an empty .venv.
    """
    spec = specification.read(environment.checkout)
    if environment.is_current(spec):
        return False
    with _only_one(environment.checkout):
        if environment.is_current(spec):
            return False
        started = time.monotonic()
        base, uv_on_path = _base_python(environment), _uv_on_path()
        again = environment.finished() is not None
        _announce(environment, again)
        variables = {**os.environ, "PIP_USER": "0"}
        if again:
            environment.stamp.unlink()
        else:
            _create(environment, base, uv_on_path is None, variables)
        pip_settings = pip_configuration.settings([base, "-m", "pip"])
        variables.update(pip_configuration.for_uv(pip_settings))
        if uv_on_path is None and not again:
            _install_uv(environment, variables)
        uv = [uv_on_path] if uv_on_path else [str(environment.python), "-m", "uv"]
        install = [*uv, "pip", "install", "--python", str(environment.python), "--no-deps", "--require-hashes"]
        _run([*install, "-r", str(environment.lock)], "install the packages", variables)
        torch = _install_torch(environment, spec, base, uv, variables)
        environment.write_stamp(spec, torch)
        print(f".venv is ready: PyTorch {torch}, {time.monotonic() - started:.0f} s.", flush=True)
        return True


def main() -> int:
    """Makes this checkout's .venv current and returns the exit status."""
    try:
        set_up(Environment())
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: .venv is not finished. The same command begins again.", file=sys.stderr)
        return 130
    return 0
