"""Why a training script failed: what it wrote into /opt/ml/output/failure, else what it said last."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Where what runs a script for it begins to report that the script has failed, but not why.
_VERDICT = re.compile(
    r"Command failed with exit code|An error occurred with exit code|\++ handle_error|"
    r"[EW]\d{4} .*torch/distributed/elastic/.*(failed|closing signal)|torch\.distributed\.elastic\..*Error"
)
_TRACE_OF_SHELL = re.compile(r"\++ ")
_RUNNER_REASON = re.compile(r"\s*Training Execution failed|.*\bCalledProcessError\b", re.DOTALL)
_RANK = re.compile(r"^\[(rank|default)\d+\]:\s?")
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: .*)?$")
_EXCEPTION_NAMES = ("Error", "Exception", "Exit", "Interrupt", "Iteration")
_MAX_EXCEPTION_LINES = 12
_LAST_LINES = 60
_MAX_REASON = 1024


def algorithm_error(failure_file: str, lines: Sequence[str], exit_status: int) -> str:
    """The FailureReason of a job whose container ended with `exit_status`.

    `failure_file` is the text of /opt/ml/output/failure, empty where there is none; `lines` are the last of the log.
    A failure file in which only a runner says that a command has failed is no reason.
    """
    reason = failure_file.strip()
    if not reason or _RUNNER_REASON.match(reason):
        reason = last_words(lines) or reason
    end = f", exit code: {exit_status}"
    return f"AlgorithmError: {shorten(reason, _MAX_REASON - len('AlgorithmError: ') - len(end))}{end}"


def last_words(lines: Sequence[str]) -> str:
    """The exception at the end of `lines`, or the last line where there is none; runners' own words do not count."""
    said = [_RANK.sub("", line).rstrip() for line in lines]
    verdict = next((number for number, line in enumerate(said) if _VERDICT.match(line)), len(said))
    said = [line for line in said[:verdict] if line.strip() and not _TRACE_OF_SHELL.match(line)]
    exceptions = _exceptions(said[-_LAST_LINES:])
    if exceptions:
        return exceptions[-1]
    return said[-1].strip() if said else ""


def _exceptions(lines: Sequence[str]) -> list[str]:
    """What stands after each traceback: the exception's type and message, which may have several lines."""
    found = []
    for number, line in enumerate(lines):
        if not line.endswith(_TRACEBACK):
            continue
        end = number + 1
        # Runners that pass lines on may have stripped them of their indentation: look for the shape of an exception.
        while end < len(lines) and not _is_exception(lines[end]):
            end += 1
        message = lines[end : end + _MAX_EXCEPTION_LINES]
        following = next((at for at, text in enumerate(message) if text.endswith(_TRACEBACK)), len(message))
        if message:
            found.append("\n".join(message[:following]))
    return found


def _is_exception(line: str) -> bool:
    if line.startswith((" ", "File ")) or not _EXCEPTION.match(line):
        return False
    name = line.partition(":")[0].rpartition(".")[2]
    return name[:1].isupper() and (":" in line or name.endswith(_EXCEPTION_NAMES))


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters: its beginning and its end, where the message usually is."""
    if len(text) <= limit:
        return text
    head = limit // 4
    return f"{text[:head]} ... {text[len(text) - (limit - head - 5) :]}"
