"""HTTP to one hosting container over its Unix domain socket."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

INVOCATION_SECONDS = 60.0
STREAM_SECONDS = 480.0
IDLE_CONNECTION_SECONDS = 300.0
LARGE_BYTES = 2**20  # From there on aiohttp wants a file, which it sends piece by piece.
# The connection's business, not the model's; the size is known anew when the body is passed on.
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}


class InvocationError(Exception):
    """An invocation got no complete answer from its container; `variant` is the production variant's name."""

    def __init__(self, message: str, variant: str) -> None:
        super().__init__(message)
        self.variant = variant


class InvocationTimeout(InvocationError):
    """The container took longer than SageMaker allows: 60 s for an answer, 8 minutes for a stream."""


class ContainerUnavailable(InvocationError):
    """No container of the variant is running, or it ended before it answered."""


class StreamBroken(InvocationError, ConnectionError):
    """The container broke off in the middle of its answer."""


@dataclass
class Invocation:
    """A container's answer. `model_latency_us` is set once `body` has been read to its end or closed."""

    status: int
    content_type: str
    headers: dict[str, str]
    body: AsyncIterator[bytes]
    variant: str
    model_latency_us: float | None = None


class ContainerClient:
    """Calls one container; keeps connections open. For use from one event loop, `close` from any thread."""

    def __init__(self, socket_path: Path, variant: str) -> None:
        self._socket_path = socket_path
        self._variant = variant
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.under_way = 0  # Requests without their full answer. Changed in the event loop, read anywhere.

    async def invoke(self, headers: dict[str, str], body: bytes, *, stream: bool) -> Invocation:
        """POST /invocations. Without `stream` the answer is complete when this returns.

        Raises InvocationTimeout, ContainerUnavailable; reading a streamed body raises InvocationTimeout, StreamBroken.
        """
        self.under_way += 1
        try:
            return await self._invoke(headers, body, stream)
        finally:
            self.under_way -= 1

    async def _invoke(self, headers: dict[str, str], body: bytes, stream: bool) -> Invocation:
        started = time.perf_counter()
        limit = STREAM_SECONDS if stream else INVOCATION_SECONDS
        deadline = asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(deadline):
                data = body if len(body) < LARGE_BYTES else io.BytesIO(body)
                response = await self._get_session().post("http://container/invocations", data=data, headers=headers)
                if stream:
                    content = b""
                else:
                    async with response:
                        content = await response.read()
        except TimeoutError:
            raise InvocationTimeout(f"no answer within {limit:.0f} s", self._variant) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ContainerUnavailable(f"the container ended before it answered: {error}", self._variant) from error
        invocation = Invocation(
            status=response.status,
            content_type=response.headers.get("content-type", "application/octet-stream"),
            headers={name: text for name, text in response.headers.items() if name.lower() not in HOP_HEADERS},
            body=_single(content),
            variant=self._variant,
        )
        if stream:
            invocation.body = self._stream(response, invocation, started, deadline, limit)
        else:
            invocation.model_latency_us = (time.perf_counter() - started) * 1e6
        return invocation

    async def _stream(
        self,
        response: aiohttp.ClientResponse,
        invocation: Invocation,
        started: float,
        deadline: float,
        limit: float,
    ) -> AsyncIterator[bytes]:
        self.under_way += 1
        try:
            while True:
                # Not around the yield: the limit is the container's, and a caller may take its time.
                async with asyncio.timeout_at(deadline):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                yield chunk
        except TimeoutError:
            raise InvocationTimeout(f"the answer was not complete within {limit:.0f} s", self._variant) from None
        except (aiohttp.ClientError, OSError) as error:
            raise StreamBroken(f"the container broke off its answer: {error}", self._variant) from error
        finally:
            # Closes the connection unless the answer is complete, which tells the container to stop generating.
            self.under_way -= 1
            response.close()
            invocation.model_latency_us = (time.perf_counter() - started) * 1e6

    def _get_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            connector = aiohttp.UnixConnector(
                str(self._socket_path), limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type", "Accept"),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=2**20,
            )
            self._loop = loop
        return self._session

    def close(self) -> None:
        """Close all connections, soon; does not wait."""
        session, loop = self._session, self._loop
        if session is not None and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(session.close()))


async def _single(content: bytes) -> AsyncIterator[bytes]:
    if content:
        yield content


def ping(socket_path: Path, timeout: float) -> bool:
    """GET /ping: whether the container answers 200 within `timeout` seconds. Blocks."""
    connection = http.client.HTTPConnection("container", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(socket_path))
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
