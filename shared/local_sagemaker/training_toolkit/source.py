"""The source of a job: brought from S3, unpacked, its requirements found."""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from settings import ToolkitError

REAL_BASE = "/opt/ml"
TEXT_SUFFIXES = {".py", ".sh", ".json", ".yaml", ".yml", ".txt", ".cfg", ".toml"}
_ML_PATH = re.compile(rb"(?<![\w.-])" + REAL_BASE.encode() + rb"(?![\w.-])")


def fetch(submit_directory: str, folder: Path) -> None:
    """Bring the source into `folder`: an s3:// URL of a .tar.gz, or a folder or archive of the container.

    Raises ToolkitError where it cannot be read.
    """
    if not submit_directory.startswith("s3://"):
        local = Path(submit_directory.removeprefix("file://"))
        if local.is_dir():
            if local.resolve() != folder.resolve():
                shutil.copytree(local, folder, dirs_exist_ok=True)
            return
        unpack(local, folder)
        return
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = submit_directory.removeprefix("s3://").partition("/")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "sourcedir.tar.gz")
        try:
            boto3.client("s3").download_file(bucket, key, str(archive))
        except (BotoCoreError, ClientError, OSError) as error:
            raise ToolkitError(f"The source {submit_directory} cannot be downloaded: {error}") from error
        unpack(archive, folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive into `folder`. Raises ToolkitError where it is none, or leads out of the folder."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise ToolkitError(f"The source {archive.name} is not a tar archive that can be unpacked: {error}") from error


def relocate(folder: Path, base: Path) -> None:
    """Rewrite /opt/ml in the source where this container has it elsewhere."""
    if str(base) == REAL_BASE:
        return
    for path in folder.rglob("*"):
        if path.suffix in TEXT_SUFFIXES and path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            changed = _ML_PATH.sub(str(base).encode().replace(b"\\", b"\\\\"), text)
            if changed != text:
                path.write_bytes(changed)


def installations(folder: Path) -> list[list[str]]:
    """The commands that install what the source asks for."""
    install = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    commands = []
    if (folder / "requirements.txt").is_file():
        commands.append([*install, "--requirement", "requirements.txt"])
    if (folder / "setup.py").is_file():
        commands.append([*install, "."])
    return commands
