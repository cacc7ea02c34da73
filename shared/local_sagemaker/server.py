"""The server process: binds loopback, serves, stops in order on SIGTERM, SIGINT or after a long idle time."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import logging.handlers
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn

from . import moto_services, training_jobs, tuning_jobs
from .application import Application
from .service import Service
from .state import ServerRecord, StateFolder

IDLE_MINUTES = 480.0

log = logging.getLogger(__name__)


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


def serve(state: StateFolder, port: int | None, region: str, foreground: bool) -> None:
    """Run a server for `state` until it is told to stop or has been idle for SAGEMAKER_LOCAL_IDLE_MINUTES.

    Raises StartError where another server has the folder or the port is taken.
    """
    state.create()
    _configure_logging(state, foreground)
    idle_minutes = _positive("SAGEMAKER_LOCAL_IDLE_MINUTES", "minutes", IDLE_MINUTES)
    _positive("SAGEMAKER_LOCAL_STOP_SECONDS", "seconds", training_jobs.STOP_SECONDS)
    _positive("SAGEMAKER_LOCAL_PARALLEL_JOBS", "jobs", tuning_jobs.LOCAL_PARALLEL_JOBS)
    _check_installed()
    # Never given back: the lock is to end with the process, so that whoever waits for it waits for that.
    if state.take_lock("server", wait_seconds=1.0) is None:
        raise StartError(f"Another local SageMaker already uses the state folder {state.root}.")
    # Working folders of containers whose server was killed: they have ended, and nobody else takes what they left.
    shutil.rmtree(state.root / "endpoints", ignore_errors=True)
    shutil.rmtree(state.training, ignore_errors=True)
    listener = _bind(state, port)
    record = ServerRecord(secrets.token_hex(16), os.getpid(), listener.getsockname()[1], region, time.time())
    _prepare_process(state, record)
    try:
        _run(state, record, listener, idle_minutes)
    finally:
        state.remove_record()


def _run(state: StateFolder, record: ServerRecord, listener: socket.socket, idle_minutes: float) -> None:
    service = Service(state, record)
    application = Application(service)
    config = uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
        ws="none",
    )
    server = uvicorn.Server(config)

    async def main() -> None:
        idle = asyncio.create_task(_stop_when_idle(server, application, idle_minutes))
        try:
            await server.serve(sockets=[listener])
        finally:
            idle.cancel()

    # moto takes a second to import; requests that need it wait for it, all others do not.
    threading.Thread(target=_prepare, args=(service, server), name="prepare", daemon=True).start()
    state.remember_port(record.port)
    state.write_client_files(record)
    state.write_record(record)
    log.info("serving at %s, process %d, state folder %s", record.url, record.pid, state.root)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops at a signal and raises it again when it has; by then nothing more is to happen but our own end.
        signal.signal(number, _ignore)
    try:
        asyncio.run(main())
    finally:
        service.close()
        log.info("stopped")


def _ignore(signal_number: int, frame: object) -> None:
    return None


def _prepare(service: Service, server: uvicorn.Server) -> None:
    try:
        service.prepare()
    except BaseException:
        log.exception("the AWS services could not be loaded; stopping")
        server.should_exit = True


async def _stop_when_idle(server: uvicorn.Server, application: Application, idle_minutes: float) -> None:
    while not server.should_exit:
        idle = application.idle_seconds()
        if idle >= idle_minutes * 60:
            log.info("no request for %.1f minutes (SAGEMAKER_LOCAL_IDLE_MINUTES): stopping", idle / 60)
            server.should_exit = True
        await asyncio.sleep(min(30.0, max(0.1, idle_minutes * 60 - idle)))


def _positive(variable: str, unit: str, default: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        number = float(text)
        if not number > 0:
            raise ValueError
    except ValueError:
        raise StartError(f"{variable} must be a positive number of {unit}, not {text!r}.") from None
    return number


def _check_installed() -> None:
    # Imported only after the server has answered, so looked for now.
    missing = [name for name in ("moto", "flask", "aiohttp") if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(
            f"Python at {sys.executable} lacks {', '.join(missing)}. Install what the README of the local SageMaker "
            "names, or use the Python of the environment that has it."
        )


def _bind(state: StateFolder, port: int | None) -> socket.socket:
    candidates = [port] if port is not None else [state.remembered_port(), 0]
    for candidate in candidates:
        if candidate is None:
            continue
        # With the protocol named, asyncio turns Nagle's algorithm off; else every small answer takes 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError as error:
            listener.close()
            if port is not None:
                raise StartError(
                    f"Port {port} cannot be used ({error.strerror}). Choose another with --port, or leave --port out "
                    "to take any free one."
                ) from error
            log.info("the port of the last start, %d, is taken; taking another", candidate)
            continue
        listener.listen(2048)
        return listener
    raise StartError("No port is free on 127.0.0.1.")


def _prepare_process(state: StateFolder, record: ServerRecord) -> None:
    # Containers and SDK calls inside this process see the local server only, never the user's own AWS account.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(state.client_environment(record))
    moto_services.configure()
    # Every large S3 object and every connection takes a file descriptor; the usual soft limits are 256 and 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10240 if hard == resource.RLIM_INFINITY else min(10240, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _configure_logging(state: StateFolder, foreground: bool) -> None:
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(state.server_log, maxBytes=10_000_000, backupCount=1)
    ]
    if foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for name in ("botocore", "werkzeug", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: list[str]) -> int:
    """The detached server: `arguments` are the state folder, the port (0: any) and the region."""
    root, port, region = arguments
    try:
        serve(StateFolder(Path(root)), int(port) or None, region, foreground=False)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
