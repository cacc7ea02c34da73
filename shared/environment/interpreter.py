"""Which Python sets up the environment. Runs on every Python from 3.6, so that an unsuitable one can say so."""

import os
import re
import shutil
import subprocess
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python")


def supported_range():
    """The lowest supported (major, minor) and the first unsupported one, from pyproject.toml's requires-python."""
    with open(os.path.join(CHECKOUT, "pyproject.toml")) as file:
        numbers = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', file.read(), re.MULTILINE)
    return (3, int(numbers.group(1))), (3, int(numbers.group(2)))


def supports(version):
    """Whether the project runs on a Python of this (major, minor)."""
    lowest, first_unsupported = supported_range()
    return lowest <= tuple(version) < first_unsupported


def version_of(python):
    """(major, minor) of the interpreter at this path, or None when it does not run (a version manager's empty shim)."""
    try:
        process = subprocess.Popen(
            [python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        answer = process.communicate()[0].split()
    except OSError:
        return None
    if process.returncode != 0 or len(answer) != 2:
        return None
    return int(answer[0]), int(answer[1])


def find():
    """Path of a supported Python: one on PATH, else one that uv knows; None if there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            version = version_of(path)
            if version and supports(version):
                return path
    uv = shutil.which("uv")
    if uv:
        lowest, first_unsupported = supported_range()
        wanted = f">=3.{lowest[1]},<3.{first_unsupported[1]}"
        process = subprocess.Popen([uv, "python", "find", wanted], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        path = process.communicate()[0].decode().strip()
        if process.returncode == 0 and os.path.exists(path):
            return path
    return None


def advice(version):
    """What to tell someone whose machine has no supported Python; `version` is that of the Python at hand."""
    lowest, first_unsupported = supported_range()
    names = ", ".join(f"3.{minor}" for minor in range(lowest[1], first_unsupported[1]))
    if sys.platform == "darwin":
        how = "brew install python@3.13"
    else:
        how = "your package manager (Debian, Ubuntu: sudo apt install python3 python3-venv)"
    return (
        f"This workshop needs Python {names}; this is Python {version[0]}.{version[1]}, and no other was found.\n"
        f"Install one, by {how} or by `uv python install 3.13`, then run the same command again."
    )
