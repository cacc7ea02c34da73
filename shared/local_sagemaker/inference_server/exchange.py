"""The way of an answer from the thread that makes it to the connection that sends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

CHUNKS_AHEAD = 16  # How many items a handler may be ahead of its client.


class ClientGone(Exception):
    """The client closed the connection; nobody waits for the rest."""


class Exchange:
    """A bounded queue of (kind, value), filled by a thread and emptied in an event loop, that either side may leave."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.cancelled = False
        self._items: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._room = threading.Semaphore(CHUNKS_AHEAD)
        self._taken = asyncio.Event()
        self._on_cancel: Callable[[], None] | None = None

    def put(self, kind: str, value: Any) -> None:
        """From a thread: hand over one item, waiting while the client is slow. Raises ClientGone."""
        self._room.acquire()
        if self.cancelled:
            self._room.release()
            raise ClientGone
        self._schedule(kind, value)

    async def put_async(self, kind: str, value: Any) -> None:
        """The same from within the event loop."""
        while not self._room.acquire(blocking=False):
            self._taken.clear()
            await self._taken.wait()
        self._items.put_nowait((kind, value))

    def finish(self, error: Exception | None) -> None:
        """From a thread: nothing more will come, because all is said or because of `error`."""
        self._schedule(*(("end", None) if error is None else ("error", error)))

    def _schedule(self, kind: str, value: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(self._items.put_nowait, (kind, value))
        except RuntimeError:  # The event loop is closed: the server is stopping.
            raise ClientGone from None

    def cancel(self) -> None:
        """From the event loop: nobody will take another item."""
        if self.cancelled:
            return
        self.cancelled = True
        self._room.release()
        self._items.put_nowait(("end", None))
        if self._on_cancel is not None:
            self._on_cancel()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """From the event loop: have `callback` called when the client is gone, at once if it is."""
        self._on_cancel = callback
        if self.cancelled:
            callback()

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        while True:
            kind, value = await self._items.get()
            if kind == "end":
                return
            yield kind, value
            self._room.release()
            self._taken.set()
