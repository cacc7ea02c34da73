"""CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs, DeleteEndpointConfig."""

from __future__ import annotations

from typing import Any

from .context import Context, Operation
from .faults import validation_exception
from .models import MODEL, refuse_unsupported
from .records import Kind, page, select

ENDPOINT_CONFIG = Kind(noun="endpoint configuration", arn_type="endpoint-config")

_UNSUPPORTED = (
    "AsyncInferenceConfig",
    "ExplainerConfig",
    "ShadowProductionVariants",
    "ExecutionRoleArn",
    "VpcConfig",
    "KmsKeyId",
    "MetricsConfig",
)
_UNSUPPORTED_IN_VARIANT = (
    "ServerlessConfig",
    "AcceleratorType",
    "CoreDumpConfig",
    "EnableSSMAccess",
    "ManagedInstanceScaling",
    "InstancePools",
    "VariantInstanceProvisionTimeoutInSeconds",
    "CapacityReservationConfig",
)


def _create_endpoint_config(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    refuse_unsupported(request, _UNSUPPORTED, "CreateEndpointConfig")
    if request.get("EnableNetworkIsolation"):
        raise validation_exception(
            "The local SageMaker does not support EnableNetworkIsolation in CreateEndpointConfig."
        )
    if request.get("DataCaptureConfig", {}).get("EnableCapture"):
        raise validation_exception("The local SageMaker does not support DataCaptureConfig in CreateEndpointConfig.")
    variants = [_checked_variant(context, variant) for variant in request["ProductionVariants"]]
    names = [variant["VariantName"] for variant in variants]
    if len(set(names)) != len(names):
        raise validation_exception("Production variant names must be unique within an endpoint configuration.")
    if not any(variant["InitialVariantWeight"] > 0 for variant in variants):
        raise validation_exception("At least one production variant must have an InitialVariantWeight above 0.")
    fields = {"ProductionVariants": variants, "EnableNetworkIsolation": False}
    if "DataCaptureConfig" in request:
        fields["DataCaptureConfig"] = request["DataCaptureConfig"]
    record = context.store.create(ENDPOINT_CONFIG, request["EndpointConfigName"], fields, request.get("Tags"))
    return {"EndpointConfigArn": record.arn}


def _checked_variant(context: Context, variant: dict[str, Any]) -> dict[str, Any]:
    refuse_unsupported(variant, _UNSUPPORTED_IN_VARIANT, "a production variant")
    for member in ("ModelName", "InstanceType", "InitialInstanceCount"):
        if member not in variant:
            raise validation_exception(f"{member} must be given for production variant {variant['VariantName']}.")
    context.store.get(MODEL, variant["ModelName"])
    return {"InitialVariantWeight": 1.0} | variant


def _describe_endpoint_config(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    record = context.store.get(ENDPOINT_CONFIG, request["EndpointConfigName"])
    return {
        "EndpointConfigName": record.name,
        "EndpointConfigArn": record.arn,
        "CreationTime": record.created,
        **record.fields,
    }


def _list_endpoint_configs(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    summaries = [
        {"EndpointConfigName": record.name, "EndpointConfigArn": record.arn, "CreationTime": record.created}
        for record in select(context.store.all(ENDPOINT_CONFIG), request)
    ]
    return page(summaries, request, "EndpointConfigs", key=lambda summary: summary["EndpointConfigArn"])


def _delete_endpoint_config(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    context.store.delete(context.store.get(ENDPOINT_CONFIG, request["EndpointConfigName"]))
    return {}


OPERATIONS: dict[str, Operation] = {
    "CreateEndpointConfig": _create_endpoint_config,
    "DescribeEndpointConfig": _describe_endpoint_config,
    "ListEndpointConfigs": _list_endpoint_configs,
    "DeleteEndpointConfig": _delete_endpoint_config,
}
