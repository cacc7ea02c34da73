"""Training jobs by the SageMaker Python SDK v3, unmodified: ModelTrainer and its drivers, Torchrun, several hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from front_support import BUCKET, ROOT, LocalServer
from training_support import keys_below, log_of, read, unpack

SCRIPT = Path(__file__).with_name("scripts") / "model_trainer.py"
SOURCE = {
    "plain.py": """
import json, os, sys
with open(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "a.txt")) as file:
    report = {"data": file.read(), "arguments": sys.argv[1:], "environment": dict(os.environ)}
for step in range(3):
    print(f"step={step} train_loss={1 / (step + 1):.3f}")
with open(os.path.join(os.environ["SM_MODEL_DIR"], "report.json"), "w") as file:
    json.dump(report, file)
""",
    "fails.py": "import sys; print('reading'); raise ValueError('column text is missing')",
    "sleeps.py": "import time; time.sleep(1000)",
    "joined.py": """
import os, torch, torch.distributed as distributed
distributed.init_process_group("gloo")
rank = distributed.get_rank()
total = torch.tensor([rank + 1.0])
distributed.all_reduce(total)
distributed.destroy_process_group()
place = {name: os.environ[name] for name in ("SM_CURRENT_HOST", "RANK", "LOCAL_RANK", "WORLD_SIZE")}
with open(os.path.join(os.environ["SM_MODEL_DIR"], f"rank-{rank}"), "w") as file:
    file.write(f"{place} {total.item()}")
""",
    "requirements.txt": "numpy\n",
}


@pytest.fixture(scope="module")
def results(server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the SDK's process has seen."""
    folder = tmp_path_factory.mktemp("model-trainer")
    for name, text in {f"code/{name}": text for name, text in SOURCE.items()}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").write_text("A")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    arguments = [str(folder / name) for name in ("code", "data", "results.json")]
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env=clean | server.values | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


def model(server: LocalServer, job: dict[str, Any]) -> dict[str, bytes]:
    assert job["status"] == "Completed", log_of(server, job["name"])
    return unpack(read(server, job["artifacts"]))


def test_a_job_runs_the_drivers_of_the_sdk(server: LocalServer, results: dict[str, Any]) -> None:
    job = results["plain"]
    report = json.loads(model(server, job)["report.json"])
    assert job["secondary"] == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert job["metrics"] == {"train_loss": 0.333}
    assert report["data"] == "A"
    assert report["arguments"] == [
        "--epochs", "3", "--learning_rate", "0.0001", "--note", 'a "b" c', "--flag", "true",
    ]  # fmt: skip
    expected = {"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST_RANK": "0", "SM_HP_EPOCHS": "3"}
    assert {name: report["environment"].get(name) for name in expected} == expected
    lines = log_of(server, job["name"])
    assert "Installing requirements" in lines
    assert any("Requirement already satisfied: numpy" in line for line in lines)


def test_a_failure_says_what_the_script_said(server: LocalServer, results: dict[str, Any]) -> None:
    assert results["fails"]["status"] == "Failed"
    assert results["fails"]["reason"] == "AlgorithmError: ValueError: column text is missing, exit code: 1"


def test_a_spot_job_that_nobody_interrupts(server: LocalServer, results: dict[str, Any]) -> None:
    assert "report.json" in model(server, results["spot"])
    assert "Interrupted" not in results["spot"]["secondary"]


def test_two_processes_on_one_host(server: LocalServer, results: dict[str, Any]) -> None:
    files = model(server, results["two_processes"])
    assert sorted(files) == ["rank-0", "rank-1"]
    assert all(b"'SM_CURRENT_HOST': 'algo-1'" in text and text.endswith(b" 3.0") for text in files.values())


def test_two_hosts(server: LocalServer, results: dict[str, Any]) -> None:
    job = results["two_hosts"]
    files = model(server, job)
    assert job["hosts"] == 2
    for rank, host in ((0, "algo-1"), (1, "algo-2")):
        place = {"SM_CURRENT_HOST": host, "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        assert files[f"rank-{rank}"].decode() == f"{place} 3.0"
        assert log_of(server, job["name"], host)


def test_stopped_and_listed(server: LocalServer, results: dict[str, Any]) -> None:
    assert results["stopped"]["status"] == "Stopped"
    own = [results[job]["name"] for job in ("two_hosts", "two_processes")]
    assert [name for name in results["listed"] if name in own] == own
    assert all("two-" in name for name in results["listed"])
    written = keys_below(server, "sleeper/")
    assert results["stopped"]["name"].startswith("sleeper-")
    assert not [key for key in written if key.endswith(("model.tar.gz", "output.tar.gz"))], written
    assert BUCKET in results["plain"]["artifacts"]
