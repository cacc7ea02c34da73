"""SageMaker's control plane: awsJson1.1, one POST a request, the operation named by X-Amz-Target."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import endpoint_configs, endpoint_updates, endpoints, models, tags, training_jobs, tuning_jobs
from .context import Context, Operation
from .faults import Fault
from .schema import parse_json, service_model, validate

OPERATIONS: dict[str, Operation] = {
    **models.OPERATIONS,
    **endpoint_configs.OPERATIONS,
    **endpoints.OPERATIONS,
    **endpoint_updates.OPERATIONS,
    **tags.OPERATIONS,
    **training_jobs.OPERATIONS,
    **tuning_jobs.OPERATIONS,
}


def answer(context: Context, request: Request, body: bytes) -> Response:
    """The answer to one control plane request. Raises faults. Blocks, so call it in a thread."""
    name = request.headers.get("x-amz-target", "").removeprefix("SageMaker.")
    result = _call(context, name, body)
    return JSONResponse(
        result, headers={"x-amzn-RequestId": str(uuid.uuid4())}, media_type="application/x-amz-json-1.1"
    )


def _call(context: Context, name: str, body: bytes) -> dict[str, Any]:
    operation = OPERATIONS.get(name)
    if operation is None:
        raise unknown_operation(f"SageMaker.{name}", known=name in service_model("sagemaker")["operations"])
    return operation(context, validate("sagemaker", name, parse_json(body)))


def unknown_operation(name: str, known: bool) -> Fault:
    """The fault for an operation that is not implemented here (`known`: AWS has it) or does not exist."""
    if not known:
        return Fault("UnknownOperationException", f"The operation {name!r} does not exist in SageMaker.")
    return Fault(
        "UnknownOperationException",
        f"The local SageMaker does not implement {name}. It implements: {', '.join(sorted(OPERATIONS))}, "
        "InvokeEndpoint, InvokeEndpointWithResponseStream.",
    )
