"""Runs the tests that need other clients of AWS: `python -m shared.environment.clients TESTS`, in .venv.

SDK v2 cannot be installed beside SDK v3, nor awscli beside this project's boto3, nor the training image's transformers
beside this project's, so each has an environment of its own under .venv-clients/, made when it is missing or its
requirements changed. The tests find their interpreters in CLIENTS_SDK_V2_PYTHON, CLIENTS_AWSCLI_PYTHON and
CLIENTS_TRAINING_IMAGE_PYTHON.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from shared.environment import pip_configuration, specification
from shared.environment.specification import CHECKOUT

STAMP = "requirements.txt"  # what a finished environment was made from


def variable(client: str) -> str:
    """The environment variable that names a client's interpreter: `sdk-v2` gives CLIENTS_SDK_V2_PYTHON."""
    return f"CLIENTS_{client.upper().replace('-', '_')}_PYTHON"


def prepare(client: str, requirements: tuple[str, ...], folder: Path) -> Path:
    """Makes the client's environment under `folder` unless it is there, and returns the path of its interpreter.

    Raises CalledProcessError when uv fails; its words are then on stderr.
    """
    environment = folder / client
    python, stamp = environment / "bin" / "python", environment / STAMP
    wanted = "\n".join([sys.version, *requirements]) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Setting up {environment.relative_to(CHECKOUT)}: {', '.join(requirements)}", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    pip_settings = pip_configuration.settings([sys.executable, "-m", "pip"])
    variables = {**os.environ, **pip_configuration.for_uv(pip_settings)}
    subprocess.run([*uv, "venv", "--python", sys.executable, str(environment)], env=variables, check=True)
    install = [*uv, "pip", "install", "--python", str(python), *requirements]
    subprocess.run(install, env=variables, check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def main(tests: list[str]) -> int:
    """Makes every client's environment, runs pytest on `tests`, and returns pytest's exit status."""
    variables = dict(os.environ)
    try:
        for client, requirements in specification.read().clients.items():
            variables[variable(client)] = str(prepare(client, requirements, CHECKOUT / ".venv-clients"))
    except subprocess.CalledProcessError as error:
        print(f"Could not set up the clients' environments: uv ended with {error.returncode}.", file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-m", "pytest", *tests], env=variables, cwd=CHECKOUT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
