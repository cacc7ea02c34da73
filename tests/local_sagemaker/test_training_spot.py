"""Checkpoints in S3, spot jobs that are interrupted and go on, and what happens to jobs whose server dies."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from front_support import BUCKET, LocalServer, command, start
from training_support import (
    create,
    describe,
    keys_below,
    log_of,
    model_of,
    put,
    read,
    statuses,
    train,
    wait_for,
    wait_for_line,
)

from shared.local_sagemaker.channels import ChannelError, download
from shared.local_sagemaker.training_plans import Channel

COUNTS = """
import pathlib, sys, time
folder = pathlib.Path("/opt/ml/checkpoints/state")
folder.mkdir(parents=True, exist_ok=True)
file = folder / "count"
count = int(file.read_text()) if file.exists() else 0
print("starts at", count, flush=True)
while count < 100:
    count += 1
    file.write_text(str(count))
    print("count", count, flush=True)
    if count in WAITS and not (folder / f"waited-{count}").exists():
        (folder / f"waited-{count}").touch()
        time.sleep(1000)
pathlib.Path("/opt/ml/model/count").write_text(str(count))
"""
SPOT = {"EnableManagedSpotTraining": True, "StoppingCondition": {"MaxRuntimeInSeconds": 50, "MaxWaitTimeInSeconds": 55}}


def checkpoints(name: str) -> dict[str, Any]:
    return {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints/{name}"}}


def interrupt(server: LocalServer, name: str, *options: str) -> str:
    """What the command line says; the empty text where it has done it."""
    done = command("interrupt", name, *options, state=server.state, check=False)
    return done.stderr


def test_checkpoints_are_in_s3_while_the_job_runs_and_in_the_next_job(server: LocalServer) -> None:
    create(server, "first", f"WAITS = [40]\n{COUNTS}", **checkpoints("both"))
    url = f"s3://{BUCKET}/checkpoints/both/state/count"
    wait_for_line(server, "first", "count 40")
    deadline = time.monotonic() + 20
    while "checkpoints/both/state/count" not in keys_below(server, "checkpoints/both/") or read(server, url) != b"40":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.client("sagemaker").stop_training_job(TrainingJobName="first")
    assert wait_for(server, "first")["TrainingJobStatus"] == "Stopped"
    described = train(server, "second", f"WAITS = []\n{COUNTS}", **checkpoints("both"))
    assert log_of(server, "second")[0] == "starts at 40"
    assert described["CheckpointConfig"] == {"S3Uri": f"s3://{BUCKET}/checkpoints/both"}
    assert model_of(server, described) == {"count": b"100"}
    assert read(server, url) == b"100"


def test_a_spot_job_goes_on_where_it_was_interrupted(server: LocalServer) -> None:
    create(server, "spot", f"WAITS = [30, 60]\n{COUNTS}", **SPOT, **checkpoints("spot"))
    for line in ("count 30", "count 60"):
        wait_for_line(server, "spot", line)
        assert interrupt(server, "spot", "--seconds", "0.4") == ""
        wait_for(server, "spot", "Interrupted", "Starting")
    described = wait_for(server, "spot")
    assert described["TrainingJobStatus"] == "Completed"
    once = ["Starting", "Downloading", "Training"]
    assert statuses(described) == [*once, "Interrupted", *once, "Interrupted", *once, "Uploading", "Completed"]
    starts = [line for line in log_of(server, "spot") if line.startswith("starts at")]
    assert starts == ["starts at 0", "starts at 30", "starts at 60"]
    assert model_of(server, described) == {"count": b"100"}
    assert described["EnableManagedSpotTraining"] is True
    assert 1 <= described["BillableTimeInSeconds"] <= described["TrainingTimeInSeconds"]
    streams = server.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="spot/"
    )["logStreams"]
    assert len(streams) == 1


def test_without_checkpoints_an_interrupted_job_begins_anew(server: LocalServer) -> None:
    script = "import pathlib, time\nprint('begins', list(pathlib.Path('/opt/ml/model').iterdir()), flush=True)\n"
    script += "open('/opt/ml/model/half', 'w')\ntime.sleep(1000)"
    create(server, "anew", script, **SPOT)
    wait_for_line(server, "anew", "begins []")
    assert interrupt(server, "anew") == ""
    deadline = time.monotonic() + 20
    while log_of(server, "anew") != ["begins []"] * 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.client("sagemaker").stop_training_job(TrainingJobName="anew")
    assert wait_for(server, "anew")["SecondaryStatus"] == "Stopped"


def test_a_spot_job_that_waits_too_long(server: LocalServer) -> None:
    limits = {"MaxRuntimeInSeconds": 2, "MaxWaitTimeInSeconds": 2}
    script = "import time\nprint('runs', flush=True)\ntime.sleep(1000)"
    create(server, "waits", script, EnableManagedSpotTraining=True, StoppingCondition=limits)
    wait_for_line(server, "waits", "runs")
    assert interrupt(server, "waits", "--seconds", "100") == ""
    described = wait_for(server, "waits")
    assert (described["TrainingJobStatus"], described["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")


def test_what_cannot_be_interrupted(server: LocalServer, tmp_path: Path) -> None:
    train(server, "on-demand")
    assert "does not run on spot instances" in interrupt(server, "on-demand")
    train(server, "spot-ended", **SPOT)
    assert "its status is Completed" in interrupt(server, "spot-ended")
    assert "Requested resource not found." in interrupt(server, "no-such-job")
    nothing = command("interrupt", "job", state=tmp_path / "none", check=False)
    assert nothing.returncode == 1 and "no server runs" in nothing.stderr


def test_a_job_that_the_machine_cannot_start_is_tried_again(server: LocalServer) -> None:
    """An error of the local SageMaker itself; something in the way of a folder makes one."""
    blocked = server.state / "training" / "again"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way of the job's folder")
    described = train(server, "again", RetryStrategy={"MaximumRetryAttempts": 2})
    blocked.unlink()
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("InternalServerError: ")
    assert statuses(described) == ["Starting", *["Downloading", "Restarting"] * 2, "Downloading", "Failed"]
    assert described["RetryStrategy"] == {"MaximumRetryAttempts": 2}


def test_artifacts_that_cannot_be_written(server: LocalServer) -> None:
    blocked = server.state / "artifacts" / "no-place"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way of the job's folder")
    described = train(server, "no-place")
    blocked.unlink()
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("InternalServerError: ")


class FullDisk:
    """Storage on a machine whose disk is full."""

    def fetch_object(self, url: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    channel = Channel("train", "s3://bucket/data", False, False, "File", None)
    with pytest.raises(ChannelError, match="channel train: the disk of this machine is full"):
        download([("s3://bucket/data/a", "a")], channel, tmp_path, FullDisk(), lambda: None)


def test_objects_that_cannot_be_files_beside_each_other(server: LocalServer) -> None:
    put(server, "clash/code/train.py", "")
    put(server, "clash/code/a", "file")
    put(server, "clash/code/a/b", "file below a file")
    described = train(server, "clash")
    assert described["FailureReason"].startswith("ClientError: Data download failed: channel code: ")


def test_a_server_that_stops_ends_its_jobs_at_once(state: Path) -> None:
    server = start(state)
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('runs', flush=True)\n"
    script += "time.sleep(1000)"
    create(server, "ended", script)
    wait_for_line(server, "ended", "runs")
    assert "training job ended: Training" in command("status", state=state).stdout
    processes = psutil.Process(server.record()["pid"]).children(recursive=True)
    assert processes
    command("stop", state=state)
    assert not psutil.wait_procs(processes, timeout=10)[1]
    assert not list((state / "training").iterdir()) and not list((state / "training-records").iterdir())


def test_jobs_of_a_killed_server_are_listed_as_failed(state: Path) -> None:
    server = start(state)
    create(
        server, "lost", "import time\nprint('runs', flush=True)\ntime.sleep(1000)", Tags=[{"Key": "lab", "Value": "2"}]
    )
    train(server, "done")
    wait_for_line(server, "lost", "runs")
    before = describe(server, "lost")
    pid = server.record()["pid"]
    processes = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    assert not psutil.wait_procs(processes, timeout=20)[1]
    server = start(state)
    listed = server.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in listed] == ["lost"]
    after = describe(server, "lost")
    assert after["TrainingJobStatus"] == "Failed"
    assert after["FailureReason"].startswith("InternalServerError: The local SageMaker was killed while this job")
    logs = Path(after["FailureReason"].rpartition(": ")[2])
    assert [path.read_text() for path in logs.iterdir()] == ["runs\n"]
    assert after["CreationTime"] == before["CreationTime"]
    assert statuses(after) == ["Starting", "Downloading", "Training", "Failed"]
    tags = server.client("sagemaker").list_tags(ResourceArn=after["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "lab", "Value": "2"}]
    assert not (state / "training" / "lost").exists()
