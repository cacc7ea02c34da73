"""Runs one notebook by papermill on a kernel of this very Python, and says how it ended.

Papermill alone would start whatever kernel the user registered as python3, would call a cell that timed out
"completed", and lets a notebook pass that left by SystemExit. All of that is settled here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nbformat
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines

from .cells import CellError, Place, first_error, places

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # nbclient logs what we report ourselves


class Listener(Protocol):
    """Hears of each code cell as it starts and ends; `outcome` is "ok", "failed" or "interrupted"."""

    def started(self, place: Place) -> None: ...

    def ended(self, place: Place, seconds: float, outcome: str) -> None: ...


@dataclass(frozen=True)
class Execution:
    """How a notebook ran.

    `notebook` holds the outputs (None when the file could not be read), `ran` of `total` code cells were executed,
    `error` is why it failed (None: it passed, or was interrupted) and `place` the cell that failed or was interrupted
    (None: no cell did, the whole notebook could not run).
    """

    notebook: NotebookNode | None
    seconds: float
    ran: int
    total: int
    place: Place | None = None
    error: CellError | None = None
    interrupted: bool = False


class UnknownParameter(ValueError):
    """A parameter that the notebook's parameters cell does not have; the message names those that it has."""


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raise UnknownParameter unless the cell tagged `parameters` of the notebook assigns each of `parameters`."""
    if not parameters:
        return
    known = papermill.inspect_notebook(_as_template(path))
    for name in parameters:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has no cell with the tag `parameters`"
            raise UnknownParameter(f"{path.stem} has no parameter {name} ({has})")


def execute(
    path: Path,
    listener: Listener,
    parameters: Mapping[str, Any] | None = None,
    timeout: int | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Execution:
    """Run the notebook at `path` in `folder` (None: its own); the file itself is not changed.

    `timeout` is in seconds for each cell (None: no limit), `environment` is the kernel's (None: this process's).
    Whatever goes wrong in the notebook ends up in the result, and so does a KeyboardInterrupt. When this returns, the
    kernel and what its cells left running in its process group have ended. Raises UnknownParameter.
    """
    path = path.resolve()
    run = _Run(listener, timeout)
    failure: Exception | None = None
    interrupted = False
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="workshop-kernel-") as ipython:
        run.environment = dict(os.environ if environment is None else environment) | {
            "IPYTHONDIR": ipython,  # neither the user's start-up files nor a history file
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        try:
            check_parameters(path, parameters or {})
            papermill.execute_notebook(
                _as_template(path),
                None,
                dict(parameters or {}),
                engine_name=_Engine.name,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=folder or path.parent,
                run=run,
            )
        except UnknownParameter:
            raise
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:  # of papermill, nbclient, the kernel, the file: each is this notebook's failure
            failure, interrupted = error, _began_with_interrupt(error)
    return _result(run, time.monotonic() - start, failure, interrupted)


class _Run:
    """What papermill's engine is given, and what it leaves behind when it raises."""

    def __init__(self, listener: Listener, timeout: int | None):
        self.listener, self.timeout = listener, timeout
        self.environment: dict[str, str] = {}
        self.notebook: NotebookNode | None = None
        self.last: Place | None = None


def _result(run: _Run, seconds: float, failure: Exception | None, interrupted: bool) -> Execution:
    if run.notebook is None:
        if interrupted:
            return Execution(None, seconds, 0, 0, interrupted=True)
        return Execution(None, seconds, 0, 0, error=CellError(type(failure).__name__, _first_lines(failure), ""))
    numbered = places(run.notebook)
    executed = [place for place in numbered.values() if run.notebook.cells[place.index].execution_count is not None]
    counts = (run.notebook, seconds, len(executed), len(numbered))
    if interrupted:
        return Execution(*counts, place=run.last, interrupted=True)
    found = first_error(run.notebook)
    if found:
        return Execution(*counts, place=found[0], error=found[1])
    if failure:
        return Execution(*counts, error=CellError(type(failure).__name__, _first_lines(failure), ""))
    missed = next((place for place in numbered.values() if place not in executed), None)
    if not executed or missed:
        message = "this cell was never executed" if missed else "the notebook has no code cell that could be executed"
        return Execution(*counts, place=missed, error=CellError("NotExecuted", message, ""))
    return Execution(*counts)


def _began_with_interrupt(error: BaseException | None) -> bool:
    """Whether `error` was raised while a KeyboardInterrupt was being handled: by the clean-up, as a rule."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_lines(error: Exception | None, count: int = 20) -> str:
    return "\n".join(str(error).strip().splitlines()[:count])


def _as_template(path: Path) -> str:
    """Papermill formats paths with the parameters; a path with braces must survive that."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _KernelSpecs(KernelSpecManager):
    """Knows one kernel: this Python, whatever the user has registered under the same name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class _Engine(Engine):
    """A papermill engine that runs `_Client`."""

    name = "workshop"

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, log_output=False, start_timeout=60, run=None, **_others):
        run.notebook = nb_man.nb
        manager = AsyncKernelManager(kernel_name=kernel_name, kernel_spec_manager=_KernelSpecs())
        _Client(nb_man, manager, run, start_timeout).execute(env=run.environment, cleanup_kc=True)


papermill_engines.register(_Engine.name, _Engine)


class _Client(PapermillNotebookClient):
    """Tells a listener of each cell, writes the end of a kernel into the notebook, and leaves no process behind."""

    def __init__(self, nb_man, manager: AsyncKernelManager, run: _Run, startup_timeout: int):
        super().__init__(
            nb_man,
            km=manager,
            log=_log,
            timeout=run.timeout,
            startup_timeout=startup_timeout,
            iopub_timeout=60,  # for a busy machine; the default of 4 s fails cells with large outputs there
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=50"],  # silences "running over TCP without encryption"
        )
        self._manager, self._run, self._places = manager, run, places(nb_man.nb)

    def execute(self, **options) -> NotebookNode:
        try:
            return super().execute(**options)
        finally:
            _end_group(self._manager)
            if self.km is not None and self.km.has_kernel:  # interrupted while the kernel started
                _drop_tasks()
                self._cleanup_kernel()

    def execute_cell(self, cell, cell_index, **options) -> NotebookNode:
        place = self._places.get(cell_index)
        if place is None:
            return super().execute_cell(cell, cell_index, **options)
        self._run.last = place
        self._run.listener.started(place)
        start, outcome = time.monotonic(), "ok"
        try:
            return super().execute_cell(cell, cell_index, **options)
        except KeyboardInterrupt:
            outcome = "interrupted"
            _drop_tasks()
            raise
        except Exception as error:
            outcome = "failed"
            self._write_down(error, cell)
            raise
        finally:
            if outcome == "ok" and any(output.output_type == "error" for output in cell.outputs):
                outcome = "failed"
            self._run.listener.ended(place, time.monotonic() - start, outcome)

    def _write_down(self, error: Exception, cell: NotebookNode) -> None:
        """Make an end that leaves no trace in the notebook an error output of its cell."""
        if isinstance(error, DeadKernelError):
            name, message = "KernelDied", f"the kernel's process ended {self._how_the_kernel_ended()}"
        elif isinstance(error, CellTimeoutError) and "IOPub" in str(error):
            name, message = "CellTimeout", f"the cell's output did not arrive within {self.iopub_timeout} seconds"
        elif isinstance(error, CellTimeoutError):
            name, message = "CellTimeout", f"the cell ran for longer than {self._run.timeout} seconds"
        else:
            return
        cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message, traceback=[]))

    def _how_the_kernel_ended(self) -> str:
        process = getattr(self._manager.provisioner, "process", None)
        code = process.poll() if process else None
        if code is None:
            return "without saying why"
        if code == -signal.SIGKILL:
            return "by SIGKILL, which is what the system sends when memory runs out"
        return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _drop_tasks() -> None:
    """End what an interrupt left pending in the event loop; else asyncio complains about it at exit."""
    loop = ensure_event_loop()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _end_group(manager: AsyncKernelManager) -> None:
    """End what the kernel's cells started and left running; the kernel leads a process group of its own."""
    group = getattr(manager.provisioner, "pgid", None)
    if group and group != os.getpgrp():
        with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says so of zombies
            os.killpg(group, signal.SIGKILL)
