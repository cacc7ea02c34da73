"""Tiny random models and the handlers of Lab 1, imported as the model server imports them."""

import sys
from pathlib import Path

import pytest

CODE = Path(__file__).parents[2] / "lab1-llm-inference" / "code"
sys.path.insert(0, str(CODE))

import inference  # noqa: E402
from tiny_models import save_tiny_model  # noqa: E402


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory):
    """Folders of saved tiny models, by architecture."""
    return {
        architecture: save_tiny_model(tmp_path_factory.mktemp(architecture), architecture)
        for architecture in ("llama", "gpt2", "gptj", "mistral")
    }


@pytest.fixture(scope="session")
def generators(model_dirs):
    """The loaded tiny models, by architecture."""
    loaded = {name: inference.model_fn(folder) for name, folder in model_dirs.items()}
    yield loaded
    for generator in loaded.values():
        generator.engine.close()


@pytest.fixture
def llama(generators):
    return generators["llama"]
