"""A job's metrics: numbers that its metric definitions find in the lines of its log."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

import regex

# A pattern that would search a line for longer is given up: its job goes on.
_SEARCH_SECONDS = 0.25


class MetricReader:
    """Reads the lines of a job's hosts. `report` gets (name, value, Unix seconds) of each metric found."""

    def __init__(
        self,
        definitions: Sequence[tuple[str, str]],
        report: Callable[[str, float, float], None],
        warn: Callable[[str], None],
    ) -> None:
        self._patterns = [(name, compile_metric(pattern)) for name, pattern in definitions]
        self._report = report
        self._warn = warn
        self._lock = threading.Lock()

    def read(self, line: str) -> None:
        """Report every metric in a line. Thread-safe."""
        now = time.time()
        with self._lock:
            for definition in list(self._patterns):
                self._search(definition, line, now)

    def _search(self, definition: tuple[str, regex.Pattern[str]], line: str, now: float) -> None:
        name, pattern = definition
        try:
            for match in pattern.finditer(line, timeout=_SEARCH_SECONDS):
                value = _number(match[1] if pattern.groups else match[0])
                if value is not None:
                    self._report(name, value, now)
        except TimeoutError:
            self._patterns.remove(definition)
            self._warn(f"The regular expression of metric {name} takes too long to search; it is not read any more.")


def compile_metric(pattern: str) -> regex.Pattern[str]:
    """The compiled regular expression of a metric definition. Raises `regex.error`."""
    return regex.compile(pattern)


def _number(text: str | None) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    # CloudWatch takes neither NaN nor infinity.
    return value if math.isfinite(value) else None
