"""Writes the requirement files from pyproject.toml: `python -m shared.environment.generate`.

`--check` writes nothing, asks no package index, and fails when a file is not what pyproject.toml asks for.
`--upgrade` also moves the dependencies of dependencies, which otherwise stay as requirements.lock has them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from shared.environment import specification
from shared.environment.specification import CHECKOUT, CPU_WHEELS, UNLOCKED, Specification, lock_entries, name_of

HEADER = "# Made from pyproject.toml by `python -m shared.environment.generate`. Do not edit.\n"


class GenerationError(Exception):
    """A requirement file cannot be made; the message says why and what to do."""


def requirements_txt(spec: Specification) -> str:
    """The notebooks' needs, for pip and for an environment that exists already."""
    wanted = [*spec.dependencies, *spec.groups["local-sagemaker"], *spec.groups["notebooks"]]
    known = {name_of(line) for line in wanted}
    unknown = sorted(set(spec.requirements_txt) - known)
    if unknown:
        raise GenerationError(f"tool.workshop.requirements-txt names {', '.join(unknown)}, which nothing depends on")
    lines = []
    for line in wanted:
        relaxed = spec.requirements_txt.get(name_of(line))
        lines.append(line.partition("==")[0] + relaxed if relaxed else line)
    return (
        f"{HEADER}#\n"
        "# For SageMaker Studio and other environments that exist already: `pip install -r requirements.txt`, or in a\n"
        "# notebook of a lab `%pip install -r ../requirements.txt`; then restart the kernel. Lower bounds (>=) leave\n"
        "# alone what is there. On a Linux machine without a GPU and without PyTorch, get its CPU build first, else\n"
        f"# several GB of CUDA come with it: `pip install torch --index-url {CPU_WHEELS}`.\n"
        "# On a laptop `make labs` needs none of this.\n\n" + "\n".join(sorted(lines, key=str.lower)) + "\n"
    )


def environment_yml(spec: Specification) -> str:
    """The same environment as .venv's for conda. The extra index has PyTorch's CPU builds."""
    pins = "\n".join(f"      - {line}" for line in sorted(spec.pins, key=str.lower))
    return (
        f"{HEADER}#\n"
        "# For conda: `conda env create -f environment.yml`, `conda activate generative-ai-workshop`.\n"
        "# With an NVIDIA GPU take the line with --extra-index-url out first: it chooses PyTorch's CPU build.\n"
        "name: generative-ai-workshop\n"
        "channels:\n  - conda-forge\n"
        "dependencies:\n"
        f'  - "python{spec.python}"\n'
        "  - pip\n"
        f"  - pip:\n      - --extra-index-url {CPU_WHEELS}\n{pins}\n"
    )


def lab_requirements_path(name: str) -> str:
    """The file of an entry of tool.workshop.lab-code: lab/code/requirements.txt; for "lab:script" one of its own."""
    lab, _, script = name.partition(":")
    return f"{lab}/code/{f'requirements-{script}' if script else 'requirements'}.txt"


def lab_requirements(spec: Specification, name: str) -> str:
    """What a lab's handler or training script needs inside its container."""
    if ":" in name:
        note = "Satisfied by .venv. A container whose image lacks one of these installs it when the job starts."
    else:
        note = "Satisfied by SageMaker's Hugging Face images and by .venv: a container starts without installing."
    return (
        f"{HEADER}# {note}\n"
        + "\n".join(spec.lab_code[name])
        + "\n"
    )


def resolve_lock(spec: Specification, previous: str | None, upgrade: bool) -> str:
    """Resolves every dependency for all supported Pythons, by uv and the package index, without torch and CUDA.

    Raises GenerationError with uv's words when that fails.
    """
    lowest = re.match(r">=(\d+\.\d+)", spec.python)[1]
    with tempfile.TemporaryDirectory() as folder:
        wanted, lock = Path(folder, "wanted.in"), Path(folder, "lock.txt")
        wanted.write_text("\n".join(spec.pins) + "\n")
        if previous and not upgrade:
            lock.write_text(previous)
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--python-version", lowest, "-o", str(lock), str(wanted)]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "UV_NO_CONFIG": "1"})
        if run.returncode:
            raise GenerationError(f"uv could not resolve pyproject.toml's dependencies:\n{run.stderr.strip()}")
        entries = lock_entries(lock.read_text())
    kept = "\n".join(entry for name, found in entries.items() if not UNLOCKED.match(name) for entry in found)
    return (
        f"{HEADER}# Complete but for torch and what only torch needs; `python3 -m shared.environment` installs it.\n"
        f"# inputs: sha256:{spec.digest}\n{kept}\n"
    )


def lock_faults(spec: Specification, lock: str) -> list[str]:
    """What is wrong with requirements.lock, found without resolving again; empty when nothing is."""
    faults = []
    if f"# inputs: sha256:{spec.digest}\n" not in lock:
        faults.append("it was made from other dependencies than pyproject.toml declares now")
    entries = lock_entries(lock)
    for pin in spec.pins:
        name, version = name_of(pin), pin.partition("==")[2]
        if UNLOCKED.match(name):
            continue
        if not any(re.match(rf"\S+=={re.escape(version)}(\s|$)", entry) for entry in entries.get(name, [])):
            faults.append(f"it lacks {pin}")
    for name, found in entries.items():
        if UNLOCKED.match(name):
            faults.append(f"it holds {name}, which depends on the machine")
        if not all("--hash=sha256:" in entry for entry in found):
            faults.append(f"{name} has no hash")
    for line in lock.splitlines():
        if not re.fullmatch(r"#.*|[A-Za-z0-9].*==.*|    --hash=sha256:[0-9a-f]{64}( \\)?|", line) or "://" in line:
            faults.append(f"unexpected line {line!r}")
    return faults


def generated(spec: Specification) -> dict[str, str]:
    """Every generated file but the lock: path within the checkout, content."""
    files = {"requirements.txt": requirements_txt(spec), "environment.yml": environment_yml(spec)}
    files.update({lab_requirements_path(name): lab_requirements(spec, name) for name in spec.lab_code})
    return files


def check(checkout: Path = CHECKOUT) -> list[str]:
    """One line for each generated file that is missing or not current."""
    spec = specification.read(checkout)
    faults = []
    for path, content in generated(spec).items():
        file = checkout / path
        if not file.exists():
            faults.append(f"{path}: missing")
        elif file.read_text(encoding="utf-8") != content:
            faults.append(f"{path}: not what pyproject.toml asks for")
    lock = checkout / "requirements.lock"
    if not lock.exists():
        return [*faults, "requirements.lock: missing"]
    return faults + [f"requirements.lock: {fault}" for fault in lock_faults(spec, lock.read_text(encoding="utf-8"))]


def write(checkout: Path = CHECKOUT, upgrade: bool = False) -> list[str]:
    """Brings every generated file up to date and returns the paths of those that changed."""
    spec = specification.read(checkout)
    lock = checkout / "requirements.lock"
    previous = lock.read_text(encoding="utf-8") if lock.exists() else None
    files = generated(spec)
    if upgrade or previous is None or lock_faults(spec, previous):
        files["requirements.lock"] = resolve_lock(spec, previous, upgrade)
    changed = []
    for path, content in files.items():
        file = checkout / path
        if file.exists() and file.read_text(encoding="utf-8") == content:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(file)
        changed.append(path)
    return changed


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shared.environment.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say what is not current, and exit 1 if anything is")
    parser.add_argument("--upgrade", action="store_true", help="newest versions of the dependencies' dependencies")
    options = parser.parse_args(arguments)
    if options.check:
        faults = check()
        for fault in faults:
            print(fault, file=sys.stderr)
        if faults:
            print("Run `make requirements` and commit what it writes.", file=sys.stderr)
        return 1 if faults else 0
    try:
        changed = write(upgrade=options.upgrade)
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    print("changed: " + ", ".join(changed) if changed else "everything is current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
