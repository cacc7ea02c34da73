"""Training jobs under boto3: what they are given, say, leave, how they end, and what is refused."""

from __future__ import annotations

import datetime
import json
import os
import re
from typing import Any

import psutil
import pytest
from front_support import ACCOUNT, BUCKET, ROLE, LocalServer, error_of
from training_support import (
    TRAINING_IMAGE,
    channel,
    create,
    describe,
    keys_below,
    log_of,
    model_of,
    put,
    read,
    request_for,
    statuses,
    train,
    unpack,
    wait_for,
    wait_for_line,
)

LOOK_AROUND = """
import json, os, pathlib
ml = pathlib.Path("/opt/ml")
found = {str(path.relative_to(ml)): path.read_text() for path in (ml / "input/data").rglob("*") if path.is_file()}
config = {path.stem: json.loads(path.read_text()) for path in (ml / "input/config").iterdir()}
print(json.dumps({"files": found, "config": config, "environment": dict(os.environ), "folder": os.getcwd()}))
"""
WRITE = """
import os, pathlib
print("loss=0.75 step=1")
print("loss=0.25 step=2, loss=nan")
for name in ("model/weights.bin", "model/code/inference.py", "output/data/metrics.json"):
    path = pathlib.Path("/opt/ml", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
os.symlink("weights.bin", "/opt/ml/model/link.bin")
os.symlink("/etc/hosts", "/opt/ml/model/outside")
os.mkfifo("/opt/ml/model/pipe")
"""


def seen(server: LocalServer, name: str, host: str = "algo-1") -> dict[str, Any]:
    """What LOOK_AROUND printed."""
    return json.loads("".join(log_of(server, name, host)))


@pytest.fixture(scope="module")
def written(server: LocalServer) -> dict[str, Any]:
    """The description of a job that has run WRITE."""
    metrics = [
        {"Name": "loss", "Regex": r"loss=(\S+)"},
        {"Name": "step", "Regex": r"step=(\d+)"},
        {"Name": "never", "Regex": r"accuracy=(\d+)"},
    ]
    return train(
        server,
        "Writes-1",
        WRITE,
        algorithm={"MetricDefinitions": metrics},
        HyperParameters={"epochs": "3"},
        Environment={"GREETING": "hello"},
        Tags=[{"Key": "lab", "Value": "2"}],
    )


def test_what_a_finished_job_says_about_itself(server: LocalServer, written: dict[str, Any]) -> None:
    assert written["TrainingJobStatus"] == written["SecondaryStatus"] == "Completed"
    assert written["TrainingJobArn"] == f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/writes-1"
    assert statuses(written) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    steps = written["SecondaryStatusTransitions"]
    assert all(step["EndTime"] == after["StartTime"] for step, after in zip(steps, steps[1:], strict=False))
    assert all(step["StatusMessage"] for step in steps)
    times = ("CreationTime", "TrainingStartTime", "TrainingEndTime")
    assert sorted(times, key=written.__getitem__) == list(times)
    assert written["LastModifiedTime"] >= written["TrainingEndTime"]
    assert written["TrainingTimeInSeconds"] == written["BillableTimeInSeconds"] == 1
    assert written["HyperParameters"] == {"epochs": "3"}
    assert written["Environment"] == {"GREETING": "hello"}
    assert written["ResourceConfig"]["InstanceType"] == "ml.m5.xlarge"
    assert written["StoppingCondition"] == {"MaxRuntimeInSeconds": 50}
    assert written["EnableManagedSpotTraining"] is False
    assert "FailureReason" not in written
    tags = server.client("sagemaker").list_tags(ResourceArn=written["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "lab", "Value": "2"}]


def test_the_metrics_of_a_job(server: LocalServer, written: dict[str, Any]) -> None:
    last = {metric["MetricName"]: metric["Value"] for metric in written["FinalMetricDataList"]}
    assert last == {"loss": 0.25, "step": 2.0}
    now = datetime.datetime.now(datetime.UTC)
    statistics = server.client("cloudwatch").get_metric_statistics(
        Namespace="/aws/sagemaker/TrainingJobs",
        MetricName="loss",
        Dimensions=[{"Name": "TrainingJobName", "Value": "Writes-1"}],
        StartTime=now - datetime.timedelta(hours=1),
        EndTime=now + datetime.timedelta(hours=1),
        Period=7200,
        Statistics=["SampleCount", "Average"],
    )
    assert [(point["SampleCount"], point["Average"]) for point in statistics["Datapoints"]] == [(2.0, 0.5)]


def test_the_artifacts_of_a_job(server: LocalServer, written: dict[str, Any]) -> None:
    url = f"s3://{BUCKET}/jobs/Writes-1/output"
    assert written["ModelArtifacts"] == {"S3ModelArtifacts": f"{url}/model.tar.gz"}
    assert model_of(server, written) == {
        "weights.bin": b"model/weights.bin",
        "link.bin": b"model/weights.bin",
        "code/inference.py": b"model/code/inference.py",
    }
    assert unpack(read(server, f"{url}/output.tar.gz")) == {"metrics.json": b"output/data/metrics.json"}
    kept = server.state / "artifacts" / "Writes-1"
    assert unpack((kept / "model.tar.gz").read_bytes()) == model_of(server, written)
    assert not (server.state / "training" / "Writes-1").exists()


def test_the_log_of_a_job(server: LocalServer, written: dict[str, Any]) -> None:
    streams = server.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="Writes-1/"
    )["logStreams"]
    name = streams[0]["logStreamName"]
    assert len(streams) == 1 and re.fullmatch(r"Writes-1/algo-1-\d{10}", name)
    lines = ["loss=0.75 step=1", "loss=0.25 step=2, loss=nan"]
    assert log_of(server, "Writes-1") == lines
    assert (server.state / "logs" / "training-jobs" / f"{name}.log").read_text().splitlines() == lines


def test_an_uncompressed_model(server: LocalServer) -> None:
    output = {"S3OutputPath": f"s3://{BUCKET}/jobs/", "CompressionType": "NONE"}
    described = train(server, "uncompressed", WRITE, OutputDataConfig=output)
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/jobs/uncompressed/output/model/"
    names = ("data/metrics.json", "model/code/inference.py", "model/link.bin", "model/weights.bin")
    assert keys_below(server, "jobs/uncompressed/") == [f"jobs/uncompressed/output/{name}" for name in names]


def test_what_a_container_is_given(server: LocalServer) -> None:
    put(server, "given/data/a.txt", "A")
    put(server, "given/data/deep/b.txt", "B")
    put(server, "given/data/", "")
    put(server, "given/data2/c.txt", "C")
    manifest = put(server, "given/manifest", json.dumps([{"prefix": f"s3://{BUCKET}/given/"}, "data/deep/b.txt"]))
    channels = [
        channel("folder", f"s3://{BUCKET}/given/data/"),
        channel("prefix", f"s3://{BUCKET}/given/data"),
        channel("one", f"s3://{BUCKET}/given/data/a.txt"),
        channel("listed", manifest, S3DataType="ManifestFile"),
        channel("fast", f"s3://{BUCKET}/given/data/deep", S3DataDistributionType="ShardedByS3Key")
        | {"InputMode": "FastFile", "ContentType": "text/plain"},
    ]
    described = train(
        server,
        "given",
        LOOK_AROUND,
        channels=channels,
        HyperParameters={"epochs": "3", "quoted": 'a "b" c'},
        Environment={"GREETING": "hello $HOME", "AWS_REGION": "eu-west-1"},
    )
    assert described["TrainingJobStatus"] == "Completed"
    result = seen(server, "given")
    files = {name: text for name, text in result["files"].items() if not name.startswith("input/data/code/")}
    assert files == {
        "input/data/folder/a.txt": "A",
        "input/data/folder/deep/b.txt": "B",
        "input/data/prefix/a.txt": "A",
        "input/data/prefix/deep/b.txt": "B",
        "input/data/prefix/data2/c.txt": "C",
        "input/data/one/a.txt": "A",
        "input/data/listed/data/deep/b.txt": "B",
        "input/data/fast/b.txt": "B",
    }
    config = result["config"]
    assert config["hyperparameters"] == {"epochs": "3", "quoted": 'a "b" c'}
    assert list(config["inputdataconfig"]) == ["code", "folder", "prefix", "one", "listed", "fast"]
    assert config["inputdataconfig"]["fast"] == {
        "ContentType": "text/plain",
        "TrainingInputMode": "FastFile",
        "S3DistributionType": "ShardedByS3Key",
        "RecordWrapperType": "None",
    }
    resources = config["resourceconfig"]
    assert (resources["current_host"], resources["hosts"]) == ("algo-1", ["algo-1"])
    assert resources["current_instance_type"] == "ml.m5.xlarge"
    environment = result["environment"]
    assert environment["TRAINING_JOB_NAME"] == "given"
    assert environment["TRAINING_JOB_ARN"] == described["TrainingJobArn"]
    assert environment["GREETING"] == "hello $HOME"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert environment["AWS_ENDPOINT_URL"] == server.values["AWS_ENDPOINT_URL"]
    assert not [name for name in environment if name.startswith("SM_")]
    assert result["folder"] == "/opt/ml" or result["folder"].endswith("/ml")


def test_hosts_share_the_objects_of_a_sharded_channel(server: LocalServer) -> None:
    for name in "abc":
        put(server, f"shards/{name}.txt", name)
    url = f"s3://{BUCKET}/shards/"
    described = train(
        server,
        "sharded",
        "import socket; print(socket.gethostbyname('algo-2'))" if os.uname().sysname == "Linux" else "",
        channels=[channel("all", url), channel("share", url, S3DataDistributionType="ShardedByS3Key")],
        algorithm={
            "ContainerEntrypoint": ["/bin/bash", "-c"],
            "ContainerArguments": [
                "cat /opt/ml/input/data/all/*.txt; echo; cat /opt/ml/input/data/share/*.txt; echo; "
                "echo $HOSTNAME > /opt/ml/model/$(ls /opt/ml/input/data/share | head -1)"
            ],
        },
        resources={"InstanceCount": 2},
    )
    assert described["TrainingJobStatus"] == "Completed"
    assert log_of(server, "sharded", "algo-1") == ["abc", "ac"]
    assert log_of(server, "sharded", "algo-2") == ["abc", "b"]
    assert sorted(model_of(server, described)) == ["a.txt", "b.txt"]


def test_listing(server: LocalServer, written: dict[str, Any]) -> None:
    client = server.client("sagemaker")
    names = [f"listed-{number}" for number in (2, 1, 3)]
    for name in names:
        create(server, name, "raise SystemExit(1)" if name == "listed-3" else "")
    described = [wait_for(server, name) for name in names]

    def listed(**request: Any) -> list[str]:
        pages = client.get_paginator("list_training_jobs").paginate(NameContains="listed-", **request)
        return [job["TrainingJobName"] for found in pages for job in found["TrainingJobSummaries"]]

    assert listed() == listed(MaxResults=1) == names
    assert listed(SortBy="Name", SortOrder="Descending") == ["listed-3", "listed-2", "listed-1"]
    assert listed(SortBy="Status", MaxResults=2) == ["listed-1", "listed-2", "listed-3"]
    assert listed(StatusEquals="Failed") == ["listed-3"]
    assert listed(StatusEquals="InProgress") == []
    assert listed(CreationTimeAfter=described[1]["CreationTime"]) == names[1:]
    first = client.list_training_jobs(NameContains="listed-", MaxResults=1)
    summary = first["TrainingJobSummaries"][0]
    assert summary["TrainingJobStatus"] == summary["SecondaryStatus"] == "Completed"
    assert summary["TrainingEndTime"] == described[0]["TrainingEndTime"]
    token = first["NextToken"]
    assert error_of(client.list_training_jobs, NextToken=token)[0] == "ValidationException"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "import sys; print('no such column: txet', file=sys.stderr); sys.exit(3)",
            "no such column: txet, exit code: 3",
        ),
        ("raise ValueError('two\\nlines')", "ValueError: two\nlines, exit code: 1"),
        ("open('/opt/ml/output/failure', 'w').write('no data'); raise KeyError('x')", "no data, exit code: 1"),
        ("import os; os.kill(os.getpid(), 9)", ", exit code: 137"),
        ("open('/opt/ml/output/failure', 'w').write('x' * 5000); exit(1)", None),
    ],
)
def test_why_a_job_failed(server: LocalServer, request: pytest.FixtureRequest, script: str, reason: str | None) -> None:
    name = f"fails-{request.node.callspec.indices['reason']}"
    script = (
        "import os; os.makedirs('/opt/ml/output/data', exist_ok=True); open('/opt/ml/output/data/x', 'w')\n" + script
    )
    described = train(server, name, script)
    assert described["TrainingJobStatus"] == described["SecondaryStatus"] == "Failed"
    assert statuses(described) == ["Starting", "Downloading", "Training", "Failed"]
    if reason is None:
        assert len(described["FailureReason"]) == 1024
        assert described["FailureReason"].endswith("x, exit code: 1")
    else:
        assert described["FailureReason"] == f"AlgorithmError: {reason}"
    assert keys_below(server, f"jobs/{name}/") == [f"jobs/{name}/output/output.tar.gz"]


def test_a_command_that_does_not_exist(server: LocalServer) -> None:
    described = train(server, "no-command", algorithm={"ContainerEntrypoint": ["no-such-command"]})
    assert described["TrainingJobStatus"] == "Failed"
    assert "cannot start no-such-command" in described["FailureReason"]


def test_the_first_host_that_fails_ends_the_job(server: LocalServer) -> None:
    script = """
import json, time
if json.load(open("/opt/ml/input/config/resourceconfig.json"))["current_host"] == "algo-2":
    raise RuntimeError("algo-2 gives up")
time.sleep(1000)
"""
    described = train(server, "two-hosts", script, resources={"InstanceCount": 2})
    assert described["FailureReason"] == "AlgorithmError: RuntimeError: algo-2 gives up, exit code: 1"


FORKS = """
import os, subprocess, sys, time
for number in range(2):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", MARK], start_new_session=number == 1)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
print("forked")
"""


def marked_processes(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]


def test_processes_that_outlive_the_script_end_with_the_job(server: LocalServer) -> None:
    described = train(server, "forks", f"MARK = 'mark-forks'\n{FORKS}")
    assert described["TrainingJobStatus"] == "Completed"
    assert log_of(server, "forks") == ["forked"]
    assert not marked_processes("mark-forks")


def test_stopping_a_job_lets_it_save_its_model(server: LocalServer) -> None:
    script = f"""
import signal, sys, time
MARK = 'mark-stopped'
def save(*_):
    time.sleep(0.3)  # longer than the shell in front of it lives
    open("/opt/ml/model/saved", "w").write("in time")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
{FORKS}
time.sleep(1000)
"""
    command = ["/bin/bash", "-c", "python3 /opt/ml/input/data/code/train.py; true"]
    create(server, "stopped", script, algorithm={"ContainerEntrypoint": command})
    wait_for_line(server, "stopped", "forked")
    client = server.client("sagemaker")
    client.stop_training_job(TrainingJobName="stopped")
    during = describe(server, "stopped")
    assert during["TrainingJobStatus"] in ("Stopping", "Stopped")
    described = wait_for(server, "stopped")
    assert described["TrainingJobStatus"] == described["SecondaryStatus"] == "Stopped"
    assert statuses(described) == ["Starting", "Downloading", "Training", "Stopping", "Uploading", "Stopped"]
    assert "FailureReason" not in described
    assert model_of(server, described) == {"saved": b"in time"}
    assert not marked_processes("mark-stopped")
    code, message, _ = error_of(client.stop_training_job, TrainingJobName="stopped")
    assert (code, message) == (
        "ValidationException",
        "The request was rejected because the training job is in status Stopped.",
    )


def test_a_job_that_hangs_is_ended_at_its_limit(server: LocalServer) -> None:
    script = "import time\nprint('hanging')\nwhile True: time.sleep(1)"
    described = train(server, "hangs", script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert described["TrainingJobStatus"] == "Stopped"
    assert described["SecondaryStatus"] == "MaxRuntimeExceeded"
    assert log_of(server, "hangs") == ["hanging"]
    assert keys_below(server, "jobs/hangs/") == []


def test_a_regular_expression_that_never_ends_does_not_hold_the_job_up(server: LocalServer) -> None:
    metrics = [{"Name": "slow", "Regex": r"(a|aa)+$"}, {"Name": "loss", "Regex": r"loss=([0-9.]+)"}]
    script = "print('a' * 5000 + 'b'); print('loss=0.5')"
    described = train(server, "slow-regex", script, algorithm={"MetricDefinitions": metrics})
    assert [metric["MetricName"] for metric in described["FinalMetricDataList"]] == ["loss"]
    assert "metric slow takes too long" in log_of(server, "slow-regex")[-2]


def spot(**changes: Any) -> dict[str, Any]:
    return {"EnableManagedSpotTraining": True, "StoppingCondition": {"MaxRuntimeInSeconds": 5} | changes}


REFUSED = {
    "instance type": ({"resources": {"InstanceType": "ml.huge.xlarge"}}, "enum value set"),
    "no instances": ({"resources": {"InstanceCount": 0}}, "InstanceCount must be given"),
    "image of no registry": ({"algorithm": {"TrainingImage": "pytorch:latest"}}, "not the URI of an image"),
    "unknown image": (
        {"algorithm": {"TrainingImage": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/my-own:1"}},
        "Cannot find repository: my-own in registry ID",
    ),
    "image without tag": ({"algorithm": {"TrainingImage": TRAINING_IMAGE.partition(":")[0]}}, "not found"),
    "empty input": ({"channels": [channel("train", f"s3://{BUCKET}/nothing/")]}, "No S3 objects found"),
    "no such bucket": ({"channels": [channel("train", "s3://no-such-bucket/x")]}, "No S3 objects found"),
    "no manifest": (
        {"channels": [channel("train", f"s3://{BUCKET}/none", S3DataType="ManifestFile")]},
        "is not a JSON list",
    ),
    "same channel twice": ({"channels": [channel("CODE", f"s3://{BUCKET}/")]}, "must be unique"),
    "channel that leads out": ({"channels": [channel("..", f"s3://{BUCKET}/")]}, "cannot be the name of a channel"),
    "pipe": ({"algorithm": {"TrainingInputMode": "Pipe"}}, "input mode Pipe"),
    "unknown role": ({"RoleArn": ROLE + "-other"}, "Could not assume role"),
    "no output bucket": ({"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/x"}}, "does not exist"),
    "output is no S3": ({"OutputDataConfig": {"S3OutputPath": "https://host/x"}}, "must be an s3:// URL"),
    "key": ({"OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}", "KmsKeyId": "k"}}, "KmsKeyId"),
    "nothing to run": ({"algorithm": {"ContainerEntrypoint": None}}, "sagemaker_program"),
    "regular expression": (
        {"algorithm": {"MetricDefinitions": [{"Name": "loss", "Regex": "loss=("}]}},
        "regular expression of metric loss is not valid",
    ),
    "metric twice": (
        {"algorithm": {"MetricDefinitions": [{"Name": "loss", "Regex": "a"}] * 2}},
        "Metric names must be unique",
    ),
    "network": ({"VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["s-1"]}}, "VpcConfig"),
    "isolation": ({"EnableNetworkIsolation": True}, "EnableNetworkIsolation"),
    "checkpoints outside": (
        {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/c", "LocalPath": "/tmp/checkpoints"}},
        "below /opt/ml",
    ),
    "wait without spot": ({"StoppingCondition": {"MaxWaitTimeInSeconds": 9}}, "EnableManagedSpotTraining"),
    "spot without wait": (spot(), "MaxWaitTimeInSeconds must be given"),
    "spot waits too briefly": (spot(MaxWaitTimeInSeconds=4), "equal to or greater than MaxRuntimeInSeconds"),
    "warm pool of spot": (
        spot(MaxWaitTimeInSeconds=9) | {"resources": {"KeepAlivePeriodInSeconds": 60}},
        "not supported with managed spot",
    ),
    "too many instances": ({"resources": {"InstanceCount": 21}}, "service limit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_creation(server: LocalServer, case: str) -> None:
    changes, message = REFUSED[case]
    request = request_for(server, "refused", **json.loads(json.dumps(changes)))
    algorithm = request["AlgorithmSpecification"]
    request["AlgorithmSpecification"] = {name: value for name, value in algorithm.items() if value is not None}
    code, text, status = error_of(server.client("sagemaker").create_training_job, **request)
    assert code == ("ResourceLimitExceeded" if case == "too many instances" else "ValidationException")
    assert message in text and status == 400
    assert error_of(describe, server=server, name="refused")[1] == "Requested resource not found."


def test_a_name_is_taken_for_ever(server: LocalServer, written: dict[str, Any]) -> None:
    client = server.client("sagemaker")
    code, message, status = error_of(client.create_training_job, **request_for(server, "Writes-1"))
    assert (code, status) == ("ResourceInUse", 400)
    assert written["TrainingJobArn"] in message
    for operation in (client.describe_training_job, client.stop_training_job):
        assert error_of(operation, TrainingJobName="no-such-job")[:2] == (
            "ValidationException",
            "Requested resource not found.",
        )
