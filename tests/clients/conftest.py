"""The clients' interpreters, and a local SageMaker for each module, of which nothing may remain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_support import Server, command, start, wait_until


def _interpreter(variable: str) -> Path:
    named = os.environ.get(variable)
    if not named:
        pytest.fail(f"{variable} names no interpreter. `make test-clients` sets it up and runs these tests.")
    return Path(named).absolute()


@pytest.fixture(scope="session")
def sdk_v2_python() -> Path:
    """The interpreter of the environment with the SageMaker Python SDK v2."""
    return _interpreter("CLIENTS_SDK_V2_PYTHON")


@pytest.fixture(scope="session")
def awscli_python() -> Path:
    """The interpreter of the environment with awscli and an old boto3."""
    return _interpreter("CLIENTS_AWSCLI_PYTHON")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The module's own server. Its clients delete what they made, and its end leaves no process and no file behind."""
    state = tmp_path_factory.mktemp("local-sagemaker") / "state"
    running = start(state)
    try:
        yield running
        assert running.resources() == []
        assert running.processes() == []
    finally:
        command("stop", state=state)
    wait_until(lambda: not running.processes(), "every process ends with the server")
    assert not (state / "server.json").exists()
    assert [path for name in ("endpoints", "objects") for path in (state / name).glob("*")] == []
