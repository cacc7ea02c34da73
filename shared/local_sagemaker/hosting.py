"""The containers behind one endpoint: started, watched, invoked, stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .container_client import (
    ContainerUnavailable,
    Invocation,
    InvocationError,
    InvocationTimeout,
    StreamBroken,
)
from .model_instances import ModelInstance, StartError, Surroundings, VariantPlan

__all__ = [
    "ContainerUnavailable",
    "Deployment",
    "Invocation",
    "InvocationError",
    "InvocationTimeout",
    "StreamBroken",
    "UnknownVariant",
    "VariantPlan",
]

# Each instance holds the model in memory once more; on one machine more of them serve nobody.
LOCAL_INSTANCE_LIMIT = 2

DRAIN_SECONDS = 60.0
"""How long a container that is no longer sent requests may take for those that it has."""
_DRAIN_PAUSE_SECONDS = 0.05

logger = logging.getLogger(__name__)


class UnknownVariant(Exception):
    """The endpoint has no production variant of that name."""


class _Group:
    """Instances that are started together: `on_decided` gets None once all serve, or the first reason why one fails."""

    def __init__(self, size: int, on_decided: Callable[[str | None], None]) -> None:
        self._waiting_for = size
        self._on_decided = on_decided
        self._decided = False
        self._lock = threading.Lock()

    def one_in_service(self) -> None:
        with self._lock:
            self._waiting_for -= 1
            if self._waiting_for or self._decided:
                return
            self._decided = True
        self._on_decided(None)

    def fail(self, reason: str) -> bool:
        """Whether this decided the matter: False where all had been in service, or one had failed before."""
        with self._lock:
            if self._decided:
                return False
            self._decided = True
        self._on_decided(reason)
        return True


class Deployment:
    """A fleet of containers behind an endpoint.

    `fetch` downloads an s3:// URL to a path and raises FileNotFoundError; `log` takes (log stream, line); `on_status`
    gets ("InService", None), or ("Failed", reason) at the start or later, when a container has died for good. All
    three are called from threads. `container_environment` is what every container's environment gets besides
    SageMaker's variables: the address and credentials of this server.
    """

    def __init__(
        self,
        endpoint_name: str,
        variants: list[VariantPlan],
        *,
        region: str,
        account: str,
        state: Path,
        fetch: Callable[[str, Path], None],
        log: Callable[[str, str], None],
        on_status: Callable[[str, str | None], None],
        container_environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = state / "endpoints" / endpoint_name
        self._on_status = on_status
        self._surroundings = Surroundings(
            endpoint_name, region, account, self._folder, fetch, log, dict(container_environment or {})
        )
        self._plans = {plan.name: plan for plan in variants}
        self._weights = {plan.name: plan.weight for plan in variants}
        self._instances = {plan.name: self._new_instances(plan, plan.instance_count) for plan in variants}
        self._turns = {plan.name: itertools.count() for plan in variants}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._status = "Creating"
        self._stopped = False

    def start(self) -> None:
        """Start all containers; returns at once."""
        instances = self._all_instances()
        with self._lock:
            if self._stopped or self._threads:
                raise RuntimeError("this deployment was started or stopped before")
            self._start(instances, _Group(len(instances), self._on_started))

    async def invoke(
        self, headers: Mapping[str, str], body: bytes, *, target_variant: str | None, stream: bool
    ) -> Invocation:
        """Send a request to one container: of `target_variant`, else of a variant drawn by weight.

        Without `stream` the answer is complete when this returns. Raises UnknownVariant, ContainerUnavailable,
        InvocationTimeout (60 s); reading the body of a stream raises StreamBroken (a ConnectionError) when the
        container breaks off, InvocationTimeout after 8 minutes. Closing the body early closes the connection to the
        container.
        """
        name = self._choose_variant(target_variant)
        running = [client for instance in self._instances[name] if (client := instance.client) is not None]
        if not running:
            raise ContainerUnavailable(f"no container of variant {name} is running", name)
        client = running[next(self._turns[name]) % len(running)]
        return await client.invoke(dict(headers), body, stream=stream)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Split the traffic by other weights, from the next request on; variants that are not named keep theirs."""
        self._weights = self._weights | weights

    def scale(self, counts: Mapping[str, int], on_done: Callable[[str | None], None]) -> None:
        """Start or end containers until each named variant has its count; returns at once.

        `on_done` gets None when they all serve, or the reason why one could not be started; those that were started
        with it are ended then, and the old ones serve on. Containers to be ended finish their requests first.
        """
        threading.Thread(target=self._scale, args=(counts, on_done), name="scale", daemon=True).start()

    def drain(self) -> None:
        """Wait until no request is under way, DRAIN_SECONDS at most. Requests must be sent elsewhere already."""
        _drain(self._all_instances())

    def stop(self) -> None:
        """End every process and remove the working folders. Idempotent; returns when all is gone."""
        with self._lock:
            self._stopped = True
            threads = list(self._threads)
        stoppers = [threading.Thread(target=instance.stop) for instance in self._all_instances()]
        for thread in stoppers:
            thread.start()
        for thread in [*stoppers, *threads]:
            if thread is not threading.current_thread():
                thread.join()
        with contextlib.suppress(OSError):  # During an update the containers of two fleets have their folders there.
            self._folder.rmdir()

    def _new_instances(self, plan: VariantPlan, count: int) -> list[ModelInstance]:
        return [ModelInstance(plan, self._surroundings) for _ in range(min(count, LOCAL_INSTANCE_LIMIT))]

    def _all_instances(self) -> list[ModelInstance]:
        return [instance for instances in list(self._instances.values()) for instance in instances]

    def _choose_variant(self, target_variant: str | None) -> str:
        if target_variant is not None:
            if target_variant not in self._plans:
                raise UnknownVariant(target_variant)
            return target_variant
        names, weights = list(self._weights), list(self._weights.values())
        return random.choices(names, weights if any(weights) else None)[0]

    def _start(self, instances: list[ModelInstance], group: _Group) -> None:
        """Start instances, with the lock held."""
        for instance in instances:
            thread = threading.Thread(
                target=self._run, args=(instance, group), name=f"instance-{instance.instance_id}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _run(self, instance: ModelInstance, group: _Group) -> None:
        """The life of one instance, on a thread of its own."""
        plan = instance.plan
        if plan.instance_count > LOCAL_INSTANCE_LIMIT:
            instance.log(
                f"{plan.instance_count} instances are wanted; this machine runs {LOCAL_INSTANCE_LIMIT} containers."
            )
        reason = None
        try:
            instance.run(group.one_in_service)
        except StartError as error:
            reason = str(error)
        except Exception as error:
            logger.exception("instance %s of variant %s", instance.instance_id, plan.name)
            reason = f"The local SageMaker could not run the container of variant {plan.name}: {error}"
        decided = group.fail(reason or "It was stopped.")
        if reason is not None and not decided:
            self._fail(reason)

    def _on_started(self, reason: str | None) -> None:
        if reason is not None:
            self._fail(reason)
            return
        with self._lock:
            if self._status != "Creating" or self._stopped:
                return
            self._status = "InService"
        self._on_status("InService", None)

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self._status == "Failed" or self._stopped:
                return
            self._status = "Failed"
        for instance in self._all_instances():
            instance.stop()
        self._on_status("Failed", reason)

    def _scale(self, counts: Mapping[str, int], on_done: Callable[[str | None], None]) -> None:
        plans = {name: dataclasses.replace(self._plans[name], instance_count=count) for name, count in counts.items()}
        added = {
            name: self._new_instances(plan, plan.instance_count)[len(self._instances[name]) :]
            for name, plan in plans.items()
        }
        reason = self._start_added(added)
        if reason is not None:
            self._end({name: len(self._instances[name]) - len(instances) for name, instances in added.items()})
        else:
            self._plans |= plans
            self._end({name: min(plan.instance_count, LOCAL_INSTANCE_LIMIT) for name, plan in plans.items()})
        on_done(reason)

    def _start_added(self, added: dict[str, list[ModelInstance]]) -> str | None:
        """Start further instances; returns None when all serve, else the reason why one does not."""
        instances = [instance for some in added.values() for instance in some]
        if not instances:
            return None
        reasons: list[str | None] = []
        decided = threading.Event()

        def on_decided(reason: str | None) -> None:
            reasons.append(reason)
            decided.set()

        with self._lock:
            if self._stopped or self._status != "InService":
                return "It was stopped."
            for name, some in added.items():
                self._instances[name] = self._instances[name] + some
            self._start(instances, _Group(len(instances), on_decided))
        decided.wait()
        return reasons[0]

    def _end(self, counts: dict[str, int]) -> None:
        """End what each variant has above its count, the newest first."""
        surplus = []
        with self._lock:
            for name, count in counts.items():
                surplus += self._instances[name][count:]
                self._instances[name] = self._instances[name][:count]
        _drain(surplus)
        for instance in surplus:
            instance.stop()


def _drain(instances: list[ModelInstance]) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    # Twice idle, since a request may just be on its way from the choice of its container, or from answer to stream.
    idle = 0
    while instances and idle < 2 and time.monotonic() < deadline:
        time.sleep(_DRAIN_PAUSE_SECONDS)
        idle = 0 if any(instance.requests_under_way for instance in instances) else idle + 1
