"""Extraction of a model.tar.gz that somebody else packed: all of it, inside its folder, or nothing."""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

# 100 times is far above what weights and text reach; only a bomb goes beyond, and small archives may as they like.
MAX_RATIO = 100
SMALL_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 100_000
MAX_DEPTH = 100
KEPT_FREE_BYTES = 64 * 1024 * 1024


class ArchiveError(Exception):
    """The archive cannot or must not be extracted; the message says why."""


def extract(archive: Path, destination: Path) -> None:
    """Extract a gzip-compressed tar archive into `destination`, which must be empty or not exist.

    Members must be folders, regular files, or links that stay inside. Nothing is left behind on failure: the files
    appear in `destination` in one move, when all of them are there. Owners and special bits are dropped.

    Raises ArchiveError if the archive is no gzip or tar, is damaged, would write outside the folder, contains a device,
    or does not fit on the disk.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=destination.parent) as folder:
        contents = Path(folder, "contents")
        contents.mkdir()
        try:
            _extract_members(archive, contents)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ArchiveError(f"it is not a valid tar.gz archive: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ArchiveError(f"the disk is full: {error.strerror}") from error
            raise ArchiveError(f"a member cannot be written: {error}") from error
        if destination.exists():
            destination.rmdir()
        shutil.move(contents, destination)


class _StrictHeader(tarfile.TarInfo):
    """A damaged header is an error, also in the middle, where tarfile would take it for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"damaged header: {error}") from error


class _Bounded(io.RawIOBase):
    """What a compressed file unpacks to, up to a limit: no header and no padding can ask for more memory or disk."""

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(min(size, self._limit - self._read + 1) if size >= 0 else self._limit - self._read + 1)
        self._read += len(piece)
        if self._read > self._limit:
            raise ArchiveError(
                f"it would unpack to more than {self._limit} bytes, {MAX_RATIO} times its own size: no model "
                "compresses so well"
            )
        return piece


def _extract_members(archive: Path, folder: Path) -> None:
    allowed = max(SMALL_BYTES, archive.stat().st_size * MAX_RATIO)
    free = shutil.disk_usage(folder).free - KEPT_FREE_BYTES
    total = 0
    members = 0
    with gzip.open(archive) as compressed:
        bounded = _Bounded(compressed, allowed)
        # "r|" reads once, front to back, without an index.
        with tarfile.open(fileobj=bounded, mode="r|", errorlevel=2, tarinfo=_StrictHeader) as tar:
            for member in tar:
                members += 1
                total += member.size
                if members > MAX_MEMBERS:
                    raise ArchiveError(f"it has more than {MAX_MEMBERS} members")
                if total > free:
                    raise ArchiveError(f"the disk is full: {total} bytes are needed, {max(free, 0)} are free")
                _check(member)
                try:
                    tar.extract(member, folder, filter="data")
                except tarfile.FilterError as error:
                    raise ArchiveError(f"the member {member.name!r} is refused: {error}") from error
                except (KeyError, ValueError) as error:
                    raise ArchiveError(f"the member {member.name!r} cannot be extracted: {error}") from error
                # tarfile remembers every member; nobody asks for them again.
                tar.members.clear()
        # To the end of the compressed data, where its checksum is.
        while bounded.read(1 << 20):
            continue


def _check(member: tarfile.TarInfo) -> None:
    """Refuse what the "data" filter would allow or quietly change."""
    path = PurePosixPath(member.name)
    if path.is_absolute():
        raise ArchiveError(f"the member {member.name!r} has an absolute path")
    if ".." in path.parts:
        raise ArchiveError(f"the member {member.name!r} leads out of the archive's folder")
    if len(path.parts) > MAX_DEPTH:
        raise ArchiveError(f"the member {member.name[:80]!r}... lies more than {MAX_DEPTH} folders deep")
    if "\0" in member.name or "\0" in member.linkname:
        raise ArchiveError(f"the member {member.name!r} has a NUL in its name")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise ArchiveError(f"the member {member.name!r} is neither a file nor a folder nor a link")
