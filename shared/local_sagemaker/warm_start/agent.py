"""The first process of a container that is kept for several jobs. Run as a script; imported by nobody.

It waits for orders, each a file of JSON: {"argv", "environment", "folder"}. It runs the command, kills what the command
has left behind, and reports its exit status in a line of output that begins with the token of its arguments. Beside it
runs a process that has imported what the scripts import (`__main__.py`), and from which they are forked.

Arguments: the orders' file, the token, the socket of that other process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LOOK_SECONDS = 0.03
KILL_SECONDS = 5.0
START_SECONDS = 10.0
FORK_SERVER = Path(__file__).parent


def main() -> int:
    orders, token, socket = sys.argv[1:]
    asked_to_end = False

    def end(*_) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    # The command is in this process's group, so it gets the signal too; its end is waited for.
    signal.signal(signal.SIGTERM, end)
    server: subprocess.Popen | None = None
    while not asked_to_end:
        try:
            text = Path(orders).read_text()
        except FileNotFoundError:
            time.sleep(LOOK_SECONDS)
            continue
        os.unlink(orders)
        order = json.loads(text)
        if server is None:
            server = subprocess.Popen(
                [sys.executable, str(FORK_SERVER), socket],
                env=order["environment"],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
            wait_for(socket, server)
        if asked_to_end:
            break
        status = run(order, lambda: asked_to_end)
        kill_others({1, os.getpid(), server.pid})
        if asked_to_end:
            return status
        # What the command wrote last may have no end of line.
        os.write(1, f"\n{token} {status}\n".encode())
    return 128 + signal.SIGTERM


def wait_for(socket: str, server: subprocess.Popen) -> None:
    """Wait until the fork server answers; a command does without it, should it not come."""
    give_up = time.monotonic() + START_SECONDS
    while not os.path.exists(socket) and server.poll() is None and time.monotonic() < give_up:
        time.sleep(0.005)


def run(order: dict, asked_to_end: Callable[[], bool]) -> int:
    """Run the order's command; its exit status as a shell has it."""
    try:
        process = subprocess.Popen(
            order["argv"], env=order["environment"], cwd=order["folder"], stdin=subprocess.DEVNULL
        )
    except OSError as error:
        print(f"cannot start {order['argv'][0]}: {error}", file=sys.stderr, flush=True)
        return 126
    if asked_to_end():
        process.terminate()  # The signal came before the command was there to get it.
    status = process.wait()
    return status if status >= 0 else 128 - status


def kill_others(kept: set[int]) -> None:
    """End every process of this container's process namespace but those; returns when they are gone."""
    give_up = time.monotonic() + KILL_SECONDS
    while time.monotonic() < give_up:
        others = [pid for name in os.listdir("/proc") if name.isdigit() and (pid := int(name)) not in kept]
        living = [pid for pid in others if not is_zombie(pid)]
        if not living:
            return
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.005)


def is_zombie(pid: int) -> bool:
    """Whether the process has ended, or is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


if __name__ == "__main__":
    sys.exit(main())
