"""GET /ping and POST /invocations as an ASGI application.

Handlers run in threads, one per request, so that requests are served concurrently; a generator is consumed by the
thread that made it, because deep-learning libraries keep state (gradient mode, device, autocast) per thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .context import Context
from .exchange import ClientGone, Exchange
from .handlers import HandlerService, to_bytes

logger = logging.getLogger("sagemaker-local")

THREADS = 64

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Application:
    """The ASGI application over a loaded model."""

    def __init__(self, service: HandlerService, threads: int = THREADS) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="handler")

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"])
        if route == ("GET", "/ping"):
            await respond(send, 200, [], "application/json", b'{"status":"Healthy"}')
        elif route == ("POST", "/invocations"):
            await self._invoke(scope, receive, send)
        else:
            await respond_error(send, 404, "ResourceNotFoundException", f"no {scope['method']} {scope['path']} here")

    async def _invoke(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context = Context(self._service.system_properties, headers, str(uuid.uuid4()))
        exchange = Exchange(asyncio.get_running_loop())
        self._threads.submit(self._answer, exchange, body, headers, context)
        watcher = asyncio.ensure_future(watch_disconnect(receive, exchange))
        try:
            await self._respond(exchange, context, send)
        finally:
            exchange.cancel()
            watcher.cancel()

    async def _respond(self, exchange: Exchange, context: Context, send: Send) -> None:
        """Send what comes through the exchange. A stream's status goes out with its first chunk."""
        content_type = ""
        started = False
        async for kind, value in exchange:
            if kind == "whole":
                await respond(send, *status_and_headers(context), value.content_type, value.body)
                return
            if kind == "error":
                if started:
                    # The status is out: only a broken connection still tells the client.
                    raise value
                logger.error("Prediction error", exc_info=value)
                await respond_error(send, 400, "InternalServerException", str(value))
                return
            if kind == "stream":
                content_type = value
                continue
            if not started:
                await send(start_message(*status_and_headers(context), content_type))
                started = True
            if value:
                await send({"type": "http.response.body", "body": value, "more_body": True})
        if exchange.cancelled:
            return
        if not started:
            await send(start_message(*status_and_headers(context), content_type))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _answer(self, exchange: Exchange, body: bytes, headers: dict[str, str], context: Context) -> None:
        """Runs in a thread: calls the handlers and consumes their generator."""
        try:
            answer = self._service.handle(body, headers.get("content-type"), headers.get("accept"), context)
            if isinstance(answer.body, bytes):
                exchange.put("whole", answer)
            else:
                # The toolkit sets the content type of whole bodies itself; a stream's is up to its handler.
                answer_type = context.get_response_content_type() or answer.content_type
                self._put_chunks(exchange, answer.body, answer_type)
        except ClientGone:
            return
        except Exception as error:
            exchange.finish(error)
        except BaseException as error:  # SystemExit and its like end a thread, and must not leave the client waiting.
            exchange.finish(RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            exchange.finish(None)

    def _put_chunks(self, exchange: Exchange, chunks: Iterator[Any] | AsyncIterator[Any], content_type: str) -> None:
        if isinstance(chunks, AsyncIterator):
            exchange.put("stream", content_type)
            asyncio.run_coroutine_threadsafe(self._consume(chunks, exchange), exchange.loop).result()
            return
        try:
            exchange.put("stream", content_type)
            for chunk in chunks:
                exchange.put("chunk", to_bytes(chunk))
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    async def _consume(self, chunks: AsyncIterator[Any], exchange: Exchange) -> None:
        iteration = asyncio.ensure_future(self._iterate(chunks, exchange))
        exchange.on_cancel(iteration.cancel)
        try:
            await iteration
        except asyncio.CancelledError:
            raise ClientGone from None

    async def _iterate(self, chunks: AsyncIterator[Any], exchange: Exchange) -> None:
        try:
            async for chunk in chunks:
                await exchange.put_async("chunk", to_bytes(chunk))
        finally:
            if hasattr(chunks, "aclose"):
                await chunks.aclose()


async def read_body(receive: Receive) -> bytes:
    """The whole request body."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def watch_disconnect(receive: Receive, exchange: Exchange) -> None:
    """Cancel `exchange` when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        continue
    exchange.cancel()


def status_and_headers(context: Context) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Status and further headers that a handler set on its context."""
    response = context.request_processor[0]
    headers = [
        (name.lower().encode("latin-1"), text.encode("latin-1", "replace"))
        for name, text in response.response_headers.items()
        if name.lower() not in ("content-type", "content-length")
    ]
    return response.status or 200, headers


def start_message(status: int, headers: list[tuple[bytes, bytes]], content_type: str) -> dict[str, Any]:
    """The ASGI message that starts a response."""
    content = (b"content-type", content_type.encode("latin-1", "replace"))
    return {"type": "http.response.start", "status": status, "headers": [content, *headers]}


async def respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], content_type: str, body: bytes) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send(start_message(status, [length, *headers], content_type))
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, status: int, kind: str, message: str) -> None:
    """Send an error as the model server of the Hugging Face images writes it."""
    body = json.dumps({"code": status, "type": kind, "message": message}, indent=2, ensure_ascii=False)
    await respond(send, status, [], "application/json", body.encode("utf-8"))
