"""Warm pools: their status, what they match, and that a kept container is as new, but for what is imported."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from front_support import LocalServer, command, error_of, start
from training_support import create, describe, keys_below, log_of, model_of, train, wait_for, wait_for_line

from shared.local_sagemaker.kept_containers import can_be_kept

kept = pytest.mark.skipif(not can_be_kept(), reason="containers are kept on Linux with process namespaces only")

SCRIPT = """
import sys
ahead = "numpy" in sys.modules
import os, pathlib, numpy
found = [str(path) for path in pathlib.Path("/opt/ml").rglob("left*")]
print("imported ahead:", ahead, "found:", found, "numbers:", numpy.random.random(), flush=True)
print(__name__, __file__, sys.argv, pathlib.Path.cwd(), sys.path[0])
pathlib.Path("/opt/ml/model/left").write_text("x")
pathlib.Path("/opt/ml/left").write_text("x")
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", "4711"])
"""


def with_pool(seconds: int = 100, **more: Any) -> dict[str, Any]:
    return {"resources": {"KeepAlivePeriodInSeconds": seconds} | more.pop("resources", {})} | more


def pool_of(server: LocalServer, name: str) -> dict[str, Any]:
    return describe(server, name)["WarmPoolStatus"]


def sleepers() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "4711"]]


def end_pool(server: LocalServer, name: str) -> None:
    server.client("sagemaker").update_training_job(TrainingJobName=name, ResourceConfig={"KeepAlivePeriodInSeconds": 0})
    deadline = time.monotonic() + 20
    while pool_of(server, name)["Status"] != "Terminated":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pool_goes_from_job_to_job(server: LocalServer) -> None:
    client = server.client("sagemaker")
    create(server, "pool-1", "import time; time.sleep(0.3)", **with_pool())
    assert pool_of(server, "pool-1") == {"Status": "InUse"}
    wait_for(server, "pool-1")
    assert pool_of(server, "pool-1") == {"Status": "Available"}
    train(server, "pool-other", "", **with_pool(resources={"VolumeSizeInGB": 31}))
    train(server, "pool-2", "", **with_pool())
    train(server, "pool-3", "")
    reused = pool_of(server, "pool-1")
    assert (reused["Status"], reused["ReusedByJob"]) == ("Reused", "pool-2")
    assert reused["ResourceRetainedBillableTimeInSeconds"] >= 0
    assert pool_of(server, "pool-2")["ReusedByJob"] == "pool-3"
    assert "WarmPoolStatus" not in describe(server, "pool-3")
    assert pool_of(server, "pool-other") == {"Status": "Available"}
    listed = client.list_training_jobs(NameContains="pool-", WarmPoolStatusEquals="Reused")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in listed] == ["pool-1", "pool-2"]
    end_pool(server, "pool-other")
    code, message, _ = error_of(
        client.update_training_job, TrainingJobName="pool-other", ResourceConfig={"KeepAlivePeriodInSeconds": 9}
    )
    assert code == "ValidationException" and "no warm pool" in message


def test_a_pool_ends_after_its_time_or_with_a_job_that_fails(server: LocalServer) -> None:
    train(server, "brief", "", **with_pool(1))
    failed = train(server, "brief-fails", "raise ValueError('x')", **with_pool(resources={"VolumeSizeInGB": 33}))
    assert failed["WarmPoolStatus"]["Status"] == "Terminated"
    deadline = time.monotonic() + 20
    while pool_of(server, "brief")["Status"] != "Terminated":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert pool_of(server, "brief")["ResourceRetainedBillableTimeInSeconds"] >= 1


@kept
def test_the_next_script_finds_its_modules_imported_and_nothing_else(server: LocalServer) -> None:
    volume = {"VolumeSizeInGB": 34}
    train(server, "cold", SCRIPT, resources=volume)
    warm = [train(server, f"warm-{number}", SCRIPT, **with_pool(resources=volume)) for number in (1, 2)]
    assert [model_of(server, described) for described in warm] == [{"left": b"x"}] * 2
    cold_lines = log_of(server, "cold")
    lines = [log_of(server, f"warm-{number}") for number in (1, 2)]
    assert cold_lines[0].startswith("imported ahead: False found: []")
    assert all(said[0].startswith("imported ahead: True found: []") for said in lines)
    assert len({said[0].partition("numbers:")[2] for said in (cold_lines, *lines)}) == 3
    # The same place, the same arguments: the log shows no difference, nor an empty line.
    assert lines[0][1:] == lines[1][1:] == cold_lines[1:]
    assert not sleepers()
    end_pool(server, "warm-2")


@kept
def test_a_script_in_a_fork_fails_and_is_stopped_as_any_other(server: LocalServer) -> None:
    volume = {"VolumeSizeInGB": 35}
    train(server, "fork-1", "", **with_pool(resources=volume))
    script = """
import signal, sys, time
def save(*_):
    open("/opt/ml/model/saved", "w").write("in time")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(1000)
"""
    create(server, "fork-2", script, **with_pool(resources=volume))
    wait_for_line(server, "fork-2", "ready")
    server.client("sagemaker").stop_training_job(TrainingJobName="fork-2")
    stopped = wait_for(server, "fork-2")
    assert stopped["TrainingJobStatus"] == "Stopped"
    assert model_of(server, stopped) == {"saved": b"in time"}
    assert pool_of(server, "fork-2")["Status"] == "Terminated"
    raises = train(server, "fork-3", "def main():\n    raise ValueError('bad')\nmain()", **with_pool(resources=volume))
    assert raises["FailureReason"] == "AlgorithmError: ValueError: bad, exit code: 1"
    files = [line.partition('"')[2].partition('"')[0] for line in log_of(server, "fork-3") if "File" in line]
    assert all(name.endswith("train.py") for name in files) and len(files) == 2
    killed = train(server, "fork-4", "import os; os.kill(os.getpid(), 9)", **with_pool(resources=volume))
    assert killed["FailureReason"] == "AlgorithmError: , exit code: 137"


@kept
def test_packages_of_one_job_are_not_there_for_the_next(server: LocalServer, tmp_path: Path) -> None:
    wheel = tmp_path / "only_once-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("only_once.py", "")
        archive.writestr("only_once-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: only-once\nVersion: 1.0\n")
        archive.writestr(
            "only_once-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("only_once-1.0.dist-info/RECORD", "")
    volume = {"VolumeSizeInGB": 36}
    install = f"import subprocess; subprocess.run(['pip', 'install', '--no-index', '{wheel}'], check=True)"
    look = "import importlib.util; print('found', importlib.util.find_spec('only_once'))"
    assert train(server, "installs", install, **with_pool(resources=volume))["TrainingJobStatus"] == "Completed"
    train(server, "looks", look, resources=volume)
    assert pool_of(server, "installs")["ReusedByJob"] == "looks"
    assert log_of(server, "looks") == ["found None"]
    assert keys_below(server, "jobs/looks/") == ["jobs/looks/output/model.tar.gz"]


@kept
def test_no_process_outlives_the_server(state: Path) -> None:
    server = start(state)
    train(server, "kept", "", **with_pool())
    processes = psutil.Process(server.record()["pid"]).children(recursive=True)
    assert processes
    command("stop", state=state)
    assert not psutil.wait_procs(processes, timeout=10)[1]
    assert not list((state / "training").iterdir())
