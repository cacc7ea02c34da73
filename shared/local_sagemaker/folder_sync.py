"""A folder of a container that is kept in S3 while the container runs: checkpoints, TensorBoard's files."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from .channels import ChannelError, Storage, download
from .training_plans import Channel, FolderCopy

LOOK_SECONDS = 0.5

log = logging.getLogger(__name__)


def restore(copy: FolderCopy, folder: Path, storage: Storage, check: Callable[[], None]) -> int:
    """Bring the objects below the prefix of `copy` into `folder`; returns how many. `check` as in `download`.

    Raises ChannelError where an object's name can be no file's, or the disk is full.
    """
    prefix = copy.url.removeprefix("s3://").partition("/")[2]
    bucket = copy.url[: len(copy.url) - len(prefix)]
    files = [
        (bucket + found.key, found.key[len(prefix) :].lstrip("/"))
        for found in storage.list_objects(f"{copy.url}/")
        if not found.key.endswith("/")
    ]
    if any(".." in Path(name).parts for _, name in files):
        raise ChannelError(f"an object below {copy.url} has a name that leads out of the folder {copy.folder}.")
    channel = Channel("checkpoints", copy.url, False, False, "File", None)
    download(files, channel, folder, storage, check)
    return len(files)


class FolderSync:
    """Copies what appears or changes below a folder to S3, from `start` to `finish`, on a thread of its own.

    A file is copied when it has been left alone for LOOK_SECONDS, the older ones first. Nothing is ever deleted in S3.
    `warn` gets a sentence when files cannot be copied, once for each reason.
    """

    def __init__(
        self, copy: FolderCopy, folder: Path, scratch: Path, storage: Storage, warn: Callable[[str], None]
    ) -> None:
        self._copy = copy
        self._folder = folder
        self._scratch = scratch
        self._storage = storage
        self._warn = warn
        self._warned: set[str] = set()
        self._copied: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folder-sync", daemon=True)

    def start(self) -> None:
        """Begin. What lies in the folder now counts as copied."""
        self._copied = self._look()
        self._thread.start()

    def finish(self, last_copy: bool = True) -> None:
        """End; with `last_copy`, copy first what is there, however new. Returns when that is done."""
        self._finished.set()
        if self._thread.ident is not None:
            self._thread.join()
            if last_copy:
                self._seen = self._look()
                self._copy_changed()

    def _run(self) -> None:
        while not self._finished.wait(LOOK_SECONDS):
            self._copy_changed()

    def _copy_changed(self) -> None:
        now = self._look()
        for name in sorted(now, key=lambda name: now[name][0]):
            if now[name] == self._seen.get(name) and now[name] != self._copied.get(name):
                try:
                    self._copy_file(name, now[name])
                except OSError as error:
                    self._say(f"{self._copy.folder}/{name} cannot be copied to {self._copy.url}: {error.strerror}")
        self._seen = now

    def _copy_file(self, name: str, stamp: tuple[int, int]) -> None:
        # A copy, because the script may go on writing into the file, and an object never changes.
        self._scratch.mkdir(parents=True, exist_ok=True)
        snapshot = self._scratch / "snapshot"
        try:
            shutil.copyfile(self._folder / name, snapshot)
            if _stamp(self._folder / name) != stamp:
                return
            self._storage.store_object(snapshot, f"{self._copy.url}/{name}")
            self._copied[name] = stamp
        except FileNotFoundError:
            if not self._folder.joinpath(name).exists():
                return  # Deleted meanwhile, as old checkpoints are.
            raise
        finally:
            snapshot.unlink(missing_ok=True)

    def _look(self) -> dict[str, tuple[int, int]]:
        """Time of change and size of every file below the folder."""
        found = {}
        for parent, _, names in os.walk(self._folder):
            for name in names:
                path = Path(parent, name)
                stamp = _stamp(path)
                if stamp is not None:
                    found[str(path.relative_to(self._folder))] = stamp
        return found

    def _say(self, sentence: str) -> None:
        reason = sentence.rpartition(":")[2]
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning("%s", sentence)
            self._warn(sentence)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        if path.is_symlink() or not path.is_file():
            return None
        state = path.stat()
    except OSError:
        return None  # It was deleted while we looked.
    return state.st_mtime_ns, state.st_size
