"""A model's code/requirements.txt: is it satisfied already, and if not, where its packages go.

They never go into the Python environment of the server. An overlay is a virtual environment whose packages come before
the server's, and from which pip sees those as installed: it adds what is missing and leaves the rest, such as torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import site
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# Where pip may find packages, and how it gets there; not the settings that would send them elsewhere.
PIP_SETTINGS = {
    f"PIP_{name}"
    for name in (
        "CONFIG_FILE", "INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "PROXY", "CERT",
        "CLIENT_CERT", "CACHE_DIR", "NO_CACHE_DIR", "DEFAULT_TIMEOUT", "RETRIES", "ONLY_BINARY", "NO_BINARY", "PRE",
    )
}  # fmt: skip
LOCATION_OPTION = re.compile(
    r"(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host|--no-index|--prefer-binary)\b"
)


def unsatisfied(file: Path) -> list[str]:
    """The lines of a requirements file that the running interpreter does not satisfy, or that only pip can judge."""
    return [line for line in _lines(file, set()) if not _line_is_satisfied(line)]


def _lines(file: Path, seen: set[Path]) -> Iterator[str]:
    """The file's requirements and options, without comments, continued lines joined, nested files included."""
    file = file.resolve()
    if file in seen:
        return
    seen.add(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        yield f"-r {file.name}"
        return
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        nested = re.fullmatch(r"(?:-r|--requirement)(?:\s+|=)(.+)", line)
        if nested:
            yield from _lines(file.parent / nested[1].strip(), seen)
        elif line:
            yield line


def _line_is_satisfied(line: str) -> bool:
    # Hashes say which file to install, and are no part of what must be there.
    line = re.sub(r"\s--hash[ =]\S+", "", line).strip()
    if LOCATION_OPTION.match(line):
        return True  # Where to look, not what to have.
    try:
        return _is_satisfied(Requirement(line), set())
    except InvalidRequirement:
        return False  # A path, a URL or an option.


def _is_satisfied(requirement: Requirement, visited: set[tuple[str, str]]) -> bool:
    """Whether a distribution that fits is installed, and for extras also everything that the extras ask for."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return True
    if requirement.url is not None:
        return False
    try:
        distribution = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        return False
    for extra in requirement.extras:
        key = (canonicalize_name(requirement.name), canonicalize_name(extra))
        if key in visited:
            continue
        visited.add(key)
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or not _only_with(needed, extra):
                continue
            needed.marker = None
            if not _is_satisfied(needed, visited):
                return False
    return True


def _only_with(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement's marker asks for it with the extra, and not without."""
    with_extra = any(requirement.marker.evaluate({"extra": name}) for name in (extra, canonicalize_name(extra)))
    return with_extra and not requirement.marker.evaluate({"extra": ""})


@dataclass(frozen=True)
class Overlay:
    """A folder of packages to put in front of the server's own."""

    python: Path
    packages: Path

    @classmethod
    def create(cls, folder: Path) -> Overlay:
        """Make an empty overlay in `folder`. Its interpreter also sees the packages of the running one.

        Raises FileNotFoundError if these do not include pip.
        """
        if importlib.util.find_spec("pip") is None:
            raise FileNotFoundError(
                f"pip is not installed in the environment of {sys.executable}, so nothing can be installed for the "
                "container: run `python -m ensurepip` or `uv pip install pip` there"
            )
        venv.create(folder, symlinks=True, with_pip=False)
        python = folder / "bin" / "python"
        packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
        packages.mkdir(parents=True, exist_ok=True)
        below = [path for path in _site_folders() if Path(path).is_dir()]
        (packages / "_server_packages.pth").write_text("".join(f"{path}\n" for path in below))
        return cls(python, packages)

    def install_command(self, requirements_file: str) -> list[str]:
        """The command that installs a requirements file into the overlay; pip comes from the server's environment."""
        return [
            str(self.python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
            "--progress-bar", "off", "--no-warn-script-location", "--requirement", requirements_file,
        ]  # fmt: skip


def _site_folders() -> list[str]:
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [path for path in folders if path in sys.path]


def installer_environment() -> dict[str, str]:
    """Environment variables for `Overlay.install_command`: the user's own settings of where pip finds packages."""
    settings = {name: text for name, text in os.environ.items() if name in PIP_SETTINGS}
    return {**settings, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONPATH": ""}
