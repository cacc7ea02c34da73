"""What the tests of containers and deployments share: archives, logs, a deployment to try, a look at the processes."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psutil

from shared.local_sagemaker.hosting import Deployment, Invocation, VariantPlan

JSON_HEADERS = {"content-type": "application/json", "accept": "application/json"}
PATIENCE_SECONDS = 60.0

T = TypeVar("T")


def write_archive(path: Path, files: dict[str, str | bytes]) -> Path:
    """A tar.gz of `files`, by member name."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds; fail after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def processes_of(marker: str) -> list[int]:
    """Ids of the living processes whose environment holds `marker`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and marker in process.environ().values():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Endpoint:
    """A deployment whose model data is `files`, by variant or for all, with its log and its status."""

    def __init__(
        self,
        state: Path,
        files: dict[str, str | bytes] | None = None,
        *,
        fetch: Callable[[str, Path], None] | None = None,
        variants: list[VariantPlan] | None = None,
        environment: dict[str, str] | None = None,
        **plan: float,
    ) -> None:
        self.entries: list[tuple[str, str]] = []
        self.statuses: list[tuple[str, str | None]] = []
        self._changed = threading.Condition()
        if variants is None:
            plan = {"weight": 1.0, "instance_count": 1, **plan}
            variants = [
                VariantPlan(
                    name="AllTraffic",
                    image="image",
                    environment=environment or {},
                    model_data_url="s3://bucket/model.tar.gz",
                    **plan,
                )
            ]
        self.deployment = Deployment(
            "endpoint",
            variants,
            region="us-east-1",
            account="123456789012",
            state=state,
            fetch=fetch or (lambda url, path: write_archive(path, files)),
            log=self._log,
            on_status=self._on_status,
            container_environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        )

    def __enter__(self) -> Endpoint:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.deployment.start()
        return self

    def __exit__(self, *_) -> None:
        self.deployment.stop()
        self.run(asyncio.sleep(0.01))  # Lets the connections close.
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, done in the event loop of the server that this stands for."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def _log(self, stream: str, line: str) -> None:
        self.entries.append((stream, line))

    def _on_status(self, status: str, reason: str | None) -> None:
        with self._changed:
            self.statuses.append((status, reason))
            self._changed.notify_all()

    def wait_for(self, status: str) -> str | None:
        """The reason that came with `status`; fails if another status comes first."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(seen == status or seen == "Failed" for seen, _ in self.statuses), PATIENCE_SECONDS
            ), self.text
        reasons = dict(self.statuses)
        assert status in reasons, (self.statuses, self.text)
        return reasons[status]

    @property
    def lines(self) -> list[str]:
        """The log's lines, of all streams."""
        return [line for _, line in self.entries]

    @property
    def streams(self) -> set[str]:
        """The names of the log's streams."""
        return {stream for stream, _ in self.entries}

    @property
    def text(self) -> str:
        """The whole log."""
        return "\n".join(self.lines)

    async def send(self, request: object, *, variant: str | None = None, **headers: str) -> tuple[Invocation, bytes]:
        """Invoke without streaming; the answer and its body."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        given = {**JSON_HEADERS, **{name.replace("_", "-"): text for name, text in headers.items()}}
        invocation = await self.deployment.invoke(given, body, target_variant=variant, stream=False)
        return invocation, b"".join([chunk async for chunk in invocation.body])

    async def stream(self, request: object) -> Invocation:
        """Invoke with streaming."""
        return await self.deployment.invoke(
            dict(JSON_HEADERS), json.dumps(request).encode(), target_variant=None, stream=True
        )
