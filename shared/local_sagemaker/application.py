"""The HTTP front: an ASGI application that lets the right callers in and hands each request to its service."""

from __future__ import annotations

import json
import logging
import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from . import moto_services, service_quotas
from .faults import Fault, error_response, internal_failure
from .service import Service
from .signatures import Claim, read_claim
from .state import INTERRUPT_PATH, STATUS_PATH, STATUS_SERVICE

log = logging.getLogger(__name__)

_CONTROL_BODY_LIMIT = 32 << 20
"""Bytes of a request body that is read into memory: above every limit of the services except S3's objects."""


class Application:
    """Answers every request of the server."""

    def __init__(self, service: Service):
        self._service = service
        self._last_request = time.monotonic()
        self._active = 0

    def idle_seconds(self) -> float:
        """Seconds since the last request or training job ended; 0 while there is one."""
        if self._active or self._service.is_training():
            self._last_request = time.monotonic()
        return time.monotonic() - self._last_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, as ASGI hands it over."""
        if scope["type"] != "http":
            raise RuntimeError(f"no such protocol here: {scope['type']}")
        self._active += 1
        try:
            request = Request(scope, receive)
            response = await self._answer(request)
            await response(scope, receive, send)
        except ClientDisconnect:
            log.info("a client went away in the middle of %s %s", scope["method"], scope["path"])
        finally:
            self._active -= 1
            self._last_request = time.monotonic()

    async def _answer(self, request: Request) -> Response:
        claim = None
        try:
            self._service.guard.check_sender(request)
            claim = read_claim(request)
            claim = self._service.guard.check_claim(claim)
            return await self._route(request, claim)
        except Fault as fault:
            return error_response(fault, claim.service if claim else None, request)
        except ClientDisconnect:
            raise
        except Exception as error:
            log.exception("error while answering %s %s", request.method, request.scope["path"])
            return error_response(internal_failure(error), claim.service if claim else None, request)

    async def _route(self, request: Request, claim: Claim) -> Response:
        service, guard = self._service, self._service.guard
        if claim.service == "s3":
            guard.check_signature(request, claim, b"")
            return await service.moto.answer_s3(request)
        body = await _read_body(request)
        guard.check_signature(request, claim, body)
        if claim.service == "sagemaker":
            return await service.answer_sagemaker(request, claim.region, body)
        if claim.service == service_quotas.SERVICE:
            return await run_in_threadpool(service_quotas.answer, claim.region, request, body)
        if claim.service in moto_services.SERVICES:
            return await service.moto.answer(claim.service, request, body)
        if claim.service == STATUS_SERVICE and request.scope["path"] == STATUS_PATH:
            return JSONResponse(service.describe())
        if claim.service == STATUS_SERVICE and request.scope["path"] == INTERRUPT_PATH:
            wish = json.loads(body)
            service.interrupt(wish["job"], wish["seconds"])
            return JSONResponse({})
        raise Fault(
            "UnknownService",
            f"The local SageMaker does not offer the AWS service {claim.service!r}. It offers SageMaker, "
            f"{service_quotas.SERVICE} and, as far as moto implements them, "
            f"{', '.join(sorted(moto_services.SERVICES))}.",
            status=404,
        )


async def _read_body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        # A body that is too large is read to its end all the same: a client that still sends hears no answer.
        if size <= _CONTROL_BODY_LIMIT:
            chunks.append(chunk)
    if size > _CONTROL_BODY_LIMIT:
        raise Fault("413", f"HTTP content length exceeded {_CONTROL_BODY_LIMIT} bytes.", 413)
    return b"".join(chunks)
