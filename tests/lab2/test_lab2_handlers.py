"""Lab 2's copy of Lab 1's handlers: the same to the byte, and able to work alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORIGINAL, COPY = ROOT / "lab1-llm-inference" / "code", ROOT / "lab2-llm-finetuning" / "code"
HANDLERS = sorted(path.name for path in ORIGINAL.glob("*.py"))


@pytest.mark.parametrize("name", HANDLERS)
def test_the_copy_is_the_original(name):
    """A lab's code/ is what goes into a container, so it needs nothing of another lab, links included."""
    copy = COPY / name
    assert copy.is_file() and not copy.is_symlink(), f"missing: cp {ORIGINAL / name} {copy}"
    assert copy.read_bytes() == (ORIGINAL / name).read_bytes(), f"changed: cp {ORIGINAL / name} {copy}"


def test_the_copy_works_without_the_original():
    code = "import inference; print(inference.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=COPY, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()).parent == COPY
