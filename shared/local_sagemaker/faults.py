"""Errors as AWS words and encodes them."""

from __future__ import annotations

import errno
import uuid
from typing import Any
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Fault(Exception):
    """An error answer of the service: `code` is AWS's error code, `fields` are further members of its body."""

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any):
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


def validation_exception(message: str) -> Fault:
    """The control plane's answer to a request that it understands and refuses."""
    return Fault("ValidationException", message)


def internal_failure(error: Exception) -> Fault:
    """The answer to an error of this server itself; the cause stands in its log, or is that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        # A status that clients do not try again.
        return Fault(
            "InsufficientStorage",
            f"The disk of the local SageMaker is full ({error.strerror}). Free some space and try again.",
            status=507,
        )
    return Fault(
        "InternalFailure",
        "The local SageMaker failed to answer this request because of an error of its own; see logs/server.log in its "
        "state folder.",
        status=500,
    )


def json_error(fault: Fault) -> Response:
    """`fault` in the form of awsJson1.1 and rest-json."""
    body = {"__type": fault.code, "message": fault.message, "Message": fault.message, **fault.fields}
    return JSONResponse(
        body,
        fault.status,
        {"x-amzn-RequestId": str(uuid.uuid4()), "x-amzn-ErrorType": fault.code},
        media_type="application/x-amz-json-1.1",
    )


def s3_error(fault: Fault) -> Response:
    """`fault` in the form of S3."""
    request_id = uuid.uuid4().hex[:16].upper()
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>{escape(fault.message)}</Message>"
        f"<RequestId>{request_id}</RequestId></Error>"
    )
    return Response(body, fault.status, {"x-amz-request-id": request_id}, media_type="application/xml")


def query_error(fault: Fault) -> Response:
    """`fault` in the form of the query protocol (IAM, STS)."""
    sender = "Sender" if fault.status < 500 else "Receiver"
    request_id = str(uuid.uuid4())
    body = (
        f"<ErrorResponse><Error><Type>{sender}</Type><Code>{fault.code}</Code>"
        f"<Message>{escape(fault.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return Response(body, fault.status, {"x-amzn-RequestId": request_id}, media_type="text/xml")


_S3_FAULTS = {
    "MissingAuthenticationTokenException": ("AccessDenied", "Access Denied"),
    "UnrecognizedClientException": (
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    "InvalidSignatureException": ("SignatureDoesNotMatch", None),
    "InternalFailure": ("InternalError", None),
}
_QUERY_FAULTS = {
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", None),
    "UnrecognizedClientException": ("InvalidClientTokenId", None),
    "InvalidSignatureException": ("SignatureDoesNotMatch", None),
}


def error_response(fault: Fault, service: str | None, request: Request) -> Response:
    """`fault` in the form that a client of `service` (its signing name, where known) reads from this request."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return query_error(_reworded(fault, _QUERY_FAULTS))
    if service == "s3" or (service is None and "json" not in content_type and request.method != "POST"):
        return s3_error(_reworded(fault, _S3_FAULTS))
    return json_error(fault)


def _reworded(fault: Fault, words: dict[str, tuple[str, str | None]]) -> Fault:
    code, message = words.get(fault.code, (fault.code, None))
    return Fault(code, message or fault.message, fault.status)
