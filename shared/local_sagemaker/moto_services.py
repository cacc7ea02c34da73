"""S3, STS, IAM, CloudWatch, Logs and application auto scaling: moto, in this process.

Only these services are reachable. moto keeps its state in memory, large S3 objects excepted (see objects.py). It takes
a second to import, so that is left to a thread; requests that need it wait.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from . import log_filters
from .aws_chunked import ChunkDecoder
from .faults import Fault
from .iam import simulate_principal_policy, simulated_policy_request
from .state import ACCOUNT, ROLE_NAME, default_bucket, execution_role_arn
from .wsgi import WSGIApplication, build_environ, call_application, environ_key

if TYPE_CHECKING:
    from .objects import StoredObject

SERVICES = {
    "s3": "s3",
    "sts": "sts",
    "iam": "iam",
    "logs": "logs",
    "monitoring": "cloudwatch",
    "application-autoscaling": "applicationautoscaling",
}
"""Signing name of each service that moto serves here -> moto's own name of it."""

_TRUST_POLICY = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, '
    '"Action": "sts:AssumeRole"}]}'
)
_OBJECT_WRITE_PARAMETERS = {"x-id", "uploadId", "partNumber"}


def configure() -> None:
    """Set what moto reads from the environment at import. Call before the first `MotoServices`."""
    os.environ.update(MOTO_ACCOUNT_ID=ACCOUNT, MOTO_DISABLE_GLOBAL_CORS="1", S3_IGNORE_SUBDOMAIN_BUCKETNAME="true")


class MotoServices:
    """moto's WSGI applications, one a service, and the few things that SageMaker asks them directly."""

    def __init__(self, region: str, object_folder: Path, access_key: str):
        self._region = region
        self._access_key = access_key
        self._object_folder = object_folder
        self._applications: dict[str, WSGIApplication] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def prepare(self) -> None:
        """Import moto; make the SDK's default bucket, and the execution role, which every caller is taken to hold."""
        from moto.iam.models import iam_backends
        from moto.s3.models import s3_backends
        from moto.sts.models import AssumedRole, sts_backends

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
        caller = AssumedRole(
            account_id=ACCOUNT,
            region_name=self._region,
            access_key=SimpleNamespace(access_key_id=self._access_key, secret_access_key=""),
            role_session_name="SageMaker",
            role_arn=execution_role_arn(),
            policy="",
            duration=3600,
            external_id="",
        )
        sts_backends[ACCOUNT]["aws"].assumed_roles.append(caller)
        for service in ("s3", "logs", "monitoring"):
            self._application(service)
        self._ready.set()

    async def answer(self, service: str, request: Request, body: bytes) -> Response:
        """moto's answer to `request`, of which `body` has been read, for the service with signing name `service`."""
        if service == "iam" and (simulation := simulated_policy_request(body)) is not None:
            return simulate_principal_policy(simulation, await run_in_threadpool(self._principals))
        if request.headers.get("x-amz-target") == log_filters.OPERATION:
            body = await run_in_threadpool(log_filters.with_stream_names, body, self._log_streams)
        return await run_in_threadpool(self._call, service, build_environ(request, io.BytesIO(body), len(body)))

    async def answer_s3(self, request: Request) -> Response:
        """As `answer`, for S3, whose request bodies may be large: they are read here, by way of the disk."""
        if request.method in ("GET", "HEAD") and "partNumber" in request.query_params:
            raise Fault("NotImplemented", "The local SageMaker's S3 does not read an object by part number.", 501)
        await run_in_threadpool(self._ready.wait)
        from . import objects

        decoder = ChunkDecoder() if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-") else None
        with tempfile.SpooledTemporaryFile(objects.LARGE, dir=self._object_folder) as body:
            async for chunk in request.stream():
                body.write(decoder.feed(chunk) if decoder else chunk)
            size = body.tell()
            body.seek(0)
            writes = _writes_object(request)
            environ = build_environ(request, io.BytesIO() if writes else body, 0 if writes else size)
            if decoder:
                decoder.finish()
                environ["HTTP_X_AMZ_CONTENT_SHA256"] = "UNSIGNED-PAYLOAD"
                environ |= {environ_key(name): value for name, value in decoder.trailers.items()}
            if writes and size > objects.LARGE:
                file = objects.ObjectFile(os.dup(body.fileno()), size)
                environ[objects.CONTENT_KEY] = objects.Content(file, 0, size)
            elif writes:
                environ[objects.CONTENT_KEY] = body.read()
            _check_checksum_given(environ)
            return await run_in_threadpool(self._call, "s3", environ)

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

    def alarm_states(self, names: Iterable[str]) -> dict[str, str | None]:
        """The state (OK, ALARM, INSUFFICIENT_DATA) of each CloudWatch alarm, None where there is none of the name."""
        self._ready.wait()
        from moto.cloudwatch.models import cloudwatch_backends

        alarms = cloudwatch_backends[ACCOUNT][self._region].alarms
        return {name: alarms[name].state_value if name in alarms else None for name in names}

    def bucket_exists(self, url: str) -> bool:
        """Whether the bucket of an s3:// URL is there."""
        self._ready.wait()
        from . import objects

        return objects.find_bucket(url)

    def list_objects(self, url: str) -> list[StoredObject]:
        """The objects whose s3:// URL begins with `url`, sorted by key."""
        self._ready.wait()
        from . import objects

        return objects.list_prefix(url)

    def store_object(self, path: Path, url: str) -> None:
        """Make a file, which nobody changes afterwards, the object of an s3:// URL.

        Raises FileNotFoundError where the bucket is missing.
        """
        self._ready.wait()
        from . import objects

        objects.store(path, url)

    def check_role(self, arn: str) -> None:
        """Raise AWS's fault where SageMaker could not assume the role `arn`."""
        if arn.split(":")[4] != ACCOUNT:
            raise Fault("AccessDeniedException", "Cross-account pass role is not allowed.")
        if arn not in self._principals():
            raise Fault(
                "ValidationException",
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role.",
            )

    def _principals(self) -> set[str]:
        """ARNs of the roles and users that exist."""
        self._ready.wait()
        from moto.iam.models import iam_backends

        backend = iam_backends[ACCOUNT]["aws"]
        return {role.arn for role in backend.get_roles()} | {user.arn for user in backend.users.values()}

    def _log_streams(self, group: str) -> list[str]:
        """Names of the log streams of a group; none where the group does not exist."""
        self._ready.wait()
        from moto.logs.models import logs_backends

        groups = logs_backends[ACCOUNT][self._region].groups
        return list(groups[group].streams) if group in groups else []

    def _application(self, service: str) -> WSGIApplication:
        from moto.moto_server.werkzeug_app import create_backend_app

        with self._lock:
            if service not in self._applications:
                self._applications[service] = create_backend_app(SERVICES[service]).wsgi_app
            return self._applications[service]

    def _call(self, service: str, environ: dict[str, Any]) -> Response:
        from werkzeug.exceptions import HTTPException

        self._ready.wait()
        try:
            return call_application(self._application(service), environ)
        except NotImplementedError as error:
            raise Fault("NotImplemented", f"The local SageMaker's {service} does not do this: {error}", 501) from error
        except HTTPException as error:
            raise Fault("InvalidRequest", str(error), error.code or 400) from error


def _writes_object(request: Request) -> bool:
    """Whether `request` is a PutObject or UploadPart, whose body is the content itself."""
    parameters = {name for name in request.query_params if not name.startswith("X-Amz-")}
    return (
        request.method == "PUT"
        and parameters <= _OBJECT_WRITE_PARAMETERS
        and "x-amz-copy-source" not in request.headers
        and "/" in request.scope["path"].strip("/")
    )


def _check_checksum_given(environ: dict[str, Any]) -> None:
    algorithm = environ.get("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM")
    if algorithm and environ_key(f"x-amz-checksum-{algorithm}") not in environ:
        raise Fault(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers "
            "were found.",
        )
