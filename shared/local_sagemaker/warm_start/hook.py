"""Runs when a Python starts in a kept container: has its script run by a fork of the process that imports ahead.

Python imports it by a .pth file of the container's packages, before anything else; standard library only. Where the
script cannot be handed over, the interpreter goes on as if nothing had been.
"""

import os
import sys

SOCKET = "LOCAL_SAGEMAKER_WARM_START"
SCRIPTS = "LOCAL_SAGEMAKER_WARM_SCRIPTS"


def script_of(words: list[str]) -> int | None:
    """Where the script stands in the words of a command line of Python; None where there is none, or other options."""
    for number, word in enumerate(words[1:], 1):
        if word == "-u":
            continue
        return None if word.startswith("-") else number
    return None


def hand_over() -> None:
    """Run this interpreter's script elsewhere and end with its status, or return."""
    place = script_of(sys.orig_argv)
    if place is None:
        return
    path = os.path.abspath(sys.orig_argv[place])
    folders = os.environ[SCRIPTS].split(os.pathsep)
    if not any(path == folder or path.startswith(folder + os.sep) for folder in folders) or not os.path.isfile(path):
        return
    import json
    import signal
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(os.environ[SOCKET])
            request = {
                "path": path,
                "argv": sys.orig_argv[place:],
                "folder": os.getcwd(),
                "environment": dict(os.environ),
                "group": os.getpgrp(),
            }
            content = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(server, [content], [0, 1, 2])
            server.sendall(content[sent:])
            answers = server.makefile("r")
            pid = json.loads(answers.readline()).get("pid")
        except (OSError, ValueError):
            return
        if pid is None:
            return

        def pass_on(number: int, _: object) -> None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, pass_on)
        line = answers.readline()
        status = json.loads(line)["status"] if line else -signal.SIGKILL
    if status < 0:
        # End as the script did, so that whoever waits sees the same.
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if SOCKET in os.environ:
    hand_over()
