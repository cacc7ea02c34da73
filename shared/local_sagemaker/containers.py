"""A "container": a process tree of its own with an /opt/ml of its own, whose output goes to a log.

The same class runs a hosting container, a training container or an installation of packages: what differs is the
command. Its processes end with it, and with the server, whatever either of them dies of (see launcher.py).
"""

from __future__ import annotations

import codecs
import json
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .isolation import LAUNCHER_COMMAND, Isolation, available_isolation, launcher_settings

ML_FOLDER = "/opt/ml"
MAX_LINE_CHARACTERS = 16 * 1024  # Docker's log drivers split there too.
RELOCATED_SUFFIXES = {".py", ".sh", ".json", ".yaml", ".yml", ".txt", ".cfg", ".toml"}
MAX_RELOCATED_BYTES = 4 * 1024 * 1024
READ_BYTES = 64 * 1024
ENDED_QUIET_SECONDS = 0.5
_ML_PATH = re.compile(r"(?<![\w.-])" + re.escape(ML_FOLDER) + r"(?![\w.-])")
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


class Container:
    """One container, from `start` to its end.

    `root` is the container's folder on the host; `root/ml` is what it sees as /opt/ml. Where the machine has no mount
    namespaces, "/opt/ml" is rewritten to that folder in the command, the environment and the files that `relocate` is
    given. `log` gets each line of output (stdout and stderr in the order written) on a thread of this container.
    Where there are mount namespaces, `hosts_file` is what it sees as /etc/hosts. With `await_group`, the grace period
    of a `stop` is for every process of the first one's group, not only for the first itself. `on_end` is called once,
    on a thread, when everything has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        root: Path,
        environment: Mapping[str, str],
        log: Callable[[str], None],
        working_folder: str = ML_FOLDER,
        grace_seconds: float = 5.0,
        remove_when_server_dies: Sequence[Path] = (),
        hosts_file: Path | None = None,
        await_group: bool = False,
        on_end: Callable[[], None] | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self.isolation = available_isolation() if isolation is None else isolation
        self.ml_folder = (root / "ml").resolve()
        self._argv = [self.inside(argument) for argument in argv]
        self._root = root
        self._environment = {name: self.inside(value) for name, value in environment.items()}
        self._log = log
        self._working_folder = self.inside(working_folder)
        self._grace_seconds = grace_seconds
        self._remove_when_server_dies = tuple(remove_when_server_dies)
        self._hosts_file = hosts_file
        self._await_group = await_group
        self._on_end = on_end
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()
        self._pipe_lock = threading.Lock()
        self._stopped = False
        self._ended = threading.Event()
        self.exit_status: int | None = None

    def inside(self, text: str) -> str:
        """`text` with every path below /opt/ml as a process in the container must spell it."""
        if self.isolation.mount_namespace:
            return text
        return _ML_PATH.sub(lambda _: str(self.ml_folder), text)

    def relocate(self, folder: Path) -> None:
        """Rewrite /opt/ml in the scripts and settings below `folder`, if this container has no true /opt/ml."""
        if self.isolation.mount_namespace:
            return
        for path in folder.rglob("*"):
            if path.is_symlink() or not path.is_file() or path.suffix not in RELOCATED_SUFFIXES:
                continue
            if path.stat().st_size > MAX_RELOCATED_BYTES:
                continue
            original = path.read_bytes()
            changed = self.inside(original.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            if changed != original:
                path.write_bytes(changed)

    def start(self) -> None:
        """Start the processes; returns at once. After `stop` nothing starts, and the container counts as ended.

        Raises OSError if the machine cannot start another process.
        """
        settings = launcher_settings(
            self._argv,
            self._root,
            self.isolation,
            working_folder=self._working_folder,
            grace_seconds=self._grace_seconds,
            remove_when_server_dies=self._remove_when_server_dies,
            hosts_file=self._hosts_file,
            await_group=self._await_group,
        )
        with self._lock:
            if self._process is not None:
                raise RuntimeError("this container was started before")
            if self._stopped:
                self.exit_status = 128 + signal.SIGTERM
                self._end()
                return
            self._process = subprocess.Popen(
                LAUNCHER_COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                bufsize=0,
            )
        self._tell(json.dumps(settings))
        threading.Thread(target=self._follow, name="container-log", daemon=True).start()

    def stop(self, grace_seconds: float | None = None) -> None:
        """End every process: SIGTERM, then SIGKILL after the grace period. Idempotent; returns when all are gone."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        self._tell("stop")
        if grace_seconds is None:
            grace_seconds = self._grace_seconds
        if not self._ended.wait(grace_seconds):
            # Has the launcher kill everything at once.
            self._close_pipe()
            self._ended.wait()

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status once the container has ended and its last line is logged; None after `timeout` seconds."""
        self._ended.wait(timeout)
        return self.exit_status

    def _tell(self, line: str) -> None:
        # A pipe that another thread closes in the middle may be another file's already.
        with self._pipe_lock:
            if self._process.stdin.closed:
                return
            try:
                self._process.stdin.write(line.encode() + b"\n")
            except BrokenPipeError:
                return  # The launcher has ended; _follow reports it.

    def _close_pipe(self) -> None:
        with self._pipe_lock:
            self._process.stdin.close()

    def _follow(self) -> None:
        for line in split_lines(self._output()):
            self._log(line)
        self._process.stdout.close()
        self.exit_status = self._process.wait()
        self._close_pipe()
        self._end()

    def _end(self) -> None:
        self._ended.set()
        if self._on_end is not None:
            self._on_end()

    def _output(self) -> Iterator[bytes]:
        """What the container writes, until its end; a process that outlived it may keep the pipe open."""
        output = self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                ended = self._process.poll() is not None
                if selector.select(ENDED_QUIET_SECONDS):
                    piece = output.read(READ_BYTES)
                    if not piece:
                        return
                    yield piece
                elif ended:
                    return


def split_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines of a stream of bytes, each ended by a newline or a carriage return, as progress bars write it.

    A line has at most MAX_LINE_CHARACTERS characters, a longer one becomes several. Bytes that are no UTF-8 become
    U+FFFD. A last line without an end counts; nothing between two carriage returns does not.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        text = rest + decoder.decode(piece)
        start = 0
        for end in _LINE_END.finditer(text):
            if end[0] != "\r" or end.start() > start:
                yield from _bounded(text[start : end.start()])
            start = end.end()
        rest = text[start:]
        while len(rest) > MAX_LINE_CHARACTERS:
            yield rest[:MAX_LINE_CHARACTERS]
            rest = rest[MAX_LINE_CHARACTERS:]
    rest = (rest + decoder.decode(b"", final=True)).rstrip("\r")
    if rest:
        yield from _bounded(rest)


def _bounded(line: str) -> Iterator[str]:
    for start in range(0, max(len(line), 1), MAX_LINE_CHARACTERS):
        yield line[start : start + MAX_LINE_CHARACTERS]
