"""Which lines of a requirements.txt the running interpreter satisfies."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from shared.local_sagemaker.requirements import unsatisfied

NUMPY = importlib.metadata.version("numpy")


def missing(folder: Path, text: str) -> list[str]:
    file = folder / "requirements.txt"
    file.write_text(text)
    return unsatisfied(file)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# only a comment",
        "numpy",
        "NumPy  # by any spelling",
        f"numpy=={NUMPY}",
        "numpy>=1,<100",
        f"numpy=={NUMPY} --hash=sha256:{'0' * 64}",
        f"numpy=={NUMPY} \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}",
        "no-such-package; python_version < '3'",
        "numpy; python_version >= '3'",
        "--index-url https://example.org/simple\nnumpy",
        "--extra-index-url=https://example.org/simple",
        "uvicorn[standard-extra-that-is-unknown]",
        "\ufeffnumpy",
    ],
)
def test_satisfied(tmp_path, line) -> None:
    assert missing(tmp_path, line) == []


@pytest.mark.parametrize(
    "line",
    [
        "no-such-package",
        "no-such-package==1.0; python_version >= '3'",
        "numpy<1",
        f"numpy!={NUMPY}",
        "./wheels/package.whl",
        "package @ https://example.org/package.whl",
        "git+https://example.org/package.git",
        "-e .",
        "--no-such-option",
        "moto[no-extra]>=1000",
        "hypothesis[pandas,dpcontracts]",
    ],
)
def test_left_to_pip(tmp_path, line) -> None:
    assert missing(tmp_path, f"numpy\n{line}\nnumpy\n") == [line]


def test_included_files_count(tmp_path) -> None:
    (tmp_path / "more.txt").write_text("no-such-package\n-r requirements.txt\n")
    assert missing(tmp_path, "numpy\n-r more.txt\n--requirement=more.txt\n") == ["no-such-package"]


def test_an_included_file_that_is_missing_is_left_to_pip(tmp_path) -> None:
    assert missing(tmp_path, "-r nowhere.txt\n") == ["-r nowhere.txt"]


def test_an_extra_counts_with_what_it_needs(tmp_path) -> None:
    """Moto's server extra needs Flask, which is there."""
    assert missing(tmp_path, "moto[server]\n") == []
