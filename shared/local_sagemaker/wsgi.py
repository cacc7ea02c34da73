"""Calls a WSGI application (moto's) with a request that came by ASGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from werkzeug.test import run_wsgi_app

WSGIApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]

_STREAMED = 1 << 20
"""Bytes above which an answer is sent while it is read."""

_DROPPED_REQUEST_HEADERS = ("content-length", "transfer-encoding", "x-moto-account-id")
_DROPPED_RESPONSE_HEADERS = ("connection", "server", "date")


def environ_key(header: str) -> str:
    """The name of a header in a WSGI environment."""
    key = header.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def build_environ(request: Request, body: IO[bytes], size: int) -> dict[str, Any]:
    """The WSGI environment of `request`, whose body of `size` bytes is to be read from `body`."""
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
    spelled = {}
    for name, value in request.headers.items():
        if name in _DROPPED_REQUEST_HEADERS:
            continue
        key = environ_key(name)
        if name.startswith("x-amz-meta-") and "_" in name:
            spelled[key] = name
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    # WSGI cannot tell "-" from "_" in names; moto restores the keys of S3 metadata from this entry.
    environ["moto.preserved_header_names"] = spelled
    return environ


def call_application(application: WSGIApplication, environ: dict[str, Any]) -> Response:
    """The application's answer; a large one is read from it while it is sent. Blocks."""
    chunks, status, headers = run_wsgi_app(application, environ)
    code = HTTPStatus(int(status.split(" ", 1)[0])).value
    length = headers.get("content-length")
    if length is not None and int(length) > _STREAMED and environ["REQUEST_METHOD"] != "HEAD":
        response: Response = StreamingResponse(iterate_in_threadpool(chunks), code)
    else:
        response = Response(b"".join(chunks), code)
    response.raw_headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in headers
        if name.lower() not in _DROPPED_RESPONSE_HEADERS
    ]
    return response
