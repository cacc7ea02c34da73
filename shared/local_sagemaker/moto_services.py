"""S3, STS, IAM, CloudWatch, Logs, service quotas and application auto scaling: moto, in this process.

Only these services are reachable. moto keeps its state in memory; object contents above one megabyte lie in unnamed
files of the state folder.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .faults import Fault
from .state import ACCOUNT, ROLE_NAME, default_bucket

SERVICES = {
    "s3": "s3",
    "sts": "sts",
    "iam": "iam",
    "logs": "logs",
    "monitoring": "cloudwatch",
    "servicequotas": "service-quotas",
    "application-autoscaling": "applicationautoscaling",
}
"""Signing name of each service that moto serves here -> moto's own name of it."""

_IN_MEMORY_BYTES = 1 << 20
_SPOOL_BYTES = 16 << 20
_TRUST_POLICY = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, '
    '"Action": "sts:AssumeRole"}]}'
)

log = logging.getLogger(__name__)


def configure() -> None:
    """Set what moto reads from the environment at import. Call before the first `MotoServices`."""
    os.environ.update(
        MOTO_ACCOUNT_ID=ACCOUNT,
        MOTO_DISABLE_GLOBAL_CORS="1",
        MOTO_S3_DEFAULT_KEY_BUFFER_SIZE=str(_IN_MEMORY_BYTES),
        S3_IGNORE_SUBDOMAIN_BUCKETNAME="true",
    )


class MotoServices:
    """moto's WSGI applications, one a service, loaded when first asked for."""

    def __init__(self, region: str, object_folder: Path):
        self._region = region
        self._object_folder = object_folder
        self._applications: dict[str, Callable[..., Iterable[bytes]]] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def prepare(self) -> None:
        """Import moto, make the SDK's default bucket and the execution role. Takes about a second."""
        from moto.iam.models import iam_backends
        from moto.s3.models import s3_backends

        from . import objects

        objects.install(self._object_folder)
        s3_backends[ACCOUNT]["aws"].create_bucket(default_bucket(self._region), self._region)
        iam_backends[ACCOUNT]["aws"].create_role(
            role_name=ROLE_NAME,
            assume_role_policy_document=_TRUST_POLICY,
            path="/service-role/",
            permissions_boundary=None,
            description="The role of the local SageMaker's containers",
            tags=[],
            max_session_duration="3600",
        )
        for service in ("s3", "logs", "monitoring"):
            self._application(service)
        self._ready.set()

    def wait_until_ready(self) -> None:
        """Block until `prepare` has ended."""
        self._ready.wait()

    async def answer(self, service: str, request: Request, body: bytes) -> Response:
        """moto's answer to `request`, of which `body` has been read, for the service with signing name `service`."""
        return await run_in_threadpool(self._call, service, _environ(request, io.BytesIO(body), len(body)))

    async def answer_stream(self, service: str, request: Request) -> Response:
        """As `answer`, for a request whose body may be large: it is read here, by way of the disk."""
        if service == "s3" and request.method in ("GET", "HEAD") and "partNumber" in request.query_params:
            raise Fault("NotImplemented", "The local SageMaker's S3 does not read an object by part number.", 501)
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=self._object_folder) as body:
            async for chunk in request.stream():
                body.write(chunk)
            size = body.tell()
            body.seek(0)
            return await run_in_threadpool(self._call, service, _environ(request, body, size))

    def object_exists(self, url: str) -> bool:
        """Whether the object of an s3:// URL is there."""
        self._ready.wait()
        from . import objects

        return objects.exists(url)

    def fetch_object(self, url: str, path: Path) -> None:
        """Write the object of an s3:// URL to `path`. Raises FileNotFoundError where it is missing."""
        self._ready.wait()
        from . import objects

        objects.fetch(url, path)

    def check_role(self, arn: str) -> None:
        """Raise AWS's fault where SageMaker could not assume the role `arn`."""
        self._ready.wait()
        from moto.iam.models import iam_backends

        if arn.split(":")[4] != ACCOUNT:
            raise Fault("AccessDeniedException", "Cross-account pass role is not allowed.")
        if arn not in {role.arn for role in iam_backends[ACCOUNT]["aws"].get_roles()}:
            raise Fault(
                "ValidationException",
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role.",
            )

    def _application(self, service: str) -> Callable[..., Iterable[bytes]]:
        from moto.moto_server.werkzeug_app import create_backend_app

        with self._lock:
            if service not in self._applications:
                self._applications[service] = create_backend_app(SERVICES[service]).wsgi_app
            return self._applications[service]

    def _call(self, service: str, environ: dict[str, Any]) -> Response:
        from werkzeug.exceptions import HTTPException
        from werkzeug.test import run_wsgi_app

        self._ready.wait()
        try:
            chunks, status, headers = run_wsgi_app(self._application(service), environ)
        except NotImplementedError as error:
            raise Fault("NotImplemented", f"The local SageMaker's {service} does not do this: {error}", 501) from error
        except HTTPException as error:
            raise Fault("InvalidRequest", str(error), error.code or 400) from error
        plain = [(name.lower(), value) for name, value in headers if name.lower() not in ("connection", "server")]
        code = HTTPStatus(int(status.split(" ", 1)[0])).value
        length = headers.get("content-length")
        if length is not None and int(length) > _IN_MEMORY_BYTES and environ["REQUEST_METHOD"] != "HEAD":
            response: Response = StreamingResponse(iterate_in_threadpool(chunks), code)
        else:
            response = Response(b"".join(chunks), code)
        response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain]
        return response


def _environ(request: Request, body: IO[bytes], size: int) -> dict[str, Any]:
    from moto.core.request import (
        PRESERVED_HEADER_NAMES_ENVIRON_KEY,
        environ_key_for_header,
        should_preserve_original_header_name,
    )

    raw_path = request.scope["raw_path"]
    query = request.scope["query_string"].decode("latin-1")
    host, _, port = request.headers["host"].rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
        "RAW_URI": raw_path.decode("latin-1") + (f"?{query}" if query else ""),
        "QUERY_STRING": query,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(size),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": body,
        "wsgi.errors": None,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    preserved = {}
    for name, value in request.headers.items():
        if name in ("content-length", "transfer-encoding", "x-moto-account-id"):
            continue
        key = environ_key_for_header(name)
        if should_preserve_original_header_name(name):
            preserved[key] = name
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = preserved
    return environ
