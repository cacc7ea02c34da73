"""CreateModel, DescribeModel, ListModels, DeleteModel."""

from __future__ import annotations

import re
from typing import Any

from .context import Context, Operation
from .faults import validation_exception
from .records import Kind, Record, page, select

MODEL = Kind(noun="model", arn_type="model")

_ECR_IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[a-z0-9][a-z0-9._/-]*(:[\w.-]+|@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_UNSUPPORTED = ("InferenceExecutionConfig", "VpcConfig")
_UNSUPPORTED_IN_CONTAINER = (
    "ImageConfig",
    "AdditionalModelDataSources",
    "ModelPackageName",
    "InferenceSpecificationName",
    "MultiModelConfig",
    "ContainerMetricsConfig",
)


def refuse_unsupported(request: dict[str, Any], members: tuple[str, ...], where: str) -> None:
    """Raise the ValidationException fault for members that AWS knows and the local SageMaker does not act on."""
    for member in members:
        if member in request:
            raise validation_exception(f"The local SageMaker does not support {member} in {where}.")


def _create_model(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    refuse_unsupported(request, _UNSUPPORTED, "CreateModel")
    if request.get("EnableNetworkIsolation"):
        raise validation_exception("The local SageMaker does not support EnableNetworkIsolation in CreateModel.")
    container = _container(request)
    if "ExecutionRoleArn" not in request:
        raise validation_exception("ExecutionRoleArn must be provided to create a model.")
    context.moto.check_role(request["ExecutionRoleArn"])
    fields = {
        "PrimaryContainer": _checked_container(context, container),
        "ExecutionRoleArn": request["ExecutionRoleArn"],
        "EnableNetworkIsolation": False,
    }
    record = context.store.create(MODEL, request["ModelName"], fields, request.get("Tags"))
    return {"ModelArn": record.arn}


def _container(request: dict[str, Any]) -> dict[str, Any]:
    if "PrimaryContainer" in request and "Containers" in request:
        raise validation_exception("PrimaryContainer and Containers cannot both be given.")
    if "PrimaryContainer" in request:
        return request["PrimaryContainer"]
    containers = request.get("Containers", [])
    if not containers:
        raise validation_exception("Either PrimaryContainer or Containers must be given.")
    if len(containers) > 1:
        raise validation_exception("The local SageMaker does not support models of more than one container.")
    return containers[0]


def _checked_container(context: Context, container: dict[str, Any]) -> dict[str, Any]:
    refuse_unsupported(container, _UNSUPPORTED_IN_CONTAINER, "a container of CreateModel")
    if container.get("Mode", "SingleModel") != "SingleModel":
        raise validation_exception("The local SageMaker does not support models of Mode MultiModel.")
    image = container.get("Image")
    if image is None:
        raise validation_exception("A container of a model must have an Image.")
    if not _ECR_IMAGE.fullmatch(image):
        raise validation_exception(
            f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.'
        )
    described = {"Mode": "SingleModel", "Environment": {}} | container
    url = _model_data_url(container)
    if url is not None:
        if not context.moto.object_exists(url):
            raise validation_exception(f"Could not find model data at {url}.")
        described["ModelDataUrl"] = url
        described["ModelDataSource"] = {
            "S3DataSource": {"S3Uri": url, "S3DataType": "S3Object", "CompressionType": "Gzip"}
        }
    return described


def _model_data_url(container: dict[str, Any]) -> str | None:
    url = container.get("ModelDataUrl")
    source = container.get("ModelDataSource")
    if source is not None:
        if url is not None:
            raise validation_exception("ModelDataUrl and ModelDataSource cannot both be given.")
        s3_source = source.get("S3DataSource", {})
        if (s3_source.get("S3DataType"), s3_source.get("CompressionType")) != ("S3Object", "Gzip"):
            raise validation_exception(
                "The local SageMaker supports model data of S3DataType S3Object with CompressionType Gzip only."
            )
        refuse_unsupported(
            s3_source, ("HubAccessConfig", "ManifestS3Uri", "ModelAccessConfig"), "S3DataSource of CreateModel"
        )
        url = s3_source["S3Uri"]
    if url is not None and (not url.startswith("s3://") or not url.endswith(".tar.gz")):
        raise validation_exception(f"Model data must be an s3:// URL of a .tar.gz archive, not {url}.")
    return url


def _describe_model(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    record = context.store.get(MODEL, request["ModelName"])
    return {
        "ModelName": record.name,
        "ModelArn": record.arn,
        "CreationTime": record.created,
        **record.fields,
    }


def _list_models(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    summaries = [
        {"ModelName": record.name, "ModelArn": record.arn, "CreationTime": record.created}
        for record in select(context.store.all(MODEL), request)
    ]
    return page(summaries, request, "Models", key=lambda summary: summary["ModelArn"])


def _delete_model(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    context.store.delete(context.store.get(MODEL, request["ModelName"]))
    return {}


def image_and_data(model: Record) -> tuple[str, dict[str, str], str | None]:
    """Image, environment and model data URL (or None) of a model."""
    container = model.fields["PrimaryContainer"]
    return container["Image"], container["Environment"], container.get("ModelDataUrl")


OPERATIONS: dict[str, Operation] = {
    "CreateModel": _create_model,
    "DescribeModel": _describe_model,
    "ListModels": _list_models,
    "DeleteModel": _delete_model,
}
