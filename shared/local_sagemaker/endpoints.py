"""CreateEndpoint, DescribeEndpoint, ListEndpoints, DeleteEndpoint."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .context import Context, Operation
from .deployment_config import traffic_shift
from .endpoint_configs import ENDPOINT_CONFIG
from .faults import Fault, validation_exception
from .models import MODEL, image_and_data
from .records import Kind, Record, page, select
from .state import ACCOUNT

if TYPE_CHECKING:
    from .fleets import Fleets
    from .hosting import Deployment, VariantPlan

ENDPOINT = Kind(noun="endpoint", arn_type="endpoint")

MAX_INSTANCES = 20
"""Instances of all endpoints together."""

IN_PROGRESS = ("Creating", "Updating", "RollingBack", "Deleting")
"""Endpoint statuses in which an endpoint can be neither updated nor deleted."""
_SERVING = ("InService", "Updating", "RollingBack")
_MAX_FAILURE_REASON = 1024

log = logging.getLogger(__name__)


def _create_endpoint(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    from .fleets import Fleets

    with context.store.lock:
        config = context.store.get(ENDPOINT_CONFIG, request["EndpointConfigName"])
        variants = config.fields["ProductionVariants"]
        plans = [variant_plan(context, variant) for variant in variants]
        counts = [plan.instance_count for plan in plans]
        check_alarms(context, traffic_shift(request.get("DeploymentConfig"), counts).alarms)
        check_capacity(context, sum(counts), variants[0]["InstanceType"])
        fields = {
            "EndpointConfigName": config.name,
            "EndpointStatus": "Creating",
            "ProductionVariants": variant_summaries(variants, plans),
        }
        if "DeploymentConfig" in request:
            fields["LastDeploymentConfig"] = request["DeploymentConfig"]
        record = context.store.create(ENDPOINT, request["EndpointName"], fields, request.get("Tags"))
        try:
            deployment = new_deployment(context, record, plans, functools.partial(set_status, context, record))
        except BaseException:
            context.store.delete(record)
            raise
        context.fleets[record.arn] = Fleets(deployment)
    context.endpoints_changed()
    deployment.start()
    return {"EndpointArn": record.arn}


def new_deployment(
    context: Context, record: Record, plans: list[VariantPlan], on_status: Callable[[str, str | None], None]
) -> Deployment:
    """A fleet for an endpoint, not started."""
    from .hosting import Deployment

    return Deployment(
        record.name,
        plans,
        region=context.region,
        account=ACCOUNT,
        state=context.state.root,
        fetch=context.moto.fetch_object,
        log=functools.partial(context.telemetry.log, record.name),
        on_status=on_status,
        container_environment=context.container_environment,
    )


def variant_plan(context: Context, variant: dict[str, Any]) -> VariantPlan:
    """What a production variant of an endpoint configuration shall run."""
    from .hosting import VariantPlan

    image, environment, model_data_url = image_and_data(context.store.get(MODEL, variant["ModelName"]))
    timeouts = {
        name: float(variant[member])
        for name, member in (
            ("startup_timeout", "ContainerStartupHealthCheckTimeoutInSeconds"),
            ("download_timeout", "ModelDataDownloadTimeoutInSeconds"),
        )
        if member in variant
    }
    return VariantPlan(
        name=variant["VariantName"],
        weight=variant["InitialVariantWeight"],
        instance_count=variant["InitialInstanceCount"],
        image=image,
        environment=dict(environment),
        model_data_url=model_data_url,
        **timeouts,
    )


def check_capacity(context: Context, wanted: int, instance_type: str) -> None:
    """Raise the ResourceLimitExceeded fault where `wanted` further instances are more than there may be."""
    used = sum(
        summary["DesiredInstanceCount"]
        for record in context.store.all(ENDPOINT)
        for summary in record.fields["ProductionVariants"]
        + record.fields.get("PendingDeploymentSummary", {}).get("ProductionVariants", [])
    )
    if used + wanted > MAX_INSTANCES:
        raise Fault(
            "ResourceLimitExceeded",
            f"The account-level service limit '{instance_type} for endpoint usage' is {MAX_INSTANCES} "
            f"Instances, with current utilization of {used} Instances and a request delta of {wanted} Instances. "
            "(The local SageMaker allows that many in all, whatever their type.)",
        )


def check_alarms(context: Context, names: Iterable[str]) -> None:
    """Raise the ValidationException fault where a CloudWatch alarm of a DeploymentConfig does not exist."""
    missing = [name for name, state in context.moto.alarm_states(names).items() if state is None]
    if missing:
        raise validation_exception(f"Could not find the CloudWatch alarms {', '.join(missing)} of DeploymentConfig.")


def variant_summaries(variants: list[dict[str, Any]], plans: list[VariantPlan]) -> list[dict[str, Any]]:
    """The ProductionVariants of an endpoint that is being made, as DescribeEndpoint gives them."""
    return [_variant_summary(variant, plan) for variant, plan in zip(variants, plans, strict=True)]


def _variant_summary(variant: dict[str, Any], plan: VariantPlan) -> dict[str, Any]:
    repository = plan.image.partition("@")[0]
    repository = repository[: repository.rfind(":")] if ":" in repository.rpartition("/")[2] else repository
    digest = hashlib.sha256(plan.image.encode()).hexdigest()
    summary = {
        "VariantName": plan.name,
        "DeployedImages": [
            {
                "SpecifiedImage": plan.image,
                "ResolvedImage": f"{repository}@sha256:{digest}",
                "ResolutionTime": round(time.time(), 3),
            }
        ],
        "CurrentWeight": plan.weight,
        "DesiredWeight": plan.weight,
        "CurrentInstanceCount": 0,
        "DesiredInstanceCount": plan.instance_count,
    }
    if "RoutingConfig" in variant:
        summary["RoutingConfig"] = variant["RoutingConfig"]
    return summary


def set_status(context: Context, record: Record, status: str, reason: str | None) -> None:
    """Note that the fleet that serves the endpoint is InService, or Failed for a reason."""
    # Whoever sees the new status must find the log lines that led to it.
    context.telemetry.flush()
    with context.store.lock:
        if record.fields["EndpointStatus"] == "Deleting":
            return
        fleets = context.fleets[record.arn]
        if status == "Failed" and fleets.updating:
            # The other fleet may still take over; the update decides.
            fleets.serving_failure = reason
            return
        write_status(record, status, reason)
        for summary in record.fields["ProductionVariants"]:
            summary["CurrentInstanceCount"] = summary["DesiredInstanceCount"] if status == "InService" else 0
    log.info("endpoint %s is %s%s", record.name, status, f": {reason}" if reason else "")


def write_status(record: Record, status: str, reason: str | None = None) -> None:
    """Give an endpoint that status and FailureReason; hold the store's lock."""
    record.fields["EndpointStatus"] = status
    record.fields.pop("FailureReason", None)
    if reason is not None:
        record.fields["FailureReason"] = reason[:_MAX_FAILURE_REASON]
    record.modified = round(time.time(), 3)


def _describe_endpoint(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = context.store.get(ENDPOINT, request["EndpointName"])
        return _summary(record) | record.fields


def _summary(record: Record) -> dict[str, Any]:
    return {
        "EndpointName": record.name,
        "EndpointArn": record.arn,
        "CreationTime": record.created,
        "LastModifiedTime": record.modified,
        "EndpointStatus": record.fields["EndpointStatus"],
    }


def _list_endpoints(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    records = select(context.store.all(ENDPOINT), request, status_member="EndpointStatus")
    return page(
        [_summary(record) for record in records], request, "Endpoints", key=lambda summary: summary["EndpointArn"]
    )


def _delete_endpoint(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = context.store.get(ENDPOINT, request["EndpointName"])
        if record.fields["EndpointStatus"] in IN_PROGRESS:
            raise validation_exception(f'Cannot update in-progress endpoint "{record.arn}".')
        record.fields["EndpointStatus"] = "Deleting"
        record.modified = round(time.time(), 3)
    threading.Thread(target=_remove, args=(context, record), name=f"delete {record.name}").start()
    return {}


def _remove(context: Context, record: Record) -> None:
    try:
        context.fleets[record.arn].stop()
    except Exception:
        log.exception("endpoint %s could not be stopped in order", record.name)
    context.telemetry.flush()
    context.telemetry.forget(record.name)
    context.fleets.pop(record.arn, None)
    context.store.delete(record)
    context.endpoints_changed()
    log.info("endpoint %s is deleted", record.name)


def find_in_service(context: Context, name: str) -> Fleets | None:
    """What serves the endpoint of exactly that name, where it is in service, else None."""
    arn = context.store.arn(ENDPOINT, name)
    record = context.store.find(arn)
    if record is None or record.name != name or record.fields["EndpointStatus"] not in _SERVING:
        return None
    return context.fleets.get(arn)


def stop_all(context: Context) -> None:
    """End every endpoint's processes; returns when they are gone."""
    everything = list(context.fleets.values())
    if everything:
        with ThreadPoolExecutor(len(everything)) as pool:
            list(pool.map(lambda fleets: fleets.stop(), everything))


def describe_all(context: Context) -> list[dict[str, str]]:
    """Name and status of every endpoint."""
    return [{"name": record.name, "status": record.fields["EndpointStatus"]} for record in context.store.all(ENDPOINT)]


OPERATIONS: dict[str, Operation] = {
    "CreateEndpoint": _create_endpoint,
    "DescribeEndpoint": _describe_endpoint,
    "ListEndpoints": _list_endpoints,
    "DeleteEndpoint": _delete_endpoint,
}
