"""What CreateTrainingJob refuses, beyond what the service model says."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import regex

from .channels import ChannelError, find_files
from .containers import ML_FOLDER
from .context import Context
from .faults import validation_exception
from .models import refuse_unsupported
from .training_metrics import compile_metric
from .training_plans import (
    DEFAULT_CHECKPOINT_FOLDER,
    DEFAULT_MAX_RUNTIME,
    DEFAULT_TENSORBOARD_FOLDER,
    channel_of,
)

_REGISTRY = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/(.+)", re.ASCII)
_IMAGE = re.compile(r"([a-z0-9][a-z0-9._/-]*)(?::([\w.-]{1,128})|@sha256:[0-9a-f]{64})?", re.ASCII)
# The AWS Deep Learning Containers. What they hold is taken to be what the Python of the server has.
_KNOWN_REPOSITORIES = re.compile(r"(huggingface-)?(pytorch|tensorflow|vllm|djl)(-[a-z]+)*")

_UNSUPPORTED = (
    "DebugRuleConfigurations",
    "ExperimentConfig",
    "MlflowConfig",
    "ModelPackageConfig",
    "ProfilerRuleConfigurations",
    "ServerlessJobConfig",
    "VpcConfig",
)
_UNSUPPORTED_RESOURCES = (
    "InstanceGroups",
    "InstancePlacementConfig",
    "InstancePreferences",
    "TrainingPlanArn",
    "VolumeKmsKeyId",
)
_UNSUPPORTED_CHANNEL = ("ShuffleConfig",)
_UNSUPPORTED_S3_SOURCE = ("AttributeNames", "HubAccessConfig", "InstanceGroupNames", "ModelAccessConfig")
_SWITCHES = {
    "EnableNetworkIsolation": (),
    "RemoteDebugConfig": ("EnableRemoteDebug",),
    "SessionChainingConfig": ("EnableSessionTagChaining",),
}
PROGRAM = "sagemaker_program"
OUTPUT_DEFAULTS = {"KmsKeyId": "", "CompressionType": "GZIP"}
"""What AWS describes of an OutputDataConfig that does not say it."""


def checked(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    """The request with AWS's defaults filled in. Raises the ValidationException fault for what cannot be run."""
    _refuse_members(request)
    algorithm = _checked_algorithm(request)
    resources = _checked_resources(request)
    stopping = _checked_stopping(request)
    context.moto.check_role(request["RoleArn"])
    channels = request.get("InputDataConfig", [])
    _check_channels(context, channels, algorithm["TrainingInputMode"], request["RoleArn"])
    _check_outputs(context, request)
    switches = ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining")
    return (
        dict.fromkeys(switches, False)
        | request
        | {
            "AlgorithmSpecification": algorithm,
            "ResourceConfig": resources,
            "StoppingCondition": stopping,
            "OutputDataConfig": OUTPUT_DEFAULTS | request["OutputDataConfig"],
        }
    )


def _refuse_members(request: dict[str, Any]) -> None:
    given = {name: value for name, value in request.items() if value not in ([], {})}
    refuse_unsupported(given, _UNSUPPORTED, "CreateTrainingJob")
    for name, members in _SWITCHES.items():
        value = given.get(name)
        if value is True or (isinstance(value, dict) and any(value.get(member) for member in members)):
            raise validation_exception(f"The local SageMaker does not support {name} in CreateTrainingJob.")
    for member in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if member not in request:
            raise validation_exception(f"{member} must be given to create a training job.")


def _checked_algorithm(request: dict[str, Any]) -> dict[str, Any]:
    algorithm = request["AlgorithmSpecification"]
    refuse_unsupported(algorithm, ("AlgorithmName",), "AlgorithmSpecification of CreateTrainingJob")
    if algorithm.get("TrainingImageConfig", {}).get("TrainingRepositoryAccessMode") == "Vpc":
        raise validation_exception("The local SageMaker does not support TrainingImageConfig in CreateTrainingJob.")
    if "TrainingImage" not in algorithm:
        raise validation_exception("You must specify either AlgorithmName or TrainingImage.")
    _check_image(algorithm["TrainingImage"])
    _check_input_mode(algorithm["TrainingInputMode"])
    if "ContainerEntrypoint" not in algorithm:
        if "ContainerArguments" in algorithm:
            raise validation_exception("ContainerArguments need a ContainerEntrypoint in the local SageMaker.")
        if PROGRAM not in request.get("HyperParameters", {}):
            raise validation_exception(
                "The local SageMaker cannot run what is in an image: give a ContainerEntrypoint, as the SageMaker "
                f"Python SDK v3 does, or the hyperparameters {PROGRAM} and sagemaker_submit_directory, as SDK v2 does."
            )
    names = [metric["Name"] for metric in algorithm.get("MetricDefinitions", [])]
    if len(set(names)) != len(names):
        raise validation_exception("Metric names must be unique within a training job.")
    for metric in algorithm.get("MetricDefinitions", []):
        try:
            compile_metric(metric["Regex"])
        except regex.error as error:
            raise validation_exception(
                f"The regular expression of metric {metric['Name']} is not valid: {error}."
            ) from None
    return {"EnableSageMakerMetricsTimeSeries": False} | algorithm


def _check_image(image: str) -> None:
    registry = _REGISTRY.fullmatch(image)
    parts = _IMAGE.fullmatch(registry[2]) if registry else None
    if registry is None or parts is None:
        raise validation_exception(f'Invalid TrainingImage "{image}": it is not the URI of an image in Amazon ECR.')
    if not _KNOWN_REPOSITORIES.fullmatch(parts[1]):
        raise validation_exception(
            f"Cannot find repository: {parts[1]} in registry ID: {registry[1]}. Please check if your ECR repository "
            "exists and role has proper pull permissions for SageMaker. (The local SageMaker knows the AWS Deep "
            "Learning Containers, such as huggingface-pytorch-training, and runs them in its own Python.)"
        )
    if "@" not in image and parts[2] is None:
        raise validation_exception(f"Requested image {image}:latest not found.")


def _check_input_mode(mode: str) -> None:
    if mode == "Pipe":
        raise validation_exception("The local SageMaker does not support the input mode Pipe; use File or FastFile.")


def _checked_resources(request: dict[str, Any]) -> dict[str, Any]:
    resources = {name: value for name, value in request["ResourceConfig"].items() if value != ""}
    refuse_unsupported(resources, _UNSUPPORTED_RESOURCES, "ResourceConfig of CreateTrainingJob")
    for member in ("InstanceType", "InstanceCount"):
        if not resources.get(member):
            raise validation_exception(f"{member} must be given in ResourceConfig, and above 0.")
    if resources.get("KeepAlivePeriodInSeconds") and request.get("EnableManagedSpotTraining"):
        raise validation_exception("KeepAlivePeriodInSeconds is not supported with managed spot training.")
    return resources


def _checked_stopping(request: dict[str, Any]) -> dict[str, Any]:
    stopping = {"MaxRuntimeInSeconds": DEFAULT_MAX_RUNTIME} | request["StoppingCondition"]
    wait = stopping.get("MaxWaitTimeInSeconds")
    if not request.get("EnableManagedSpotTraining"):
        if wait is not None:
            raise validation_exception(
                "MaxWaitTimeInSeconds can only be given when EnableManagedSpotTraining is set to true."
            )
        return stopping
    if wait is None:
        raise validation_exception("MaxWaitTimeInSeconds must be given with EnableManagedSpotTraining.")
    if wait < stopping["MaxRuntimeInSeconds"]:
        raise validation_exception(
            "Invalid MaxWaitTimeInSeconds. It must be equal to or greater than MaxRuntimeInSeconds."
        )
    return stopping


def _check_channels(context: Context, channels: list[dict[str, Any]], default_mode: str, role: str) -> None:
    names = [channel["ChannelName"].lower() for channel in channels]
    if len(set(names)) != len(names):
        raise validation_exception("Channel names must be unique within a training job.")
    for channel in channels:
        name = channel["ChannelName"]
        if name in (".", ".."):
            raise validation_exception(f"{name} cannot be the name of a channel.")
        refuse_unsupported(channel, _UNSUPPORTED_CHANNEL, f"channel {name}")
        for member in ("CompressionType", "RecordWrapperType"):
            if channel.get(member, "None") != "None":
                raise validation_exception(f"{member} of channel {name} needs the input mode Pipe; use None.")
        _check_input_mode(channel.get("InputMode", default_mode))
        source = channel["DataSource"].get("S3DataSource")
        if source is None:
            raise validation_exception(f"The local SageMaker reads channels from S3 only; channel {name} is not.")
        refuse_unsupported(source, _UNSUPPORTED_S3_SOURCE, f"S3DataSource of channel {name}")
        if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            raise validation_exception(
                f"The local SageMaker does not support S3DataType {source['S3DataType']} in channel {name}."
            )
        _check_input(context, channel, default_mode, role)


def _check_input(context: Context, channel: dict[str, Any], default_mode: str, role: str) -> None:
    url = channel["DataSource"]["S3DataSource"]["S3Uri"]
    _check_url(url, f"S3Uri of channel {channel['ChannelName']}")
    with tempfile.TemporaryDirectory(prefix="sagemaker-manifest-") as scratch:
        try:
            files = find_files(channel_of(channel, default_mode), context.moto, Path(scratch))
        except ChannelError as error:
            raise validation_exception(f"Data download failed: {error}") from None
    if not files:
        bucket = url.removeprefix("s3://").partition("/")[0]
        raise validation_exception(
            f'No S3 objects found under S3 URL "{url}" given in input data source. Please ensure that the bucket '
            f"exists in the selected region ({context.region}), that objects exist under that S3 prefix, and that the "
            f'role "{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
        )


def _check_outputs(context: Context, request: dict[str, Any]) -> None:
    output = request["OutputDataConfig"]
    if output.get("KmsKeyId"):
        raise validation_exception("The local SageMaker does not support KmsKeyId in OutputDataConfig.")
    urls = {"S3OutputPath of OutputDataConfig": output["S3OutputPath"]}
    folders = {}
    for member, url_member, default in (
        ("CheckpointConfig", "S3Uri", DEFAULT_CHECKPOINT_FOLDER),
        ("TensorBoardOutputConfig", "S3OutputPath", DEFAULT_TENSORBOARD_FOLDER),
    ):
        if member in request:
            urls[f"{url_member} of {member}"] = request[member][url_member]
            folders[f"LocalPath of {member}"] = request[member].get("LocalPath", default)
    for what, url in urls.items():
        _check_url(url, what)
        if not context.moto.bucket_exists(url):
            raise validation_exception(f"The bucket of {what}, {url}, does not exist.")
    for what, folder in folders.items():
        parts = Path(folder).parts
        if not folder.startswith(f"{ML_FOLDER}/") or ".." in parts or "input" in parts[3:4]:
            raise validation_exception(
                f"The local SageMaker needs a {what} below {ML_FOLDER} and outside {ML_FOLDER}/input, not {folder}."
            )


def _check_url(url: str, what: str) -> None:
    if not re.fullmatch(r"s3://[^/]+(/.*)?", url, re.DOTALL):
        raise validation_exception(f"{what} must be an s3:// URL, not {url}.")
