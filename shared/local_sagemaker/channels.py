"""Input channels: which S3 objects a channel has, and their files in a container."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from .training_plans import Channel

if TYPE_CHECKING:
    from .objects import StoredObject

_MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class Storage(Protocol):
    """S3, as far as channels and artifacts need it."""

    def list_objects(self, url: str) -> Sequence[StoredObject]:
        """The objects whose s3:// URL begins with `url`."""

    def fetch_object(self, url: str, path: Path) -> None:
        """Write an object to `path`. Raises FileNotFoundError."""

    def store_object(self, path: Path, url: str) -> None:
        """Make a file an object. Raises FileNotFoundError where the bucket is missing."""


class ChannelError(Exception):
    """A channel cannot be filled; the message is worded for the job's FailureReason."""


def find_files(channel: Channel, storage: Storage, scratch: Path) -> list[tuple[str, str]]:
    """The channel's objects, sorted: (s3:// URL, path relative to the channel's folder). Objects that only mark a
    folder are left out. `scratch` is a folder for the manifest, where there is one.

    Raises ChannelError where a manifest cannot be read, or an object's name leads out of the channel's folder.
    """
    files = _manifest_files(channel, storage, scratch) if channel.is_manifest else _prefix_files(channel.url, storage)
    for url, name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ChannelError(f"the object {url} has no name that could be a file's in channel {channel.name}.")
    return files


def _prefix_files(url: str, storage: Storage) -> list[tuple[str, str]]:
    """Names are relative to the prefix where it is a folder, else to the folder that the prefix lies in."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    parent = prefix[: prefix.rfind("/") + 1]
    files = []
    for found in storage.list_objects(url):
        if found.key.endswith("/"):
            continue
        below = found.key[len(prefix) :]
        name = below.lstrip("/") if below.startswith("/") or prefix.endswith("/") else found.key[len(parent) :]
        files.append((f"s3://{bucket}/{found.key}", name))
    return files


def _manifest_files(channel: Channel, storage: Storage, scratch: Path) -> list[tuple[str, str]]:
    path = scratch / f"{channel.name}-manifest"
    try:
        storage.fetch_object(channel.url, path)
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ChannelError(f"the manifest {channel.url} has more than {_MAX_MANIFEST_BYTES} bytes.")
        entries = json.loads(path.read_text(encoding="utf-8"))
        prefix = entries[0]["prefix"]
        names = entries[1:]
        if not prefix.startswith("s3://") or not all(isinstance(name, str) for name in names):
            raise ValueError
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        raise ChannelError(
            f'the manifest {channel.url} of channel {channel.name} is not a JSON list of {{"prefix": "s3://..."}} and '
            "names of objects."
        ) from None
    finally:
        path.unlink(missing_ok=True)
    return [(prefix + name, name) for name in sorted(names)]


def share_of(files: list[tuple[str, str]], channel: Channel, host: int, hosts: int) -> list[tuple[str, str]]:
    """The files that host number `host` (from 0) of `hosts` gets."""
    return files[host::hosts] if channel.is_sharded else files


def download(
    files: list[tuple[str, str]], channel: Channel, folder: Path, storage: Storage, check: Callable[[], None]
) -> None:
    """Write the files below `folder`. `check` is called before each of them, and may raise to end it all.

    Raises ChannelError where an object is missing, two names cannot be in one folder, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for url, name in files:
        check()
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            storage.fetch_object(url, path)
        except FileNotFoundError:
            raise ChannelError(f"channel {channel.name}: there is no object {url}.") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ChannelError(
                    f"channel {channel.name}: the disk of this machine is full ({error.strerror}). Free some space."
                ) from error
            raise ChannelError(
                f"channel {channel.name}: {url} cannot be written as {name} ({error.strerror}). An object whose name "
                "is another one's folder, or the same in letters of another case, cannot be a file beside it."
            ) from error
