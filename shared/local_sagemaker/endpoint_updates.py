"""UpdateEndpoint, UpdateEndpointWeightsAndCapacities."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .context import Context, Operation
from .deployment_config import TrafficShift, traffic_shift
from .endpoint_configs import ENDPOINT_CONFIG
from .endpoints import (
    ENDPOINT,
    IN_PROGRESS,
    check_alarms,
    check_capacity,
    new_deployment,
    set_status,
    variant_plan,
    variant_summaries,
    write_status,
)
from .faults import validation_exception
from .models import refuse_unsupported
from .records import Record

if TYPE_CHECKING:
    from .hosting import Deployment, VariantPlan

_PAUSE_SECONDS = 0.2

log = logging.getLogger(__name__)


class _RollBack(Exception):
    """An update cannot go on; the message is the endpoint's FailureReason."""


def _updatable(context: Context, name: str) -> Record:
    record = context.store.get(ENDPOINT, name)
    status = record.fields["EndpointStatus"]
    if status in IN_PROGRESS:
        raise validation_exception(f'Cannot update in-progress endpoint "{record.arn}".')
    if status != "InService":
        raise validation_exception(
            f'Cannot update endpoint "{record.arn}" in status {status}. It can only be deleted with DeleteEndpoint.'
        )
    return record


def _update_endpoint(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = _updatable(context, request["EndpointName"])
        config = context.store.get(ENDPOINT_CONFIG, request["EndpointConfigName"])
        # AWS reads the old configuration too, and refuses where it was deleted.
        context.store.get(ENDPOINT_CONFIG, record.fields["EndpointConfigName"])
        variants = config.fields["ProductionVariants"]
        plans = _with_retained([variant_plan(context, variant) for variant in variants], record, request)
        deployment_config = _deployment_config(record, request)
        counts = [plan.instance_count for plan in plans]
        shift = traffic_shift(deployment_config, counts)
        check_alarms(context, shift.alarms)
        _check_variant_names(record, plans, shift)
        check_capacity(context, sum(counts), variants[0]["InstanceType"])
        summaries = variant_summaries(variants, plans)
        update = _Update(context, record, config.name, deployment_config, shift, summaries)
        update.begin(plans)
    return {"EndpointArn": record.arn}


def _with_retained(plans: list[VariantPlan], record: Record, request: dict[str, Any]) -> list[VariantPlan]:
    if not request.get("RetainAllVariantProperties"):
        return plans
    excluded = {given["VariantPropertyType"] for given in request.get("ExcludeRetainedVariantProperties", [])}
    current = {summary["VariantName"]: summary for summary in record.fields["ProductionVariants"]}
    retained = []
    for plan in plans:
        if plan.name in current:
            summary = current[plan.name]
            if "DesiredInstanceCount" not in excluded:
                plan = dataclasses.replace(plan, instance_count=summary["DesiredInstanceCount"])
            if "DesiredWeight" not in excluded:
                plan = dataclasses.replace(plan, weight=summary["DesiredWeight"])
        retained.append(plan)
    return retained


def _deployment_config(record: Record, request: dict[str, Any]) -> dict[str, Any] | None:
    if not request.get("RetainDeploymentConfig"):
        return request.get("DeploymentConfig")
    if "DeploymentConfig" in request:
        raise validation_exception("DeploymentConfig cannot be given when RetainDeploymentConfig is true.")
    return record.fields.get("LastDeploymentConfig")


def _check_variant_names(record: Record, plans: list[VariantPlan], shift: TrafficShift) -> None:
    old = {summary["VariantName"] for summary in record.fields["ProductionVariants"]}
    if len(shift.shares) > 1 and old != {plan.name for plan in plans}:
        raise validation_exception(
            "To shift traffic in steps, the new endpoint configuration must have the same production variant names as "
            f"the old one: {', '.join(sorted(old))}."
        )


class _Update:
    """A blue/green update: starts the new fleet, moves the traffic, ends the old fleet, or takes it all back."""

    def __init__(
        self,
        context: Context,
        record: Record,
        config_name: str,
        deployment_config: dict[str, Any] | None,
        shift: TrafficShift,
        summaries: list[dict[str, Any]],
    ) -> None:
        self._context = context
        self._record = record
        self._fleets = context.fleets[record.arn]
        self._config_name = config_name
        self._deployment_config = deployment_config
        self._shift = shift
        self._summaries = summaries
        self._deadline = time.monotonic() + shift.timeout_seconds
        self._changed = threading.Event()
        self._in_service = False
        self._failure: str | None = None
        self._done = False

    def begin(self, plans: list[VariantPlan]) -> None:
        """Start the new fleet; returns at once. Hold the store's lock."""
        self._fleets.prepare(new_deployment(self._context, self._record, plans, self._on_status))
        write_status(self._record, "Updating")
        self._record.fields["PendingDeploymentSummary"] = {
            "EndpointConfigName": self._config_name,
            "ProductionVariants": self._summaries,
            "StartTime": self._record.modified,
        }
        self._stage("Creating")
        threading.Thread(target=self._run, name=f"update {self._record.name}", daemon=True).start()

    def _on_status(self, status: str, reason: str | None) -> None:
        """What the new fleet says, on one of its threads, for as long as it lives."""
        with self._context.store.lock:
            if not self._done:
                self._in_service = status == "InService"
                self._failure = reason
                self._changed.set()
                return
        set_status(self._context, self._record, status, reason)

    def _run(self) -> None:
        try:
            self._move_traffic()
            old = self._finish()
        except _RollBack as error:
            old = self._roll_back(str(error))
        self._fleets.retire(old)

    def _move_traffic(self) -> None:
        while not self._in_service:
            self._check()
            self._changed.wait(_PAUSE_SECONDS)
        for share in self._shift.shares:
            self._stage("ActivatingTraffic")
            self._fleets.shift(share)
            self._stage("Baking")
            self._check_alarms()
            for _ in self._waiting(self._shift.baking_seconds):
                self._check_alarms()
        for _ in self._waiting(self._shift.termination_wait_seconds):
            pass

    def _waiting(self, seconds: float) -> Iterator[None]:
        """Yields now and then for that long. Raises _RollBack."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._fleets.stopped.wait(min(left, _PAUSE_SECONDS))
            self._check()
            yield

    def _check(self) -> None:
        """Raise _RollBack where the update cannot go on."""
        if self._fleets.stopped.is_set():
            raise _RollBack("The local SageMaker was stopped.")
        if self._failure is not None:
            raise _RollBack(self._failure)
        if time.monotonic() > self._deadline:
            raise _RollBack(
                "The deployment took longer than its MaximumExecutionTimeoutInSeconds, "
                f"{self._shift.timeout_seconds:.0f}."
            )

    def _check_alarms(self) -> None:
        states = self._context.moto.alarm_states(self._shift.alarms)
        tripped = [name for name, state in states.items() if state == "ALARM"]
        if tripped:
            raise _RollBack(
                f"One or more CloudWatch alarms were in the ALARM state during the deployment: {', '.join(tripped)}. "
                "The traffic was rolled back to the old fleet."
            )

    def _stage(self, status: str) -> None:
        with self._context.store.lock:
            now = round(time.time(), 3)
            for summary in self._summaries:
                summary["VariantStatus"] = [{"Status": status, "StartTime": now}]
                summary["CurrentInstanceCount"] = 0 if status == "Creating" else summary["DesiredInstanceCount"]

    def _finish(self) -> Deployment:
        """The new fleet is the endpoint's; returns the old one."""
        self._context.telemetry.flush()
        with self._context.store.lock:
            if self._failure is not None:
                raise _RollBack(self._failure)
            old = self._fleets.succeed()
            self._done = True
            fields = self._record.fields
            del fields["PendingDeploymentSummary"]
            fields["EndpointConfigName"] = self._config_name
            for summary in self._summaries:
                del summary["VariantStatus"]
            fields["ProductionVariants"] = self._summaries
            fields.pop("LastDeploymentConfig", None)
            if self._deployment_config is not None:
                fields["LastDeploymentConfig"] = self._deployment_config
            write_status(self._record, "InService")
        log.info("endpoint %s is updated to %s", self._record.name, self._config_name)
        return old

    def _roll_back(self, reason: str) -> Deployment:
        """The old fleet serves on; returns the new one."""
        self._context.telemetry.flush()
        with self._context.store.lock:
            successor = self._fleets.withdraw()
            del self._record.fields["PendingDeploymentSummary"]
            if self._fleets.serving_failure is None:
                write_status(self._record, "InService", reason)
            else:
                write_status(self._record, "Failed", f"{self._fleets.serving_failure} The update failed too: {reason}")
                for summary in self._record.fields["ProductionVariants"]:
                    summary["CurrentInstanceCount"] = 0
        log.info("endpoint %s was not updated to %s: %s", self._record.name, self._config_name, reason)
        return successor


def _update_weights_and_capacities(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    wanted = {given["VariantName"]: given for given in request["DesiredWeightsAndCapacities"]}
    if len(wanted) < len(request["DesiredWeightsAndCapacities"]):
        raise validation_exception("Each production variant can be given once in DesiredWeightsAndCapacities.")
    with context.store.lock:
        record = _updatable(context, request["EndpointName"])
        summaries = {summary["VariantName"]: summary for summary in record.fields["ProductionVariants"]}
        for name, given in wanted.items():
            _check_wanted(record, summaries, name, given)
        weights = {name: given["DesiredWeight"] for name, given in wanted.items() if "DesiredWeight" in given}
        counts = {
            name: given["DesiredInstanceCount"] for name, given in wanted.items() if "DesiredInstanceCount" in given
        }
        if not any((weights.get(name, summary["CurrentWeight"])) > 0 for name, summary in summaries.items()):
            raise validation_exception("At least one production variant must have a weight above 0.")
        more = sum(max(0, count - summaries[name]["DesiredInstanceCount"]) for name, count in counts.items())
        check_capacity(context, more, _instance_type(context, record))
        fleet = context.fleets[record.arn].serving
        fleet.set_weights(weights)
        for name, weight in weights.items():
            summaries[name] |= {"CurrentWeight": weight, "DesiredWeight": weight}
        before = {name: summaries[name]["DesiredInstanceCount"] for name in counts}
        for name, count in counts.items():
            summaries[name]["DesiredInstanceCount"] = count
        write_status(record, "Updating")
    fleet.scale(counts, functools.partial(_scaled, context, record, before))
    return {"EndpointArn": record.arn}


def _check_wanted(record: Record, summaries: dict[str, dict[str, Any]], name: str, given: dict[str, Any]) -> None:
    if name not in summaries:
        raise validation_exception(
            f'The variant name(s) "{name}" is/are not present within endpoint configuration '
            f'"{record.fields["EndpointConfigName"]}".'
        )
    refuse_unsupported(given, ("ServerlessUpdateConfig",), "UpdateEndpointWeightsAndCapacities")
    if given.get("DesiredInstanceCount", 1) < 1:
        raise validation_exception(f"DesiredInstanceCount of production variant {name} must be at least 1.")


def _instance_type(context: Context, record: Record) -> str:
    config = context.store.find(context.store.arn(ENDPOINT_CONFIG, record.fields["EndpointConfigName"]))
    return config.fields["ProductionVariants"][0]["InstanceType"] if config else "instances"


def _scaled(context: Context, record: Record, before: dict[str, int], reason: str | None) -> None:
    """An endpoint's containers were started and ended, or for `reason` could not be."""
    context.telemetry.flush()
    with context.store.lock:
        if record.fields["EndpointStatus"] != "Updating":
            return
        for summary in record.fields["ProductionVariants"]:
            if reason is not None:
                summary["DesiredInstanceCount"] = before.get(summary["VariantName"], summary["DesiredInstanceCount"])
            summary["CurrentInstanceCount"] = summary["DesiredInstanceCount"]
        write_status(record, "InService", reason)
    log.info("endpoint %s is scaled%s", record.name, f" back: {reason}" if reason else "")


OPERATIONS: dict[str, Operation] = {
    "UpdateEndpoint": _update_endpoint,
    "UpdateEndpointWeightsAndCapacities": _update_weights_and_capacities,
}
