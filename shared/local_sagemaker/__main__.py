"""The command line: python -m shared.local_sagemaker start|status|env|interrupt|stop."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from . import supervision
from .state import DEFAULT_REGION, StateFolder, default_state_root


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0: done, 1: it failed or no server runs, 130: Ctrl-C)."""
    options = _parser().parse_args(arguments)
    state = StateFolder(options.state)
    try:
        if options.command == "start":
            return _start(state, options.port, options.foreground)
        if options.command == "status":
            return _status(state)
        if options.command == "env":
            return _env(state, options.json)
        if options.command == "interrupt":
            return _interrupt(state, options.job, options.seconds)
        supervision.stop(state, say=_say)
        return 0
    except supervision.SupervisionError as error:
        print(f"local SageMaker: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("local SageMaker: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description="A SageMaker on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start the server, or find it running")
    start.add_argument("--port", type=_port, help="the port to listen on (default: the last one, else a free one)")
    start.add_argument("--foreground", action="store_true", help="serve in this process until Ctrl-C")
    status = commands.add_parser("status", help="say whether the server runs, and what it runs")
    env = commands.add_parser("env", help="print the shell lines that point AWS clients at the server")
    env.add_argument("--json", action="store_true", help="print the values as one JSON object")
    stop = commands.add_parser("stop", help="stop the server and everything it runs")
    interrupt = commands.add_parser(
        "interrupt", help="take the instances of a managed spot training job away, as AWS does when it needs them"
    )
    interrupt.add_argument("job", help="the name of the training job")
    interrupt.add_argument(
        "--seconds", type=float, default=0.0, help="how long no other instances are to be had (default: %(default)s)"
    )
    for command in (start, status, env, stop, interrupt):
        command.add_argument(
            "--state", type=Path, default=default_state_root(), help="the state folder (default: %(default)s)"
        )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number between 1 and 65535")
    return int(text)


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _start(state: StateFolder, port: int | None, foreground: bool) -> int:
    region = os.environ.get("AWS_REGION") or DEFAULT_REGION
    if foreground:
        supervision.run_in_foreground(state, port, region, say=_say)
        return 0
    record = supervision.start(state, port, region, say=_say)
    print(f"local SageMaker at {record.url} (process {record.pid}, state folder {state.root})")
    return 0


def _status(state: StateFolder) -> int:
    record = supervision.running(state)
    if record is None:
        print(f"local SageMaker: not running (state folder {state.root})")
        return 1
    answer = supervision.ask(state, record)
    print(f"local SageMaker at {record.url} (process {record.pid}, state folder {state.root})")
    for endpoint in answer["endpoints"]:
        print(f"  endpoint {endpoint['name']}: {endpoint['status']} (logs: {state.endpoint_logs / endpoint['name']})")
    for job in answer["training_jobs"]:
        print(f"  training job {job['name']}: {job['status']} (logs: {job['logs']})")
    print(f"  server log: {state.server_log}")
    return 0


def _interrupt(state: StateFolder, job: str, seconds: float) -> int:
    supervision.interrupt(state, job, seconds)
    print(f"training job {job} is interrupted")
    return 0


def _env(state: StateFolder, as_json: bool) -> int:
    record = supervision.running(state)
    if record is None:
        raise supervision.SupervisionError(
            f"no server runs for the state folder {state.root}. Start it with: python -m {__package__} start"
        )
    values = state.client_environment(record)
    if as_json:
        print(json.dumps(values))
    else:
        for name, value in values.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
