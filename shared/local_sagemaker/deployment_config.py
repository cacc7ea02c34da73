"""DeploymentConfig: how an update moves an endpoint's traffic from the old fleet to the new one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .faults import validation_exception
from .models import refuse_unsupported


@dataclass(frozen=True)
class TrafficShift:
    """The steps of an update: `shares` of the traffic for the new fleet, the last one 1.0. Times in seconds.

    After each step comes a baking period; an alarm of `alarms` in it takes the update back.
    """

    shares: tuple[float, ...] = (1.0,)
    baking_seconds: float = 0.0
    termination_wait_seconds: float = 0.0
    timeout_seconds: float = 14_400.0
    alarms: tuple[str, ...] = ()


def traffic_shift(config: dict[str, Any] | None, instance_counts: list[int]) -> TrafficShift:
    """The steps that a DeploymentConfig asks for, of an endpoint whose variants have those instance counts.

    Without one all traffic moves at once. Raises the ValidationException fault for what the API reference rules out:
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeploymentConfig.html
    """
    config = config or {}
    if "BlueGreenUpdatePolicy" in config and "RollingUpdatePolicy" in config:
        raise validation_exception("Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy can be specified.")
    alarms = tuple(alarm["AlarmName"] for alarm in config.get("AutoRollbackConfiguration", {}).get("Alarms", []))
    if "RollingUpdatePolicy" in config:
        return _rolling(config["RollingUpdatePolicy"], instance_counts, alarms)
    if "BlueGreenUpdatePolicy" in config:
        return _blue_green(config["BlueGreenUpdatePolicy"], instance_counts, alarms)
    return TrafficShift(alarms=alarms)


def _blue_green(policy: dict[str, Any], instance_counts: list[int], alarms: tuple[str, ...]) -> TrafficShift:
    routing = policy["TrafficRoutingConfiguration"]
    kind = routing["Type"]
    wanted = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    if wanted is not None and wanted not in routing:
        raise validation_exception(f"{wanted} must be specified for traffic routing type {kind}.")
    refused = [member for member in ("CanarySize", "LinearStepSize") if member in routing and member != wanted]
    if refused:
        raise validation_exception(f"{refused[0]} cannot be specified for traffic routing type {kind}.")
    if kind == "CANARY":
        shares: tuple[float, ...] = (_share(routing["CanarySize"], "CanarySize", 0, instance_counts), 1.0)
    elif kind == "LINEAR":
        shares = _equal_steps(_share(routing["LinearStepSize"], "LinearStepSize", 10, instance_counts))
    else:
        shares = (1.0,)
    return _timed(
        policy,
        TrafficShift(shares, routing["WaitIntervalInSeconds"], policy.get("TerminationWaitInSeconds", 0)),
        alarms,
    )


def _rolling(policy: dict[str, Any], instance_counts: list[int], alarms: tuple[str, ...]) -> TrafficShift:
    refuse_unsupported(policy, ("RollbackMaximumBatchSize",), "RollingUpdatePolicy")
    if len(instance_counts) > 1:
        raise validation_exception("A RollingUpdatePolicy cannot be used with several production variants.")
    share = _share(policy["MaximumBatchSize"], "MaximumBatchSize", 5, instance_counts)
    return _timed(policy, TrafficShift(_equal_steps(share), policy["WaitIntervalInSeconds"]), alarms)


def _timed(policy: dict[str, Any], shift: TrafficShift, alarms: tuple[str, ...]) -> TrafficShift:
    timeout = policy.get("MaximumExecutionTimeoutInSeconds", TrafficShift.timeout_seconds)
    waiting = shift.termination_wait_seconds + shift.baking_seconds * len(shift.shares)
    if timeout <= waiting:
        raise validation_exception(
            f"MaximumExecutionTimeoutInSeconds ({timeout:.0f}) must be larger than the total waiting time of the "
            f"deployment ({waiting:.0f})."
        )
    return TrafficShift(shift.shares, shift.baking_seconds, shift.termination_wait_seconds, timeout, alarms)


def _share(size: dict[str, Any], member: str, least_percent: int, instance_counts: list[int]) -> float:
    if size["Type"] == "CAPACITY_PERCENT":
        percent = float(size["Value"])
    else:
        percent = max(100.0 * size["Value"] / count for count in instance_counts)
    if not least_percent <= percent <= 50:
        raise validation_exception(
            f"{member} must be {least_percent} to 50 percent of a variant's total instance count, not {percent:g}."
        )
    return percent / 100


def _equal_steps(share: float) -> tuple[float, ...]:
    steps = math.ceil(round(1 / share, 9))
    return (*(step * share for step in range(1, steps)), 1.0)
