"""What a job leaves: its hosts' model and output folders, packed or as they are, in S3 and as plain files."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from .channels import Storage

# Weights hardly compress; higher levels take several times as long for the same size.
_COMPRESSION = 1


def merged_files(folders: Sequence[Path]) -> dict[str, Path]:
    """All files below `folders`, by relative name; the first folder that has a name wins. Links count as the files
    that they point to, if these lie below the same folder; other links, sockets and pipes are left out."""
    files: dict[str, Path] = {}
    for folder in folders:
        root = folder.resolve()
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                if path.is_file() and path.resolve().is_relative_to(root):
                    files.setdefault(str(path.relative_to(folder)), path)
    return dict(sorted(files.items()))


def upload_archive(files: dict[str, Path], url: str, archive: Path, storage: Storage) -> None:
    """Pack `files` into `archive`, a .tar.gz that stays, and make that the object `url`.

    Raises OSError where the disk is full, FileNotFoundError where the bucket is missing.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", _COMPRESSION, file) as packed,
            # A file with two names is packed twice, not as a link.
            tarfile.open(fileobj=packed, mode="w", dereference=True) as tar,
        ):
            for name, path in files.items():
                tar.add(path, arcname=name, recursive=False, filter=_without_owner)
        temporary.replace(archive)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    storage.store_object(archive, url)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def upload_files(files: dict[str, Path], url: str, storage: Storage) -> None:
    """Make each of `files` an object below the prefix `url`. Raises as `upload_archive`."""
    for name, path in files.items():
        storage.store_object(path, f"{url}/{name}")
