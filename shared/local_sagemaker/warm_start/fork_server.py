"""A process that has the modules of training scripts imported, and forks a process for each script."""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import types
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

MAX_MESSAGE = 4 * 1024 * 1024
# What differs from job to job and from process to process; modules read none of it while they are imported. All else in
# the environment must be as it was when this process imported its modules.
CHANGING_PREFIXES = (
    "SM_", "SAGEMAKER_", "TRAINING_JOB_", "LOCAL_SAGEMAKER_",
    "TORCHELASTIC_", "TORCH_NCCL_", "NCCL_", "PET_", "ROLE_", "GROUP_",
)  # fmt: skip
CHANGING = {
    "_", "PWD", "OLDPWD", "SHLVL", "PYTHONPATH", "OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip


@dataclass(frozen=True)
class Script:
    """A script to run: what `python` was given, its working folder, environment, process group and standard files."""

    path: str
    argv: list[str]
    folder: str
    environment: dict[str, str]
    group: int
    files: tuple[int, ...]


def serve(path: str) -> Script:
    """Answer requests at the Unix socket `path` for ever. Returns in forks only, with the script to run."""
    at_start = lasting(dict(os.environ))
    wakeup, write_end = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(write_end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(16)
        os.rename(f"{path}.new", path)  # Whoever finds it can connect.
        clients: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([listener, wakeup, *clients.values()], [], [])
            if wakeup in ready:
                os.read(wakeup, 4096)
                report_ended(clients)
            for pid, client in list(clients.items()):
                if client in ready and not client.recv(1):
                    os.kill(pid, signal.SIGKILL)  # Whoever asked for the script is gone.
                    client.close()
                    del clients[pid]
            if listener in ready:
                client, _ = listener.accept()
                script = receive(client)
                if lasting(script.environment) != at_start:
                    answer(client, {"refused": "another environment"})
                    close_files(script)
                    client.close()
                    continue
                preload(script)
                if threading.active_count() > 1:
                    answer(client, {"refused": "a module has started a thread"})
                    close_files(script)
                    client.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (listener, client, *clients.values()):
                        other.close()
                    os.close(wakeup)
                    os.close(write_end)
                    return script
                close_files(script)
                clients[pid] = client
                answer(client, {"pid": pid})


def lasting(environment: dict[str, str]) -> dict[str, str]:
    """The part of an environment that does not change from script to script."""
    return {
        name: value
        for name, value in environment.items()
        if name not in CHANGING and not name.startswith(CHANGING_PREFIXES)
    }


def receive(client: socket.socket) -> Script:
    """The request that a client sends: JSON that ends with a newline, and three files."""
    message, files, _, _ = socket.recv_fds(client, MAX_MESSAGE, 3)
    while not message.endswith(b"\n"):
        piece = client.recv(MAX_MESSAGE)
        if not piece:
            break
        message += piece
    return Script(**json.loads(message), files=tuple(files))


def answer(client: socket.socket, content: dict) -> None:
    """Send one line of JSON, if the client is still there."""
    try:
        client.sendall(json.dumps(content).encode() + b"\n")
    except OSError:
        return


def close_files(script: Script) -> None:
    """Close this process's copies of the script's standard files."""
    for file in script.files:
        os.close(file)


def report_ended(clients: dict[int, socket.socket]) -> None:
    """Tell the clients of scripts that have ended how."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        client = clients.pop(pid, None)
        if client is not None:
            answer(client, {"status": os.waitstatus_to_exitcode(status)})
            client.close()


def preload(script: Script) -> None:
    """Import what the script and the modules beside it import, as far as it is installed."""
    wanted: dict[str, None] = {}
    collect(Path(script.path), Path(script.path).parent, wanted, set())
    for name in wanted:
        module, _, attribute = name.partition(":")
        try:
            # Packages such as transformers import their parts only when these are asked for.
            imported = importlib.import_module(module)
            if attribute and not hasattr(imported, attribute):
                importlib.import_module(f"{module}.{attribute}")
        except Exception:
            # The script will meet the same error, and say so where it stands.
            continue
    gc.collect()
    gc.freeze()


def collect(file: Path, folder: Path, wanted: dict[str, None], seen: set[Path]) -> None:
    """Add "module" and "module:attribute" for every import in `file` and in modules of `folder` that it imports."""
    if file in seen:
        return
    seen.add(file)
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, attribute in names:
            local = folder / module.partition(".")[0]
            if local.with_suffix(".py").is_file():
                collect(local.with_suffix(".py"), folder, wanted, seen)
            elif not local.is_dir():
                wanted[f"{module}:{attribute}" if attribute not in ("", "*") else module] = None


def take_the_place_of_main(script: Script) -> None:
    """Run the script in this process as `python` would."""
    for number, file in enumerate(script.files):
        os.dup2(file, number)
        os.close(file)
    try:
        os.setpgid(0, script.group)
    except OSError as error:
        print(f"the script is in a process group of its own: {error}", file=sys.stderr)
    os.chdir(script.folder)
    os.environ.clear()
    os.environ.update(script.environment)
    sys.argv = list(script.argv)
    added = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [str(Path(script.path).parent), *(folder for folder in added if folder not in sys.path)]
    adapt_modules()
    sys.excepthook = lambda kind, error, trace: report(kind, error, from_script(trace, script.path))
    main = sys.modules["__main__"]
    main.__dict__.clear()
    main.__dict__.update(
        __name__="__main__",
        __file__=script.path,
        __doc__=None,
        __package__=None,
        __spec__=None,
        __loader__=SourceFileLoader("__main__", script.path),
        __builtins__=builtins,
    )
    exec(compile(Path(script.path).read_bytes(), script.path, "exec"), main.__dict__)


def adapt_modules() -> None:
    """Give imported modules what they would have found in the environment, or drawn, at their import."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules:
        # Every fork would draw the same numbers; a fresh process draws its own.
        sys.modules["torch"].seed()
        if threads.isdecimal():
            sys.modules["torch"].set_num_threads(int(threads))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def report(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Print an exception as Python does, with that traceback."""
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def from_script(trace: types.TracebackType | None, path: str) -> types.TracebackType | None:
    """A traceback without the frames of this module that lie above the script's."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename != path:
        rest = rest.tb_next
    return rest or trace
