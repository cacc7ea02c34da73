"""The environments that `make test-clients` makes hold what they are for, and not this project's own clients."""

import os
import subprocess


def _python(client: str, code: str) -> str:
    command = [os.environ[f"CLIENTS_{client}_PYTHON"], "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_sdk_v2_is_version_2():
    code = "import importlib.metadata as m; print(m.version('sagemaker'))"
    assert _python("SDK_V2", code).startswith("2.")


def test_awscli_runs():
    command = [os.environ["CLIENTS_AWSCLI_PYTHON"], "-I", "-m", "awscli", "--version"]
    assert "aws-cli/" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
