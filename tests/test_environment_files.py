"""The requirement files: current, consistent with each other and with what is installed."""

import importlib.metadata
import re
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared.environment import generate, specification
from shared.environment.specification import CHECKOUT, lock_entries, name_of

# As in SageMaker's Hugging Face inference image, and in a SageMaker Studio image (Distribution 4.4.1).
INFERENCE_IMAGE = {"torch": "2.6.0", "transformers": "5.5.3"}
STUDIO = {"torch": "2.8.0", "jupyterlab": "4.5.0", "papermill": "2.7.0", "ipywidgets": "8.1.9"}


def _requirements(path: Path) -> dict[str, Requirement]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name_of(line): Requirement(line) for line in lines}


@pytest.fixture
def checkout(tmp_path):
    """A copy of pyproject.toml and all that is generated from it."""
    spec = specification.read()
    for path in ["pyproject.toml", "requirements.lock", *generate.generated(spec)]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / path, tmp_path / path)
    return tmp_path


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_generated_files_are_current():
    assert generate.check() == []


def test_check_says_what_a_changed_pin_makes_stale(checkout):
    _replace(checkout / "pyproject.toml", r'"datasets==[\d.]+"', '"datasets==1.2.3"')
    faults = "\n".join(generate.check(checkout))
    assert "requirements.txt: not what pyproject.toml asks for" in faults
    assert "environment.yml: not what" in faults
    assert "requirements.lock: it lacks datasets==1.2.3" in faults


@pytest.mark.parametrize(
    ("pattern", "replacement", "fault"),
    [
        (r"(?m)^(accelerate==\S+) \\\n(    --hash.*\n)+", r"\1\n", "accelerate has no hash"),
        (r"(?m)^accelerate", "torch==2.13.0 \\\\\n    --hash=sha256:" + "0" * 64 + "\naccelerate", "it holds torch"),
        (r"(?m)^accelerate", "--index-url https://mirror.example/simple\naccelerate", "unexpected line"),
        (r"inputs: sha256:\w", "inputs: sha256:x", "other dependencies than pyproject.toml declares"),
    ],
)
def test_check_finds_a_damaged_lock(checkout, pattern, replacement, fault):
    _replace(checkout / "requirements.lock", pattern, replacement)
    assert fault in "\n".join(generate.check(checkout))


def test_a_missing_file_is_named(checkout):
    (checkout / "requirements.txt").unlink()
    assert generate.check(checkout) == ["requirements.txt: missing"]


def test_write_brings_files_up_to_date_without_a_package_index(checkout):
    """The lock is still good, so nothing has to be resolved."""
    (checkout / "environment.yml").unlink()
    (checkout / "requirements.txt").write_text("old\n")
    assert sorted(generate.write(checkout)) == ["environment.yml", "requirements.txt"]
    assert generate.check(checkout) == []
    assert generate.write(checkout) == []


def test_an_exception_for_an_unknown_requirement_is_refused(checkout):
    _replace(checkout / "pyproject.toml", r'(?m)^jupyterlab = ">=4\.4"$', 'jupiterlab = ">=4.4"')
    with pytest.raises(generate.GenerationError, match="jupiterlab"):
        generate.write(checkout)


def test_this_environment_is_the_lock():
    differences = []
    for entries in lock_entries((CHECKOUT / "requirements.lock").read_text()).values():
        for entry in entries:
            requirement = Requirement(entry.partition(" \\\n")[0])
            if requirement.marker is None or requirement.marker.evaluate():
                version = importlib.metadata.version(requirement.name)
                if version not in requirement.specifier:
                    differences.append(f"{requirement} but {version} is installed")
    assert differences == []


@pytest.mark.parametrize("name", specification.read().lab_code)
def test_this_environment_satisfies_each_labs_code(name):
    for requirement in _requirements(CHECKOUT / generate.lab_requirements_path(name)).values():
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), str(requirement)


def test_the_inference_image_satisfies_lab_1s_code():
    requirements = _requirements(CHECKOUT / "lab1-llm-inference" / "code" / "requirements.txt")
    assert requirements.keys() == INFERENCE_IMAGE.keys()
    for name, requirement in requirements.items():
        assert INFERENCE_IMAGE[name] in requirement.specifier


def test_requirements_txt_leaves_studios_own_packages_alone():
    requirements = _requirements(CHECKOUT / "requirements.txt")
    for name, version in STUDIO.items():
        assert version in requirements[name].specifier
