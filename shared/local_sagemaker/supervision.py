"""Start, find and stop the server from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from .state import INTERRUPT_PATH, STATUS_PATH, STATUS_SERVICE, ServerRecord, StateFolder, package_root

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_KILL_SECONDS = 10.0

_RETURNED_BYTES = 1 << 20
"""Blocks of memory from this size on go back to the system when freed. glibc would raise the limit by itself after the
first large one, and a server that handles large bodies in threads would keep hundreds of megabytes."""

Say = Callable[[str], None]


class SupervisionError(Exception):
    """The command cannot be done; the message names the cause and the next step."""


def running(state: StateFolder) -> ServerRecord | None:
    """The record of the server that lives now and listens, else None."""
    return state.read_record() if state.server_lives() else None


def ask(state: StateFolder, record: ServerRecord, timeout: float = 10.0) -> dict[str, Any]:
    """What the server of `record` says about itself. Raises SupervisionError where it is silent or somebody else."""
    try:
        answer = _call(state, record, STATUS_PATH, None, timeout)
    except (OSError, ValueError) as error:
        raise SupervisionError(
            f"process {record.pid} should answer at {record.url} and does not ({error}). See {state.server_log}; "
            f"end it with: python -m {__package__} stop --state {state.root}"
        ) from error
    if not isinstance(answer, dict) or answer.get("id") != record.id:
        raise SupervisionError(f"another program answers at {record.url}; stop and start the local SageMaker.")
    return answer


def interrupt(state: StateFolder, job: str, seconds: float) -> None:
    """Have the running server interrupt a managed spot training job, which goes on after so many seconds.

    Raises SupervisionError where no server runs, or the job cannot be interrupted.
    """
    record = running(state)
    if record is None:
        raise SupervisionError(f"no server runs for the state folder {state.root}, so there is no job to interrupt.")
    try:
        _call(state, record, INTERRUPT_PATH, {"job": job, "seconds": seconds})
    except urllib.error.HTTPError as error:
        raise SupervisionError(json.load(error)["message"]) from error
    except OSError as error:
        raise SupervisionError(f"the server at {record.url} does not answer: {error}") from error


def _call(
    state: StateFolder, record: ServerRecord, path: str, body: dict[str, Any] | None, timeout: float = 10.0
) -> Any:
    """The server's answer to a request of its own command line: GET, or POST with a body."""
    # Imported late: `env` and `stop` do without botocore and are quick.
    from .signatures import sign

    url = record.url + path
    method, data = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    headers = sign(state.credentials(), STATUS_SERVICE, record.region, method, url, data)
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data=data or None, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        return json.load(response)


def start(state: StateFolder, port: int | None, region: str, say: Say) -> ServerRecord:
    """Return the running server, started now where there was none. It outlives the calling process.

    Raises SupervisionError where it cannot start, or runs already on another port than the one asked for. Interrupted
    by Ctrl-C, it ends the server that it has just started.
    """
    try:
        state.create()
    except OSError as error:
        raise SupervisionError(f"the state folder {state.root} cannot be used: {error}") from error
    with state.starting():
        if not state.server_lives():
            _report_stale(state, say)
            log_start = state.server_log.stat().st_size if state.server_log.exists() else 0
            process = None
            try:
                with _interrupt_held_back():
                    process = _spawn(state, port, region)
                record = _wait_for_record(state, process, log_start)
                ask(state, record)
            except KeyboardInterrupt:
                if process is not None:
                    _end_unfinished(state, process)
                raise
            return record
        record = _wait_for_record(state, None, 0)
        if port is not None and port != record.port:
            raise SupervisionError(f"a server already runs on port {record.port}; stop it first to use port {port}.")
        ask(state, record)
        return record


def run_in_foreground(state: StateFolder, port: int | None, region: str, say: Say) -> None:
    """Serve in this process until it is told to stop. Raises SupervisionError where that is not possible."""
    from .server import StartError, serve

    try:
        state.create()
        if not state.server_lives():
            _report_stale(state, say)
        serve(state, port, region, foreground=True)
    except (OSError, StartError) as error:
        raise SupervisionError(str(error)) from error


def stop(state: StateFolder, say: Say) -> None:
    """End the server and everything it runs; returns when they are gone. Says so where none runs."""
    if not state.server_lives():
        _report_stale(state, say)
        say("local SageMaker: not running")
        return
    record = _wait_for_record_or_end(state)
    if record is None:
        say("local SageMaker: stopped")
        return
    # The server's lock is held, so the process id is the server's own and not a reused one.
    for signal_number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        _signal(record.pid, signal_number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not state.server_lives():
                state.remove_record()
                say(f"local SageMaker: stopped (process {record.pid})")
                return
            time.sleep(0.05)
    raise SupervisionError(f"process {record.pid} does not end.")


def _wait_for_record_or_end(state: StateFolder) -> ServerRecord | None:
    """The record of a server that is perhaps just starting; None where it was just stopping and is gone."""
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        record = state.read_record()
        if record is not None:
            return record
        if not state.server_lives():
            return None
        time.sleep(0.05)
    raise SupervisionError(f"a process holds {state.root} and does not say which it is; see {state.server_log}.")


def _signal(pid: int, signal_number: int) -> None:
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return


def _report_stale(state: StateFolder, say: Say) -> None:
    record = state.read_record()
    if record is None:
        return
    started = datetime.fromtimestamp(record.started).strftime("%Y-%m-%d %H:%M:%S")
    say(
        f"The last local SageMaker (process {record.pid}, started {started}) ended without being stopped. Its models, "
        "endpoints and S3 objects are gone; its logs are not:"
    )
    for endpoint in record.endpoints:
        say(f"  endpoint {endpoint} was running; its logs: {state.endpoint_logs / endpoint}")
    say(f"  server log: {state.server_log}")
    state.remove_record()


def _spawn(state: StateFolder, port: int | None, region: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{__package__}.server", str(state.root), str(port or 0), region]
    with state.server_log.open("ab") as server_log:
        return subprocess.Popen(
            command,
            cwd=package_root(),
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(_RETURNED_BYTES)},
            stdin=subprocess.DEVNULL,
            stdout=server_log,
            stderr=server_log,
            start_new_session=True,
        )


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Let Ctrl-C take effect afterwards only: no process is started whose id is then not known."""
    pending = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: pending.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pending and callable(handler):
        handler(*pending[0])


def _wait_for_record(state: StateFolder, process: subprocess.Popen[bytes] | None, log_start: int) -> ServerRecord:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        record = state.read_record()
        if record is not None and (process is None or record.pid == process.pid):
            return record
        if process is not None and process.poll() is not None:
            raise SupervisionError(
                f"the server ended at once with code {process.returncode}:\n{_tail(state.server_log, log_start)}"
            )
        time.sleep(0.02)
    raise SupervisionError(
        f"the server did not answer within {_START_SECONDS:.0f} s. The end of {state.server_log}:\n"
        f"{_tail(state.server_log, log_start)}"
    )


def _end_unfinished(state: StateFolder, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    state.remove_record()


def _tail(path: Path, start: int, lines: int = 15) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            end = "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
            return end or "(the log says nothing; perhaps the disk is full)"
    except FileNotFoundError:
        return "(there is no log)"
