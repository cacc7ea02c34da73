"""Jobs without a command, as SDK v2 makes them: the script, its arguments and variables, its requirements."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from front_support import BUCKET, LocalServer
from training_support import (
    TRAINING_IMAGE,
    as_json,
    channel,
    keys_below,
    log_of,
    model_of,
    put,
    request_for,
    sourcedir,
    wait_for,
)

SCRIPT = """
import json, os, sys
from helper import word
report = {"word": word, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
with open(os.path.join(os.environ["SM_MODEL_DIR"], "report.json"), "w") as file:
    json.dump(report, file)
print("trained", flush=True)
"""


def train_by_toolkit(
    server: LocalServer,
    name: str,
    source: dict[str, str],
    hyperparameters: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Run a job whose source lies in a sourcedir.tar.gz; returns its description at the end."""
    url = put(server, f"{name}/source/sourcedir.tar.gz", sourcedir(source))
    put(server, f"{name}/train/a.txt", "A")
    given = {"sagemaker_program": "train.py", "sagemaker_submit_directory": url} | (hyperparameters or {})
    request = request_for(
        server, name, HyperParameters={key: as_json(value) for key, value in given.items()}, **changes
    )
    request["AlgorithmSpecification"] = {"TrainingImage": TRAINING_IMAGE, "TrainingInputMode": "File"}
    request["InputDataConfig"] = [channel("train", f"s3://{BUCKET}/{name}/train/")]
    server.client("sagemaker").create_training_job(**request)
    return wait_for(server, name)


def test_what_the_script_is_given(server: LocalServer) -> None:
    hyperparameters = {
        "epochs": 3,
        "learning-rate": 1e-4,
        "b": True,
        "note": 'a "b" $HOME',
        "layers": [1, 2],
        "sagemaker_container_log_level": 20,
        "sagemaker_job_name": "toolkit",
    }
    source = {"train.py": SCRIPT, "helper.py": "word = 'helped'"}
    described = train_by_toolkit(server, "toolkit", source, hyperparameters)
    assert described["TrainingJobStatus"] == "Completed", log_of(server, "toolkit")
    assert log_of(server, "toolkit")[-1] == "trained"
    report = json.loads(model_of(server, described)["report.json"])
    assert report["word"] == "helped"
    assert report["arguments"] == [
        "-b", "True", "--epochs", "3", "--layers", "[1, 2]", "--learning-rate", "0.0001", "--note", 'a "b" $HOME',
    ]  # fmt: skip
    environment = report["environment"]
    folder = environment["SM_MODEL_DIR"].removesuffix("/model")
    assert report["folder"] == f"{folder}/code"
    expected = {
        "SM_CHANNEL_TRAIN": f"{folder}/input/data/train",
        "SM_CHANNELS": '["train"]',
        "SM_HP_EPOCHS": "3",
        "SM_HP_NOTE": 'a "b" $HOME',
        "SM_OUTPUT_DATA_DIR": f"{folder}/output/data",
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_USER_ENTRY_POINT": "train.py",
        "SM_MODULE_NAME": "train",
        "SM_LOG_LEVEL": "20",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert json.loads(environment["SM_HPS"])["layers"] == [1, 2]
    training = json.loads(environment["SM_TRAINING_ENV"])
    assert training["hyperparameters"]["epochs"] == 3
    assert training["job_name"] == "toolkit"
    assert training["channel_input_dirs"] == {"train": f"{folder}/input/data/train"}


@pytest.mark.parametrize(
    ("name", "source", "hyperparameters", "reason"),
    [
        (
            "raises",
            {"train.py": "import sys\nprint('before', file=sys.stderr)\nraise ValueError('bad data')"},
            {},
            'ErrorMessage "ValueError: bad data"',
        ),
        ("exits", {"train.py": "import sys; sys.exit('no column text')"}, {}, 'ErrorMessage "no column text"'),
        ("no-script", {"other.py": ""}, {}, "There is no train.py in s3://"),
        ("no-source", {}, {"sagemaker_submit_directory": f"s3://{BUCKET}/none.tar.gz"}, "cannot be downloaded"),
        ("mpi", {"train.py": ""}, {"sagemaker_mpi_enabled": True}, "does not support sagemaker_mpi_enabled"),
    ],
)
def test_why_a_script_failed(
    server: LocalServer, name: str, source: dict[str, str], hyperparameters: dict[str, Any], reason: str
) -> None:
    described = train_by_toolkit(server, f"toolkit-{name}", source, hyperparameters)
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("AlgorithmError: ")
    assert reason in described["FailureReason"]
    assert described["FailureReason"].endswith(", exit code: 1")
    if name == "raises":
        assert "before" in log_of(server, "toolkit-raises")
        assert "ExecuteUserScriptError:\nExitCode 1\n" in described["FailureReason"]


def wheel(folder: Path) -> Path:
    """A wheel of the package `found_only_here`."""
    path = folder / "found_only_here-1.0-py3-none-any.whl"
    info = "found_only_here-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("found_only_here.py", "word = 'installed'")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: found-only-here\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_requirements_are_installed_beside_the_environment_of_the_server(server: LocalServer, tmp_path: Path) -> None:
    script = "import found_only_here, numpy; print(found_only_here.word, found_only_here.__file__)"
    source = {"train.py": script, "requirements.txt": f"numpy\n{wheel(tmp_path).as_uri()}\n"}
    described = train_by_toolkit(server, "requirements", source)
    assert described["TrainingJobStatus"] == "Completed", log_of(server, "requirements")
    word, place = log_of(server, "requirements")[-1].split()
    assert word == "installed"
    assert Path(place).is_relative_to(server.state / "training" / "requirements")
    assert importlib.util.find_spec("found_only_here") is None
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/found_only_here*"))
    assert keys_below(server, "jobs/requirements/") == ["jobs/requirements/output/model.tar.gz"]


def test_requirements_that_do_not_exist(server: LocalServer) -> None:
    source = {"train.py": "", "requirements.txt": "./no-such-package-1.0-py3-none-any.whl"}
    described = train_by_toolkit(server, "no-requirements", source)
    assert described["TrainingJobStatus"] == "Failed"
    assert "no-such-package" in described["FailureReason"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("open('/opt/ml/output/failure', 'w').write('the data has holes')\nraise SystemExit(1)", "the data has holes"),
        ("import shutil; shutil.rmtree('/opt/ml/output', ignore_errors=True)\nraise OSError('no output')", "no output"),
    ],
)
def test_the_failure_file_of_a_script_stands(server: LocalServer, script: str, expected: str) -> None:
    name = f"toolkit-failure-{expected.replace(' ', '-')}"
    described = train_by_toolkit(server, name, {"train.py": script})
    assert described["TrainingJobStatus"] == "Failed"
    assert expected in described["FailureReason"]
    assert described["FailureReason"].endswith("exit code: 1")
