"""Runs the labs' notebooks headless, one after the other, and writes the report: what `make labs` calls.

    python -m shared.runner [--lab N] [--all] [--backend auto|local|sagemaker] [--model M] [--out out] [--timeout S]

Exit code: 0 every notebook passed; 1 one did not; 2 the command asks for something that does not exist; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .execution import Execution
    from .notebooks import Notebook
    from .progress import Progress
    from .report import Outcome

ROOT = Path(__file__).resolve().parent.parent
_CLEANUP_SECONDS = 600


class UsageError(ValueError):
    """The command line asks for something that does not exist; the message says what there is."""


class _Signals:
    """Turns the signals that ask for an end into one KeyboardInterrupt; `came` lists those that came."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._held = False
        self._before = {}

    def __enter__(self) -> _Signals:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as it is under nohup and for background jobs
                self._before[signum] = signal.signal(signum, self._stop)
        return self

    def __exit__(self, *_exception) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only note signals meanwhile: what is done here takes seconds and must be done whole."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def exit_code(self) -> int:
        """What a shell expects of a process that was ended by the first signal."""
        return 128 + (self.came[0] if self.came else signal.SIGINT)

    def _stop(self, signum: int, _frame) -> None:
        self.came.append(signum)
        if len(self.came) == 1:
            with suppress(OSError):  # the terminal may be what went away
                print("\nending, this takes a few seconds ...", file=sys.stderr, flush=True)
            if not self._held:
                raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line on the labs under `root`; returns the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end the run
    with _Signals() as signals:
        try:
            return _run(options, root, signals)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:  # before the first notebook or after the last one
            print("\ninterrupted", file=sys.stderr)
            return signals.exit_code()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shared.runner", description="Run the labs' notebooks.")
    parser.add_argument("--lab", metavar="N", help="only the notebooks of lab N, such as 1")
    parser.add_argument("--all", action="store_true", help="the further notebooks too, not only the core ones")
    default = "(default: what the notebook says)"
    parser.add_argument("--backend", choices=["auto", "local", "sagemaker"], help=f"the parameter BACKEND {default}")
    parser.add_argument("--model", help=f"the parameter MODEL, together with --lab {default}")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of report and executed notebooks")
    parser.add_argument(
        "--timeout", type=_seconds, default=1800, metavar="S", help="seconds that one cell may take (default: 1800)"
    )
    return parser


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds above 0")
    return int(text)


def _run(options: argparse.Namespace, root: Path, signals: _Signals) -> int:
    # Late, here and below: they take 3 s, and Ctrl-C and a wrong option want their answer before that.
    from . import report
    from .execution import execute
    from .notebooks import NotebookError, discover
    from .progress import Progress

    try:
        chosen = select(discover(root), root, options.lab, options.all, options.model)
    except NotebookError as error:
        raise UsageError(str(error)) from error
    parameters = {"BACKEND": options.backend, "MODEL": options.model}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    _check_parameters(chosen, parameters)

    path = options.out.resolve() / "report.html"
    begun, start = datetime.now(), time.monotonic()
    facts = _facts(options, root)
    server_is_ours = facts["This run"]["backend"] == "local" and not _local_sagemaker()[0]
    outcomes = [report.Outcome(notebook) for notebook in chosen]
    report.write(path, outcomes, facts, begun, 0.0)
    with Progress() as progress:
        for outcome in outcomes:
            try:
                progress.notebook(outcome.notebook.label)
                execution = execute(outcome.notebook.path, progress, parameters, options.timeout)
            except KeyboardInterrupt:  # outside of the cells
                execution = None
            with signals.held():
                _settle(outcome, execution, path.parent, progress)
                if outcome.status != report.PASSED:
                    outcome.notes = _clean_up(outcome.notebook.lab, options.backend, progress)
                report.write(path, outcomes, facts, begun, time.monotonic() - start)
            if signals.came:
                break
        if server_is_ours:
            with signals.held():
                _stop_local_sagemaker(progress)
    _summarise(outcomes, path, time.monotonic() - start)
    if signals.came:
        return signals.exit_code()
    return 0 if outcomes and all(outcome.status == report.PASSED for outcome in outcomes) else 1


def select(
    notebooks: Sequence[Notebook], root: Path, lab: str | None, everything: bool, model: str | None
) -> list[Notebook]:
    """The notebooks to run: core ones, with `everything` the further ones too, of `lab` or of all labs.

    Raises UsageError: no such lab, no notebook in it, or a model without a lab (no model suits every lab).
    """
    from .notebooks import labs

    if model is not None and lab is None:
        raise UsageError("a model is for one lab: say which with --lab (make labs LAB=1 MODEL=...)")
    if lab is not None:
        known = {number: folder.name for number, folder in labs(root).items()}
        if lab not in known:
            there_are = ", ".join(f"{number} ({name})" for number, name in known.items()) or "none"
            raise UsageError(f"there is no lab {lab!r}; there are: {there_are}")
        notebooks = [notebook for notebook in notebooks if notebook.lab == lab]
        if not notebooks:
            raise UsageError(f"lab {lab} ({known[lab]}) has no notebooks yet")
    chosen = [notebook for notebook in notebooks if everything or notebook.track == "core"]
    if lab is not None and not chosen:
        raise UsageError(f"lab {lab} ({known[lab]}) has only further notebooks: add --all (make labs ALL=1)")
    return chosen


def _check_parameters(chosen: Sequence[Notebook], parameters: dict[str, str]) -> None:
    from .execution import UnknownParameter, check_parameters

    for notebook in chosen:
        if not notebook.path.exists():
            raise UsageError(f"{notebook.label} is not built: {notebook.path.name} is missing; run: make notebooks")
        try:
            check_parameters(notebook.path, parameters)
        except UnknownParameter as error:
            raise UsageError(str(error)) from error


def _facts(options: argparse.Namespace, root: Path) -> dict[str, dict[str, str]]:
    from . import backends, provenance

    backend = backends.choose(options.backend or "auto")
    run = {"backend": backend, "model": options.model or "the notebooks' default"}
    run["notebooks"] = ("core and further" if options.all else "core") + (f", lab {options.lab}" if options.lab else "")
    return {"This run": run, "Versions": provenance.versions(root), "Machine": provenance.machine()}


def _settle(outcome: Outcome, execution: Execution | None, out: Path, progress: Progress) -> None:
    """Note how a notebook ended, save what it became, and say so."""
    from . import report
    from .notebooks import write
    from .progress import clock, describe

    outcome.execution = execution
    if execution is None or execution.interrupted:
        outcome.status = report.INTERRUPTED
    else:
        outcome.status = report.FAILED if execution.error else report.PASSED
    if execution is None:
        return
    if execution.notebook is not None:
        folder = out / outcome.notebook.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        outcome.saved = folder / outcome.notebook.path.name
        write(execution.notebook, outcome.saved)
    progress.say(f"  {outcome.status} after {clock(execution.seconds)}")
    if execution.error:
        progress.say(describe(execution.place, execution.error))


def _clean_up(lab: str, backend: str | None, progress: Progress) -> list[str]:
    """Delete what the notebook's last cell would have deleted; returns what happened in lines. Never raises."""
    progress.say(f"  cleaning up after lab {lab}")
    arguments = ["cleanup", "--lab", lab] + (["--backend", backend] if backend else [])
    code, lines = _python("shared.workshop", *arguments, say=lambda line: progress.say(f"    {line}"))
    if code == 0:
        return ["Cleaned up: " + ("".join(lines[-1:]) or "done")]
    command = f"python -m shared.workshop {' '.join(arguments)}"
    note = f"CLEANUP FAILED, something may still be running and cost money. Run: {command}"
    progress.say(f"    {note}")
    return [note, *lines[-3:]]


def _local_sagemaker() -> tuple[bool, list[str]]:
    """Whether a local SageMaker runs, and a line for each endpoint on it."""
    code, lines = _python("shared.local_sagemaker", "status")
    return code == 0, [line for line in lines if line.strip().startswith("endpoint ")]


def _stop_local_sagemaker(progress: Progress) -> None:
    """Stop the server that this run's notebooks started, unless something is deployed on it."""
    running, endpoints = _local_sagemaker()
    if endpoints:
        progress.say(f"\nThe local SageMaker keeps running for {len(endpoints)} endpoint(s). To stop it: make stop")
    elif running:
        code, lines = _python("shared.local_sagemaker", "stop")
        if code:
            progress.say("\nThe local SageMaker did not stop: " + " ".join(lines))


def _python(module: str, *arguments: str, say: Callable[[str], None] | None = None) -> tuple[int, list[str]]:
    """Run a module of this project; returns its exit code and the lines that it printed, each `say`-ed as it came."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-u", "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        limit = threading.Timer(_CLEANUP_SECONDS, process.kill)
        limit.start()
        try:
            for line in filter(str.strip, process.stdout):
                lines.append(line.rstrip())
                if say:
                    say(line.rstrip())
        finally:
            limit.cancel()
    return process.returncode, lines


def _summarise(outcomes: Sequence[Outcome], path: Path, seconds: float) -> None:
    from . import report
    from .progress import clock, describe

    print(f"\n{report.headline(outcomes)} in {clock(seconds)}")
    for outcome in outcomes:
        took = clock(outcome.execution.seconds) if outcome.execution else ""
        print(f"  {outcome.status:11}  {outcome.notebook.label}  {took}".rstrip())
        if outcome.execution and outcome.execution.error:
            print("  " + describe(outcome.execution.place, outcome.execution.error).replace("\n", "\n  "))
    print(f"report: {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
