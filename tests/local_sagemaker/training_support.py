"""Training jobs made by boto3: created from a script, waited for, their artifacts and logs read."""

from __future__ import annotations

import io
import json
import tarfile
import time
from typing import Any

from front_support import BUCKET, ROLE, LocalServer

TRAINING_IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312"
)
ENDED = ("Completed", "Failed", "Stopped")
PATIENCE_SECONDS = 60.0


def channel(name: str, url: str, **source: str) -> dict[str, Any]:
    """A channel of InputDataConfig."""
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": url, **source}}}


def put(server: LocalServer, key: str, content: str | bytes) -> str:
    """Store an object; returns its URL."""
    server.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"


def request_for(server: LocalServer, name: str, script: str = "", **changes: Any) -> dict[str, Any]:
    """A CreateTrainingJob request that runs a Python script of a `code` channel; members of `changes` replace its."""
    put(server, f"{name}/code/train.py", script)
    channels = [channel("code", f"s3://{BUCKET}/{name}/code/"), *changes.pop("channels", [])]
    algorithm = {
        "TrainingImage": TRAINING_IMAGE,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/train.py"],
    } | changes.pop("algorithm", {})
    resources = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": algorithm,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/jobs"},
        "ResourceConfig": resources | changes.pop("resources", {}),
        "StoppingCondition": {"MaxRuntimeInSeconds": 50},
    } | changes


def create(server: LocalServer, name: str, script: str = "", **changes: Any) -> str:
    """Create a job; returns its ARN."""
    return server.client("sagemaker").create_training_job(**request_for(server, name, script, **changes))[
        "TrainingJobArn"
    ]


def describe(server: LocalServer, name: str) -> dict[str, Any]:
    """What DescribeTrainingJob answers."""
    return server.client("sagemaker").describe_training_job(TrainingJobName=name)


def wait_for(server: LocalServer, name: str, *statuses: str) -> dict[str, Any]:
    """The job's description once its status, or its secondary status, is one of `statuses`; by default at its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        described = describe(server, name)
        if described["TrainingJobStatus"] in ENDED or described["SecondaryStatus"] in statuses:
            return described
        time.sleep(0.02)
    raise AssertionError(f"training job {name} is still {described['SecondaryStatus']}: {log_of(server, name)[-20:]}")


def train(server: LocalServer, name: str, script: str = "", **changes: Any) -> dict[str, Any]:
    """Create a job and wait for its end."""
    create(server, name, script, **changes)
    return wait_for(server, name)


def log_of(server: LocalServer, name: str, host: str = "algo-1") -> list[str]:
    """What a host of the job has printed."""
    answer = server.client("logs").filter_log_events(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=f"{name}/{host}-"
    )
    return [event["message"] for event in answer["events"]]


def wait_for_line(server: LocalServer, name: str, line: str) -> None:
    """Wait until the job has printed that line."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        logs = server.client("logs")
        groups = logs.describe_log_groups(logGroupNamePrefix="/aws/sagemaker/TrainingJobs")["logGroups"]
        if groups and line in log_of(server, name):
            return
        time.sleep(0.05)
    raise AssertionError(f"training job {name} has not printed {line!r}, but {log_of(server, name)}")


def read(server: LocalServer, url: str) -> bytes:
    """The content of an S3 object."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return server.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()


def unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a .tar.gz."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def model_of(server: LocalServer, described: dict[str, Any]) -> dict[str, bytes]:
    """The files of the job's model.tar.gz."""
    return unpack(read(server, described["ModelArtifacts"]["S3ModelArtifacts"]))


def statuses(described: dict[str, Any]) -> list[str]:
    """The secondary statuses that the job went through."""
    return [step["Status"] for step in described["SecondaryStatusTransitions"]]


def keys_below(server: LocalServer, prefix: str) -> list[str]:
    """The keys of the default bucket that begin with `prefix`."""
    return [
        found["Key"] for found in server.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    ]


def sourcedir(files: dict[str, str]) -> bytes:
    """A sourcedir.tar.gz of text files, as SDK v2 uploads it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def as_json(value: Any) -> str:
    """A hyperparameter's value as SDK v2 writes it."""
    return json.dumps(value)
