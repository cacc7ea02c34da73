"""What an endpoint leaves behind: log lines in CloudWatch Logs and in plain files, invocation metrics in CloudWatch.

Both are collected in memory and handed to moto by a thread of its own, away from the requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import IO, Any

from .state import ACCOUNT, StateFolder

_FLUSH_SECONDS = 0.5
_MAX_EVENT_CHARACTERS = 60_000

log = logging.getLogger(__name__)


@dataclass
class _Statistics:
    """CloudWatch's statistic set."""

    count: int = 0
    total: float = 0.0
    smallest: float = field(default=float("inf"))
    largest: float = field(default=float("-inf"))

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)


def log_group(endpoint_name: str) -> str:
    """The log group of an endpoint."""
    return f"/aws/sagemaker/Endpoints/{endpoint_name}"


class Telemetry:
    """Collects log lines and metrics of all endpoints."""

    def __init__(self, state: StateFolder, region: str):
        self._state = state
        self._region = region
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._events: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._metrics: dict[tuple[str, str, str, str], _Statistics] = defaultdict(_Statistics)
        self._files: dict[tuple[str, str], IO[bytes]] = {}
        self._unwritable: set[tuple[str, str]] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_regularly, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin to hand over what is collected; moto must be ready."""
        self._thread.start()

    def log(self, endpoint_name: str, stream: str, line: str) -> None:
        """Add one line to log stream `stream` of the endpoint. Thread-safe."""
        now = int(time.time() * 1000)
        with self._lock:
            self._events[endpoint_name, stream].append({"timestamp": now, "message": line[:_MAX_EVENT_CHARACTERS]})
            try:
                self._write_line(endpoint_name, stream, line)
            except OSError as error:
                # The line is in CloudWatch Logs. A full disk must not keep a container's output from being read.
                if (endpoint_name, stream) not in self._unwritable:
                    self._unwritable.add((endpoint_name, stream))
                    log.error("the log file of %s of endpoint %s cannot be written: %s", stream, endpoint_name, error)

    def _write_line(self, endpoint_name: str, stream: str, line: str) -> None:
        file = self._files.pop((endpoint_name, stream), None)
        if file is None:
            path = self._state.endpoint_logs / endpoint_name / f"{stream}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
        try:
            file.write(line.encode("utf-8", "replace") + b"\n")
        except BaseException:
            file.close()
            raise
        self._files[endpoint_name, stream] = file

    def invocation(
        self, endpoint_name: str, variant: str, status: int, model_microseconds: float, total_microseconds: float
    ) -> None:
        """Count one invocation of an endpoint whose container answered with `status`. Cheap and thread-safe."""
        values = {
            "Invocations": ("None", 1.0),
            "Invocation4XXErrors": ("None", float(400 <= status < 500)),
            "Invocation5XXErrors": ("None", float(status >= 500)),
            "InvocationModelErrors": ("None", float(status >= 400)),
            "ModelLatency": ("Microseconds", model_microseconds),
            "OverheadLatency": ("Microseconds", max(0.0, total_microseconds - model_microseconds)),
        }
        with self._lock:
            for name, (unit, value) in values.items():
                self._metrics[endpoint_name, variant, name, unit].add(value)

    def forget(self, endpoint_name: str) -> None:
        """Close the log files of an endpoint that is gone."""
        with self._lock:
            for key in [key for key in self._files if key[0] == endpoint_name]:
                self._files.pop(key).close()

    def flush(self) -> None:
        """Hand over everything collected until now; returns when clients can read it."""
        with self._flush_lock:
            with self._lock:
                events, self._events = self._events, defaultdict(list)
                metrics, self._metrics = self._metrics, defaultdict(_Statistics)
            if events:
                self._write_events(events)
            if metrics:
                self._write_metrics(metrics)

    def close(self) -> None:
        """Hand over the rest and end the thread."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()
            self.flush()
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _flush_regularly(self) -> None:
        while not self._closed.wait(_FLUSH_SECONDS):
            try:
                self.flush()
            except Exception:
                log.exception("logs or metrics could not be handed over")

    def _write_events(self, events: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        from moto.logs.models import logs_backends

        backend = logs_backends[ACCOUNT][self._region]
        for (endpoint_name, stream), lines in events.items():
            group = log_group(endpoint_name)
            backend.ensure_log_group(group)
            backend.ensure_log_stream(group, stream)
            backend.put_log_events(group, stream, sorted(lines, key=lambda line: line["timestamp"]))

    def _write_metrics(self, metrics: dict[tuple[str, str, str, str], _Statistics]) -> None:
        from moto.cloudwatch.models import cloudwatch_backends

        data = []
        for (endpoint_name, variant, name, unit), statistics in metrics.items():
            values = {
                "SampleCount": statistics.count,
                "Sum": statistics.total,
                "Minimum": statistics.smallest,
                "Maximum": statistics.largest,
            }
            dimensions = [
                {"Name": "EndpointName", "Value": endpoint_name},
                {"Name": "VariantName", "Value": variant},
            ]
            data.append({"MetricName": name, "Dimensions": dimensions, "Unit": unit, "StatisticValues": values})
        cloudwatch_backends[ACCOUNT][self._region].put_metric_data("AWS/SageMaker", data)
