"""The server's parts, put together."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import threading
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from . import control_plane, endpoints, runtime, training_jobs, tuning_jobs
from .context import Context
from .faults import Fault
from .moto_services import MotoServices
from .records import Store
from .schema import service_model
from .signatures import Guard
from .state import ServerRecord, StateFolder
from .telemetry import Telemetry

log = logging.getLogger(__name__)


class Service:
    """Everything behind the HTTP front."""

    def __init__(self, state: StateFolder, record: ServerRecord):
        self._state = state
        self._record = record
        self._record_lock = threading.Lock()
        credentials = state.credentials()
        self.guard = Guard(credentials, record.port)
        self.moto = MotoServices(record.region, state.objects, credentials.access_key)
        self._context = Context(
            region=record.region,
            state=state,
            store=Store(record.region),
            moto=self.moto,
            telemetry=Telemetry(state, record.region),
            container_environment=state.container_environment(record),
            endpoints_changed=self._publish_endpoints,
        )
        training_jobs.restore_lost(self._context)

    def prepare(self) -> None:
        """Load what takes long: moto, the service models, hosting."""
        self.moto.prepare()
        service_model("sagemaker")
        service_model("sagemaker-runtime")
        self._context.telemetry.start()
        importlib.import_module(".hosting", __package__)

    async def answer_sagemaker(self, request: Request, region: str, body: bytes) -> Response:
        """The answer of SageMaker or SageMaker Runtime. Raises faults."""
        if region != self._record.region:
            raise Fault(
                "InvalidSignatureException",
                f"Credential should be scoped to a valid region: this local SageMaker is in {self._record.region}, the "
                f"request is for {region}.",
                403,
            )
        if request.scope["path"] == "/":
            return await run_in_threadpool(control_plane.answer, self._context, request, body)
        return await runtime.answer(self._context, request, body)

    def describe(self) -> dict[str, Any]:
        """What the server tells its own command line."""
        return dataclasses.asdict(self._record) | {
            "endpoints": endpoints.describe_all(self._context),
            "training_jobs": training_jobs.describe_all(self._context, self._state),
        }

    def is_training(self) -> bool:
        """Whether a training job or a tuning job is under way."""
        return bool(self._context.training_runs) or tuning_jobs.is_tuning(self._context)

    def interrupt(self, job: str, seconds: float) -> None:
        """Interrupt a managed spot training job; new instances come after so many seconds. Raises faults."""
        training_jobs.interrupt(self._context, job, seconds)

    def close(self) -> None:
        """End every process and hand over the last log lines."""
        try:
            tuning_jobs.abandon_all(self._context)
            training_jobs.abandon_all(self._context)
            endpoints.stop_all(self._context)
        finally:
            self._context.telemetry.close()

    def _publish_endpoints(self) -> None:
        # For the next start, should this server be killed: which endpoints ran, where their logs are.
        with self._record_lock:
            self._record.endpoints = [endpoint["name"] for endpoint in endpoints.describe_all(self._context)]
            try:
                self._state.write_record(self._record)
            except OSError as error:
                log.error("the record of the endpoints cannot be written: %s", error)
