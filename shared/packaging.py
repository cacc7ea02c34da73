"""model.tar.gz, the archive that SageMaker unpacks to /opt/ml/model: the weights at its top, the handler under code/.

The same files give the same bytes, whoever packs them and when (with the same zlib), so an archive can be named by its
content: nothing is uploaded twice, and changed code gets a new name.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.display import Output, table

_SKIPPED_FOLDERS = {"__pycache__"}
_SKIPPED_SUFFIXES = {".pyc", ".pyo"}


@dataclass(frozen=True)
class Archive:
    """A packed archive: its path, size in bytes, SHA-256 as hex, and (name in the archive, bytes) of each file."""

    path: Path
    size: int
    sha256: str
    members: tuple[tuple[str, int], ...]

    def _card(self) -> Output:
        caption = f"{self.path}: {self.size:,} bytes, sha256 {self.sha256[:12]}"
        return table(((name, f"{size:,}") for name, size in self.members), columns=["file", "bytes"], caption=caption)

    def __str__(self) -> str:
        return self._card().text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return self._card()._repr_mimebundle_()


def make_archive(
    destination: str | Path,
    weights: str | Path | None,
    code: str | Path,
    extras: Mapping[str, str | Path] | None = None,
) -> Archive:
    """Pack `weights` (a folder; None when the container fetches a Hub model) and `code` (a folder) to `destination`.

    `extras` maps names of further folders in the archive, such as "upscaler", to the folders that are packed there.
    Hidden files, __pycache__ and compiled Python are left out; symbolic links are packed as the files they point to.
    The file appears at `destination` only when it is complete. Raises FileNotFoundError for a missing folder or a code
    folder without inference.py, ValueError for weights that bring a folder code/, or one of an extra's name.
    """
    destination, code = Path(destination), Path(code)
    if not (code / "inference.py").is_file():
        raise FileNotFoundError(f"{code.resolve()} holds no inference.py: is the notebook running in its lab's folder?")
    added = {"code": code} | {name: Path(folder) for name, folder in (extras or {}).items()}
    files = [(f"{top}/{name}", path) for top, folder in added.items() for name, path in _files(folder)]
    if weights is not None:
        own = list(_files(Path(weights)))
        for top, folder in added.items():
            if any(name.startswith(f"{top}/") for name, _ in own):
                raise ValueError(f"{weights} holds a folder {top}/ already, which would mix with {folder}")
        files += own
    files.sort()

    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        with os.fdopen(handle, "wb") as raw:
            # Weights hardly compress, so the fastest level; no name and no time in the gzip header.
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
                with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    for name, path in files:
                        _add(tar, name, path)
        os.chmod(partial, 0o644)
        os.replace(partial, destination)
    except BaseException:
        os.unlink(partial)
        raise
    with destination.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    members = tuple((name, path.stat().st_size) for name, path in files)
    return Archive(destination, destination.stat().st_size, digest, members)


def upload(archive: Archive, prefix: str, client=None) -> str:
    """Upload `archive` below `prefix` ("s3://bucket/path") and return its URL: <prefix>/<12 digits of sha256>/<name>.

    Uploads nothing when the same content is there already. `client` is a boto3 S3 client; by default one is made.
    """
    import boto3
    from botocore.exceptions import ClientError
    from tqdm import tqdm

    bucket, key = split_s3(f"{prefix.rstrip('/')}/{archive.sha256[:12]}/{archive.path.name}")
    url = f"s3://{bucket}/{key}"
    client = client or boto3.client("s3")
    try:
        if client.head_object(Bucket=bucket, Key=key)["ContentLength"] == archive.size:
            print(f"already there: {url}")
            return url
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
            raise
    # A text bar, because a widget bar stays at 0% in a saved notebook; and only where there is something to wait for.
    quiet = archive.size < 20_000_000
    with tqdm(total=archive.size, unit="B", unit_scale=True, mininterval=1, file=sys.stdout, disable=quiet) as bar:
        client.upload_file(str(archive.path), bucket, key, Callback=bar.update)
    print(f"uploaded {archive.size:,} bytes to {url}")
    return url


def split_s3(url: str) -> tuple[str, str]:
    """("bucket", "path/to/key") of "s3://bucket/path/to/key". Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{url!r} is no S3 URL such as 's3://bucket/path'")
    return parts.netloc, parts.path.lstrip("/")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to `folder` with slashes, path) of each file that belongs into an archive."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.resolve()}")
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in relative.parts)
        if path.is_file() and not hidden and path.suffix not in _SKIPPED_SUFFIXES:
            yield relative.as_posix(), path


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        info = tarfile.TarInfo(name)
        info.size = os.fstat(file.fileno()).st_size
        info.mode = 0o644
        tar.addfile(info, file)  # TarInfo's defaults: time 0, owner 0, no owner names
