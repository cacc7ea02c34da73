"""The containers behind one endpoint: started, watched, invoked, stopped."""

from __future__ import annotations

import itertools
import logging
import random
import shutil
import threading
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

logger = logging.getLogger(__name__)


class UnknownVariant(Exception):
    """The endpoint has no production variant of that name."""


class Deployment:
    """All containers behind one endpoint.

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
        surroundings = Surroundings(
            endpoint_name, region, account, self._folder, fetch, log, dict(container_environment or {})
        )
        self._variants = {plan.name: plan for plan in variants}
        self._instances = {
            plan.name: [
                ModelInstance(plan, surroundings) for _ in range(min(plan.instance_count, LOCAL_INSTANCE_LIMIT))
            ]
            for plan in variants
        }
        self._turns = {plan.name: itertools.count() for plan in variants}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._waiting_for = sum(map(len, self._instances.values()))
        self._status = "Creating"
        self._stopped = False

    def start(self) -> None:
        """Start all containers; returns at once."""
        with self._lock:
            if self._stopped or self._threads:
                raise RuntimeError("this deployment was started or stopped before")
            self._threads = [
                threading.Thread(target=self._run, args=(instance,), name=f"instance-{instance.instance_id}")
                for instance in self._all_instances()
            ]
            for thread in self._threads:
                thread.daemon = True
                thread.start()

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
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all_instances(self) -> list[ModelInstance]:
        return [instance for instances in self._instances.values() for instance in instances]

    def _choose_variant(self, target_variant: str | None) -> str:
        if target_variant is not None:
            if target_variant not in self._variants:
                raise UnknownVariant(target_variant)
            return target_variant
        weights = [plan.weight for plan in self._variants.values()]
        return random.choices(list(self._variants), weights if any(weights) else None)[0]

    def _run(self, instance: ModelInstance) -> None:
        """The life of one instance, on a thread of its own."""
        plan = instance.plan
        if plan.instance_count > LOCAL_INSTANCE_LIMIT:
            instance.log(
                f"{plan.instance_count} instances are wanted; this machine runs {LOCAL_INSTANCE_LIMIT} containers."
            )
        try:
            instance.run(self._one_in_service)
        except StartError as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("instance %s of variant %s", instance.instance_id, plan.name)
            self._fail(f"The local SageMaker could not run the container of variant {plan.name}: {error}")

    def _one_in_service(self) -> None:
        with self._lock:
            self._waiting_for -= 1
            if self._waiting_for or self._status != "Creating" or self._stopped:
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
