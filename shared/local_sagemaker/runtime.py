"""SageMaker Runtime: InvokeEndpoint and InvokeEndpointWithResponseStream (rest-json)."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from . import event_stream
from .context import Context
from .control_plane import unknown_operation
from .endpoints import find_in_service
from .faults import Fault
from .schema import constraint_violations, service_model, violation, violation_message
from .state import ACCOUNT
from .telemetry import log_group

if TYPE_CHECKING:
    from .fleets import Fleets
    from .hosting import Invocation

BODY_LIMIT = 25 << 20
"""Bytes of a request to an endpoint."""

_PATH = re.compile(r"/endpoints/(?P<name>[^/]*)/(?P<action>[a-z-]+)")
_ACTIONS = {
    "invocations": "InvokeEndpoint",
    "invocations-response-stream": "InvokeEndpointWithResponseStream",
    "async-invocations": "InvokeEndpointAsync",
}
_UNSUPPORTED = (
    "TargetModel",
    "TargetContainerHostname",
    "EnableExplanations",
    "InferenceComponentName",
    "SessionId",
    "PrefixAwareId",
)
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_MAX_MESSAGE = 1024
_TIMEOUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)

log = logging.getLogger(__name__)


async def answer(context: Context, request: Request, body: bytes) -> Response:
    """The answer to one runtime request. Raises faults."""
    match = _PATH.fullmatch(request.scope["raw_path"].decode("latin-1"))
    operation = _ACTIONS.get(match["action"]) if match else None
    if match is None or operation is None:
        raise unknown_operation(f"{request.method} {request.scope['path']}", known=False)
    if operation == "InvokeEndpointAsync":
        raise unknown_operation("InvokeEndpointAsync", known=True)
    if request.method != "POST":
        raise Fault("MethodNotAllowedException", f"{operation} is a POST request.", 405)
    name = unquote(match["name"])
    given = _checked_members(operation, name, request)
    if len(body) > BODY_LIMIT:
        raise Fault("413", f"HTTP content length exceeded {BODY_LIMIT} bytes.", 413)
    fleets = find_in_service(context, name)
    if fleets is None:
        raise Fault("ValidationError", f"Endpoint {name} of account {ACCOUNT} not found.")
    call = _Call(context, name, fleets, given, body)
    return await (call.answer() if operation == "InvokeEndpoint" else call.stream())


@functools.cache
def _header_members(operation: str) -> tuple[tuple[str, str, str], ...]:
    """(member, header, shape) of an operation's members that travel as headers."""
    model = service_model("sagemaker-runtime")
    members = model["shapes"][model["operations"][operation]["input"]["shape"]]["members"]
    return tuple(
        (member, details["locationName"].lower(), details["shape"])
        for member, details in members.items()
        if details.get("location") == "header"
    )


def _checked_members(operation: str, name: str, request: Request) -> dict[str, str]:
    given = {"EndpointName": name}
    violations = [
        violation(name, "endpointName", text)
        for text in constraint_violations("sagemaker-runtime", "EndpointName", name)
    ]
    for member, header, shape in _header_members(operation):
        value = request.headers.get(header)
        if value is None:
            continue
        given[member] = value
        path = member[0].lower() + member[1:]
        violations += [
            violation(value, path, text) for text in constraint_violations("sagemaker-runtime", shape, value)
        ]
    if violations:
        raise Fault("ValidationError", violation_message(violations))
    for member in _UNSUPPORTED:
        if member in given:
            raise Fault("ValidationError", f"The local SageMaker does not support {member} in {operation}.")
    return given


class _Call:
    """One invocation of an endpoint."""

    def __init__(
        self, context: Context, endpoint_name: str, fleets: Fleets, given: dict[str, str], body: bytes
    ):
        self._context = context
        self._endpoint_name = endpoint_name
        self._fleets = fleets
        self._given = given
        self._body = body
        self._started = time.perf_counter()

    async def answer(self) -> Response:
        """InvokeEndpoint."""
        invocation = await self._invoke(stream=False)
        content = await self._complete(invocation)
        return Response(content, headers=self._headers(invocation, "Content-Type"))

    async def stream(self) -> Response:
        """InvokeEndpointWithResponseStream."""
        invocation = await self._invoke(stream=True)
        if not 200 <= invocation.status < 300:
            await self._complete(invocation)
        return StreamingResponse(
            self._events(invocation),
            headers=self._headers(invocation, "X-Amzn-SageMaker-Content-Type"),
            media_type="application/vnd.amazon.eventstream",
        )

    async def _invoke(self, stream: bool) -> Invocation:
        from .hosting import ContainerUnavailable, InvocationTimeout, UnknownVariant

        variant = self._given.get("TargetVariant")
        try:
            return await self._fleets.invoke(
                self._container_headers(), self._body, target_variant=variant, stream=stream
            )
        except UnknownVariant:
            raise Fault(
                "ValidationError",
                f"Variant {variant} not found for Endpoint {self._endpoint_name} of account {ACCOUNT}.",
            ) from None
        except InvocationTimeout as error:
            self._count(error.variant, 504, None)
            raise self._model_error(0, _TIMEOUT) from None
        except ContainerUnavailable as error:
            log.info("endpoint %s: %s", self._endpoint_name, error)
            self._count(error.variant, 503, None)
            raise self._model_error(503, str(error)) from None

    async def _complete(self, invocation: Invocation) -> bytes:
        """The whole answer, counted. Raises the ModelError fault where it is an error."""
        from .hosting import InvocationTimeout, StreamBroken

        try:
            content = b"".join([chunk async for chunk in invocation.body])
        except InvocationTimeout:
            self._count(invocation.variant, 504, invocation.model_latency_us)
            raise self._model_error(0, _TIMEOUT) from None
        except StreamBroken as error:
            self._count(invocation.variant, 502, invocation.model_latency_us)
            raise self._model_error(502, str(error)) from None
        self._count(invocation.variant, invocation.status, invocation.model_latency_us)
        if not 200 <= invocation.status < 300:
            raise self._model_error(invocation.status, content.decode(errors="replace"))
        return content

    def _container_headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": self._given.get("ContentType", "application/octet-stream"),
            "Accept": self._given.get("Accept", "*/*"),
        }
        if "CustomAttributes" in self._given:
            headers[_ATTRIBUTES] = self._given["CustomAttributes"]
        if "InferenceId" in self._given:
            headers["X-Amzn-SageMaker-Inference-Id"] = self._given["InferenceId"]
        return headers

    def _headers(self, invocation: Invocation, content_type_header: str) -> dict[str, str]:
        headers = {
            content_type_header: _header_text(invocation.content_type),
            "x-Amzn-Invoked-Production-Variant": invocation.variant,
            "x-amzn-RequestId": str(uuid.uuid4()),
        }
        attributes = {name.lower(): value for name, value in invocation.headers.items()}.get(_ATTRIBUTES.lower())
        if attributes is not None:
            headers[_ATTRIBUTES] = _header_text(attributes)
        return headers

    async def _events(self, invocation: Invocation) -> AsyncIterator[bytes]:
        from .hosting import InvocationTimeout, StreamBroken

        status = invocation.status
        try:
            # Closed when the client goes away, which tells the container to stop.
            async with contextlib.aclosing(invocation.body) as body:
                async for chunk in body:
                    if chunk:
                        yield event_stream.payload_parts(chunk)
        except InvocationTimeout as error:
            status = 504
            yield event_stream.exception(
                "ModelStreamError", Message=str(error), ErrorCode="ModelInvocationTimeExceeded"
            )
        except StreamBroken as error:
            status = 502
            yield event_stream.exception("ModelStreamError", Message=str(error), ErrorCode="StreamBroken")
        except Exception:
            status = 500
            log.exception("error while streaming from endpoint %s", self._endpoint_name)
            yield event_stream.exception("InternalStreamFailure", Message="The local SageMaker failed; see its log.")
        finally:
            self._count(invocation.variant, status, invocation.model_latency_us)

    def _count(self, variant: str, status: int, model_latency_us: float | None) -> None:
        total = (time.perf_counter() - self._started) * 1e6
        latency = total if model_latency_us is None else model_latency_us
        self._context.telemetry.invocation(self._endpoint_name, variant, status, latency, total)

    def _model_error(self, status: int, message: str) -> Fault:
        region, group = self._context.region, log_group(self._endpoint_name)
        message = message[:_MAX_MESSAGE]
        side = "client" if 400 <= status < 500 else "server"
        return Fault(
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}". See '
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group="
            f"{quote(group, safe='/')} in account {ACCOUNT} for more information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}",
            ErrorCode="CLIENT_ERROR_FROM_MODEL" if side == "client" else "INTERNAL_FAILURE_FROM_MODEL",
        )


def _header_text(text: str) -> str:
    """What a container put into a header, without what HTTP does not allow there."""
    return text.encode("ascii", "replace").decode()
