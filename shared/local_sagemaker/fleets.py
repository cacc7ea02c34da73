"""The fleets behind an endpoint: one, and during an update a second one that takes over the traffic."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping

from .hosting import Deployment, Invocation, UnknownVariant


class Fleets:
    """Splits an endpoint's requests between the fleet that serves it and, during an update, its successor."""

    def __init__(self, serving: Deployment) -> None:
        self.serving = serving
        self.stopped = threading.Event()
        self.serving_failure: str | None = None
        """Why the serving fleet ended during an update, where it did."""
        self._successor: Deployment | None = None
        self._share = 0.0
        self._retiring: list[Deployment] = []
        self._lock = threading.Lock()

    async def invoke(
        self, headers: Mapping[str, str], body: bytes, *, target_variant: str | None, stream: bool
    ) -> Invocation:
        """As `Deployment.invoke`, of one of the fleets."""
        serving, successor, share = self.serving, self._successor, self._share
        fleet = successor if successor is not None and random.random() < share else serving
        try:
            return await fleet.invoke(headers, body, target_variant=target_variant, stream=stream)
        except UnknownVariant:
            # A variant of one fleet only can be named while that fleet has traffic.
            if successor is None or not 0 < share < 1:
                raise
            other = serving if fleet is successor else successor
            return await other.invoke(headers, body, target_variant=target_variant, stream=stream)

    @property
    def updating(self) -> bool:
        """Whether there is a second fleet."""
        return self._successor is not None

    def prepare(self, successor: Deployment) -> None:
        """Begin an update: `successor` is started and gets no traffic yet."""
        with self._lock:
            if self.stopped.is_set() or self._successor is not None:
                raise RuntimeError("the endpoint is being updated or deleted")
            self._successor, self._share, self.serving_failure = successor, 0.0, None
            successor.start()

    def shift(self, share: float) -> None:
        """Send that share of the traffic, 0 to 1, to the successor."""
        self._share = share

    def succeed(self) -> Deployment:
        """End an update: the successor is the serving fleet. Returns the old one, to be retired."""
        with self._lock:
            old, self.serving = self.serving, self._successor
            self._successor, self._share = None, 0.0
            self._retiring.append(old)
        return old

    def withdraw(self) -> Deployment:
        """Take an update back. Returns the successor, to be retired."""
        with self._lock:
            successor, self._successor, self._share = self._successor, None, 0.0
            self._retiring.append(successor)
        return successor

    def retire(self, fleet: Deployment) -> None:
        """End a fleet that gets no more requests, once it has answered those that it has."""
        fleet.drain()
        fleet.stop()
        with self._lock:
            self._retiring.remove(fleet)

    def stop(self) -> None:
        """End every process of every fleet; returns when they are gone. Idempotent."""
        with self._lock:
            self.stopped.set()
            fleets = [fleet for fleet in (self.serving, self._successor, *self._retiring) if fleet is not None]
        for fleet in fleets:
            fleet.stop()
