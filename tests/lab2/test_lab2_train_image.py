"""train.py with the transformers of SageMaker's Hugging Face training image, beside this project's own torch and peft.

`make test-clients` installs that transformers and names its interpreter in CLIENTS_TRAINING_IMAGE_PYTHON; without it
the tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_support import save_tiny_model, sentences, write_jsonl

from tests.training_runs import metrics, outputs

SCRIPT = Path(__file__).resolve().parents[2] / "lab2-llm-finetuning" / "code" / "train.py"
IMAGE_PYTHON = os.environ.get("CLIENTS_TRAINING_IMAGE_PYTHON")
IMAGE_VERSION = "5.3.0"

pytestmark = pytest.mark.skipif(not IMAGE_PYTHON, reason="make test-clients installs the image's transformers")


@pytest.fixture(scope="module")
def image_transformers(tmp_path_factory):
    """A folder with that transformers and nothing else, to be found before the project's own."""
    place = "import importlib.metadata as m; print(m.distribution('transformers').locate_file(''))"
    installed = subprocess.run([IMAGE_PYTHON, "-I", "-c", place], capture_output=True, text=True, check=True)
    folder = tmp_path_factory.mktemp("image")
    for name in ("transformers", f"transformers-{IMAGE_VERSION}.dist-info"):
        (folder / name).symlink_to(Path(installed.stdout.strip()) / name)
    return folder


def python(*arguments, path=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_folder_overrules_the_projects_version(image_transformers):
    show = "import transformers, importlib.metadata as m; print(transformers.__version__, m.version('transformers'))"
    assert python("-c", show, path=image_transformers).split() == [IMAGE_VERSION, IMAGE_VERSION]


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
def test_it_trains_goes_on_and_saves_as_with_the_projects_version(image_transformers, tmp_path, method):
    write_jsonl(tmp_path / "train" / "train.jsonl", [{"text": text} for text in sentences(60)])
    base = save_tiny_model(tmp_path / "base")
    flags = ("--train", tmp_path / "train", "--model", base, "--method", method, "--max_steps", 6, "--block_size", 32)
    flags += ("--save_steps", 2, "--eval_steps", 3, "--per_device_train_batch_size", 4)
    python(SCRIPT, *flags, *outputs(tmp_path / "ours"))
    ours = metrics(tmp_path / "ours")
    python(SCRIPT, *flags, *outputs(tmp_path / "image"), path=image_transformers)
    image = metrics(tmp_path / "image")
    assert image["before"] == pytest.approx(ours["before"], rel=1e-3)
    assert image["after"]["eval_loss"] == pytest.approx(ours["after"]["eval_loss"], rel=1e-3)
    python(SCRIPT, *flags, *outputs(tmp_path / "image"), path=image_transformers)
    again = metrics(tmp_path / "image")
    assert again["training"]["resumed_from_step"] == 4
    assert again["after"] == pytest.approx(image["after"], rel=1e-5)
    # What the image has saved, the endpoint's image loads.
    load = "import sys; from transformers import AutoModelForCausalLM as A; print(type(A.from_pretrained(sys.argv[1])))"
    assert "Llama" in python("-c", load, tmp_path / "image" / "model")
