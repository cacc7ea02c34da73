"""Shows how far a notebook is: one line per code cell, live on a terminal, plain in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO

from .cells import CellError, Place

_HEARTBEAT = 60.0  # seconds: how often a log hears of a cell that takes long


class Progress:
    """A listener of `execution.execute` that prints to `stream`; used as a context manager it ends its thread.

    On a terminal the running cell's line counts its seconds. Elsewhere a line is printed when a cell ends, and every
    minute of one that does not, so that a CI job is not taken for dead.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._name = ""
        self._place: Place | None = None
        self._start = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._closing.set()
        self._thread.join()

    def notebook(self, name: str) -> None:
        """Say that the notebook `name` comes next."""
        self._name = name.rsplit("/", 1)[-1]
        self.say(f"\n{name}")

    def say(self, text: str) -> None:
        """Print whole lines between those of the cells."""
        with self._lock:
            print(text, file=self._stream, flush=True)

    def started(self, place: Place) -> None:
        with self._lock:
            self._place, self._start = place, time.monotonic()
            if self._live:
                self._print(place, 0.0, "", "\r", "")

    def ended(self, place: Place, seconds: float, outcome: str) -> None:
        with self._lock:
            self._place = None
            mark = "" if outcome == "ok" else f"{outcome}  "
            self._print(place, seconds, mark, "\r" if self._live else "", "\n")

    def _tick(self) -> None:
        said = 0.0
        while not self._closing.wait(1.0):
            with self._lock:
                if self._place is None:
                    said = 0.0
                    continue
                seconds = time.monotonic() - self._start
                if self._live:
                    self._print(self._place, seconds, "", "\r", "")
                elif seconds - said >= _HEARTBEAT or seconds < said:
                    said = seconds
                    self._print(self._place, seconds, "still running  ", "", "\n")

    def _print(self, place: Place, seconds: float, mark: str, before: str, after: str) -> None:
        count = f"{place.number:{len(str(place.total))}}/{place.total}"
        what = f"{place.heading}: {place.first_line}" if place.heading else place.first_line
        line = f"  {self._name}  {count}  {seconds:6.1f} s  {mark}{what}"
        width = shutil.get_terminal_size().columns - 1 if self._live else 120
        line = line if len(line) <= width else line[: width - 3] + "..."
        clear = "\x1b[K" if self._live else ""
        print(f"{before}{line}{clear}", end=after, file=self._stream, flush=True)


def describe(place: Place | None, error: CellError) -> str:
    """Where and why a notebook failed, for people: two indented lines, more when the message has more."""
    message = "\n    ".join(error.message.strip().splitlines()[:15])
    where = f"  cell {place.number} of {place.total}, {place.first_line!r}" if place else "  before its first cell"
    under = f", under {place.heading!r}" if place and place.heading else ""
    return f"{where}{under}\n    {error.name}: {message}"


def clock(seconds: float) -> str:
    """Seconds as people read them: 8.4 s, 2 min 05 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
