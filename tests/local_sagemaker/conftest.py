"""One local SageMaker for the front's tests, and a state folder for each test that runs its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from front_support import LocalServer, command, start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    state = tmp_path_factory.mktemp("local-sagemaker") / "state"
    yield start(state)
    command("stop", state=state)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder of the test's own, whose server is stopped afterwards."""
    folder = tmp_path / "state"
    yield folder
    command("stop", state=folder, check=False)
