"""What a training job shall do: a CreateTrainingJob request, checked and in terms of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEFAULT_MAX_RUNTIME = 86_400
DEFAULT_CHECKPOINT_FOLDER = "/opt/ml/checkpoints"
DEFAULT_TENSORBOARD_FOLDER = "/opt/ml/output/tensorboard"
INSTANCE_GROUP = "homogeneousCluster"


@dataclass(frozen=True)
class Channel:
    """One input: where its objects are, and how the hosts share them."""

    name: str
    url: str
    is_manifest: bool
    is_sharded: bool
    input_mode: str
    content_type: str | None

    def describe(self) -> dict[str, str]:
        """The channel as inputdataconfig.json has it."""
        described = {
            "TrainingInputMode": self.input_mode,
            "S3DistributionType": "ShardedByS3Key" if self.is_sharded else "FullyReplicated",
            "RecordWrapperType": "None",
        }
        return described if self.content_type is None else {"ContentType": self.content_type, **described}


@dataclass(frozen=True)
class FolderCopy:
    """A folder of the container that is copied to S3 while the job runs."""

    folder: str
    url: str


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that a job's containers need to know. Times in seconds.

    `entrypoint` is the command of the container; None leaves it to the image, whose place the training toolkit of this
    package takes. `max_wait` is None without managed spot training.
    """

    name: str
    arn: str
    image: str
    instance_type: str
    instance_count: int
    entrypoint: list[str] | None
    hyperparameters: dict[str, str]
    environment: dict[str, str]
    channels: list[Channel]
    output_url: str
    compress_output: bool
    checkpoints: FolderCopy | None
    tensorboard: FolderCopy | None
    metrics: list[tuple[str, str]]
    max_runtime: float
    max_wait: float | None
    max_retries: int
    keep_alive: float

    @property
    def hosts(self) -> list[str]:
        """The names of the hosts: algo-1, algo-2, ..."""
        return [f"algo-{number}" for number in range(1, self.instance_count + 1)]

    def resource_config(self, host: str, network_interface: str) -> dict[str, Any]:
        """What resourceconfig.json tells the container on `host`."""
        group = {
            "instance_group_name": INSTANCE_GROUP,
            "instance_type": self.instance_type,
            "hosts": self.hosts,
        }
        return {
            "current_host": host,
            "current_instance_type": self.instance_type,
            "current_group_name": INSTANCE_GROUP,
            "hosts": self.hosts,
            "instance_groups": [group],
            "network_interface_name": network_interface,
        }


def plan_of(request: dict[str, Any], arn: str) -> TrainingPlan:
    """The plan of a checked request."""
    algorithm = request["AlgorithmSpecification"]
    resources = request["ResourceConfig"]
    stopping = request["StoppingCondition"]
    output = request["OutputDataConfig"]
    entrypoint = algorithm.get("ContainerEntrypoint")
    return TrainingPlan(
        name=request["TrainingJobName"],
        arn=arn,
        image=algorithm["TrainingImage"],
        instance_type=resources["InstanceType"],
        instance_count=resources["InstanceCount"],
        entrypoint=None if entrypoint is None else [*entrypoint, *algorithm.get("ContainerArguments", [])],
        hyperparameters=request.get("HyperParameters", {}),
        environment=request.get("Environment", {}),
        channels=[
            channel_of(channel, algorithm["TrainingInputMode"]) for channel in request.get("InputDataConfig", [])
        ],
        output_url=f"{output['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/output",
        compress_output=output.get("CompressionType", "GZIP") == "GZIP",
        checkpoints=_folder_copy(request.get("CheckpointConfig"), "S3Uri", DEFAULT_CHECKPOINT_FOLDER),
        tensorboard=_folder_copy(request.get("TensorBoardOutputConfig"), "S3OutputPath", DEFAULT_TENSORBOARD_FOLDER),
        metrics=[(metric["Name"], metric["Regex"]) for metric in algorithm.get("MetricDefinitions", [])],
        max_runtime=float(stopping["MaxRuntimeInSeconds"]),
        max_wait=float(stopping["MaxWaitTimeInSeconds"]) if request.get("EnableManagedSpotTraining") else None,
        max_retries=request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0),
        keep_alive=float(resources.get("KeepAlivePeriodInSeconds", 0)),
    )


def channel_of(channel: dict[str, Any], default_mode: str) -> Channel:
    """The channel that a request's element describes; `default_mode` is the job's TrainingInputMode."""
    source = channel["DataSource"]["S3DataSource"]
    return Channel(
        name=channel["ChannelName"],
        url=source["S3Uri"],
        is_manifest=source["S3DataType"] == "ManifestFile",
        is_sharded=source.get("S3DataDistributionType") == "ShardedByS3Key",
        input_mode=channel.get("InputMode", default_mode),
        content_type=channel.get("ContentType"),
    )


def _folder_copy(config: dict[str, Any] | None, url_member: str, default_folder: str) -> FolderCopy | None:
    if config is None:
        return None
    return FolderCopy(config.get("LocalPath", default_folder).rstrip("/"), config[url_member].rstrip("/"))
