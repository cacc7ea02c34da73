"""Runs train.py as often as asked for, each time in a process of its own, and pays for the imports once.

Reads lines of JSON from stdin, {"arguments": [...], "environment": {...}, "log": path} or {"wait": process id}, and
answers each by a line: the process id, or the exit status (negative: the signal). It forks before it computes anything.

Arguments: the folder of train.py, and the modules that it would import later.
"""

import importlib
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)

import torch  # noqa: E402
import train  # noqa: E402


def _start(request: dict) -> int:
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["train.py", *request["arguments"]]
        os.environ.update(request["environment"])
        status = train.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    else:
        answer = _start(asked)
    print(answer, flush=True)
