"""What tests of several parts share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A shell without job control starts background commands with SIGINT ignored, and what they start inherits that. Tests
# of Ctrl-C would then wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _local_sagemaker(*arguments: str) -> str:
    command = [sys.executable, "-m", "shared.local_sagemaker", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="session")
def local_sagemaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables that point clients at a local SageMaker of this test run's own."""
    state = str(tmp_path_factory.mktemp("sagemaker"))
    _local_sagemaker("start", "--state", state)
    try:
        yield json.loads(_local_sagemaker("env", "--json", "--state", state))
    finally:
        _local_sagemaker("stop", "--state", state)
