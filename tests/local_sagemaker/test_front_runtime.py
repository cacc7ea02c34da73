"""What the runtime answers when a container is slow or gone, without waiting the minute that takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from starlette.requests import Request

from shared.local_sagemaker import runtime
from shared.local_sagemaker.endpoints import ENDPOINT
from shared.local_sagemaker.faults import Fault
from shared.local_sagemaker.hosting import ContainerUnavailable, Invocation, InvocationTimeout, StreamBroken
from shared.local_sagemaker.records import Store


class Deployment:
    """Answers an invocation with what the test says."""

    def __init__(self, answer: Any):
        self._answer = answer

    async def invoke(self, headers: Any, body: bytes, *, target_variant: str | None, stream: bool) -> Invocation:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def pieces(*chunks: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


def answer(action: str, container: Any) -> tuple[list[tuple[int, float | None]], Any, bytes]:
    """(counted statuses, response, its body) of one request to an endpoint in service."""
    store = Store("us-east-1")
    record = store.create(ENDPOINT, "e", {"EndpointStatus": "InService"}, None)
    counted: list[tuple[int, float | None]] = []
    telemetry = SimpleNamespace(invocation=lambda name, variant, status, model, total: counted.append((status, model)))
    context = SimpleNamespace(
        store=store, region="us-east-1", telemetry=telemetry, fleets={record.arn: Deployment(container)}
    )
    scope = {
        "type": "http",
        "method": "POST",
        "raw_path": f"/endpoints/e/{action}".encode(),
        "path": f"/endpoints/e/{action}",
        "query_string": b"",
        "headers": [],
    }

    async def run() -> tuple[Any, bytes]:
        response = await runtime.answer(context, Request(scope), b"{}")
        if hasattr(response, "body_iterator"):
            return response, b"".join([chunk async for chunk in response.body_iterator])
        return response, response.body

    return counted, *asyncio.run(run())


@pytest.mark.parametrize("action", ["invocations", "invocations-response-stream"])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvocationTimeout("no answer within 60 s", "A"), 0, "Your invocation timed out while waiting for a response"),
        (ContainerUnavailable("no container is running", "A"), 503, "no container is running"),
    ],
)
def test_a_container_that_does_not_answer(action: str, error: Exception, status: int, message: str) -> None:
    with pytest.raises(Fault) as raised:
        answer(action, error)
    fault = raised.value
    assert (fault.code, fault.status, fault.fields["OriginalStatusCode"]) == ("ModelError", 424, status)
    assert fault.message.startswith(f"Received server error ({status}) from primary with message ")
    assert message in fault.fields["OriginalMessage"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvocationTimeout("not complete within 480 s", "A"), "ModelInvocationTimeExceeded", 504),
        (StreamBroken("broken off", "A"), "StreamBroken", 502),
    ],
)
def test_a_stream_that_does_not_end(error: Exception, code: str, status: int) -> None:
    invocation = Invocation(200, "text/plain", {}, pieces(b"one", b"", b"two", error=error), "A")
    counted, _, body = answer("invocations-response-stream", invocation)
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    messages = list(buffer)
    assert [message.payload for message in messages[:2]] == [b"one", b"two"]
    assert messages[2].headers[":message-type"] == "exception"
    assert messages[2].headers[":exception-type"] == "ModelStreamError"
    assert code.encode() in messages[2].payload
    assert [entry[0] for entry in counted] == [status]


def test_an_error_inside_the_server_ends_a_stream_with_its_own_event() -> None:
    invocation = Invocation(200, "text/plain", {}, pieces(b"one", error=RuntimeError("a bug")), "A")
    counted, _, body = answer("invocations-response-stream", invocation)
    assert b"InternalStreamFailure" in body
    assert b"a bug" not in body
    assert counted[0][0] == 500


@pytest.mark.parametrize("action", ["invocations", "invocations-response-stream"])
def test_an_error_of_the_model_that_breaks_off(action: str) -> None:
    invocation = Invocation(500, "text/plain", {}, pieces(b"tra", error=StreamBroken("broken off", "A")), "A")
    with pytest.raises(Fault, match="broken off") as raised:
        answer(action, invocation)
    assert raised.value.fields["OriginalStatusCode"] == 502


def test_long_messages_and_odd_headers() -> None:
    headers = {"x-amzn-sagemaker-custom-attributes": "käse\udc80"}
    _, response, body = answer("invocations", Invocation(200, "text/plain", headers, pieces(b"x"), "A", 5.0))
    assert (response.headers["X-Amzn-SageMaker-Custom-Attributes"], body) == ("k?se?", b"x")
    with pytest.raises(Fault) as raised:
        answer("invocations", Invocation(400, "text/plain", {}, pieces(b"\xff" * 9000), "A", 5.0))
    assert len(raised.value.message) < 2048
    assert len(raised.value.fields["OriginalMessage"]) <= 2048
