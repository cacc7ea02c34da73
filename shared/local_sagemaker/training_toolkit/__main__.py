"""What a training image runs when a job names no command: the script that the job's hyperparameters name.

Run by the container's Python, not imported. The semantics are those of the SageMaker Training Toolkit, which the AWS
Deep Learning Containers hold (https://github.com/aws/sagemaker-training-toolkit): the hyperparameters sagemaker_program
and sagemaker_submit_directory say what to run and where it lies in S3; all others become arguments and SM_HP_
variables.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import source
from settings import Settings, ToolkitError, read_settings

KEPT_LINES = 40


def main() -> int:
    """Run the job's script; the exit status is the script's. A failure is told in /opt/ml/output/failure."""
    base = Path(os.environ["SAGEMAKER_BASE_DIR"])
    try:
        settings = read_settings(base)
        source.fetch(settings.submit_directory, settings.code_folder)
        source.relocate(settings.code_folder, base)
        environment = os.environ | settings.environment()
        environment["PYTHONPATH"] = os.pathsep.join(
            folder for folder in (str(settings.code_folder), os.environ.get("PYTHONPATH", "")) if folder
        )
        for command in (*source.installations(settings.code_folder), settings.command()):
            run(command, settings, environment)
    except ToolkitError as error:
        print(error, file=sys.stderr, flush=True)
        tell(base / "output" / "failure", str(error))
        return error.status
    return 0


def tell(failure: Path, message: str) -> None:
    """Write the failure file, unless the script has written its own."""
    if not failure.exists():
        failure.parent.mkdir(exist_ok=True)
        failure.write_text(message)


def run(command: list[str], settings: Settings, environment: dict[str, str]) -> None:
    """Run a command in the code folder, its output passed on. Raises ToolkitError where it fails."""
    print(f"Invoking script with the following command:\n\n{shlex.join(command)}\n", flush=True)
    process = subprocess.Popen(command, cwd=settings.code_folder, env=environment, stderr=subprocess.PIPE)
    said: deque[str] = deque(maxlen=KEPT_LINES)
    follower = threading.Thread(target=pass_on, args=(process, said))
    follower.start()
    status = process.wait()
    follower.join(1.0)
    if status != 0:
        message = last_error(list(said))
        raise ToolkitError(
            f'ExecuteUserScriptError:\nExitCode {status}\nErrorMessage "{message}"\nCommand "{shlex.join(command)}"',
            status if status > 0 else 128 - status,
        )


def pass_on(process: subprocess.Popen, said: deque[str]) -> None:
    """Write the process's errors on as they come, whole lines or not, and keep the last lines."""
    rest = b""
    while piece := os.read(process.stderr.fileno(), 65536):
        sys.stderr.buffer.write(piece)
        sys.stderr.buffer.flush()
        *lines, rest = (rest + piece).split(b"\n")
        said.extend(line.decode("utf-8", "replace") for line in lines)
    if rest:
        said.append(rest.decode("utf-8", "replace"))


def last_error(lines: list[str]) -> str:
    """The end of the last traceback, else the last line."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    block = lines[starts[-1] + 1 :] if starts else []
    message = [line for line in block if line and not line.startswith(" ")]
    said = [line for line in lines if line.strip()]
    return "\n".join(message) or (said[-1] if said else "")


if __name__ == "__main__":
    sys.exit(main())
