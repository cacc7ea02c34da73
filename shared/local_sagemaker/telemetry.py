"""What endpoints and training jobs leave behind: log lines in CloudWatch Logs and in plain files, CloudWatch metrics.

Both are collected in memory and handed to moto by a thread of its own, away from the requests.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .state import ACCOUNT, StateFolder

_FLUSH_SECONDS = 0.5
_MAX_EVENT_CHARACTERS = 60_000

TRAINING_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
"""The log group of all training jobs, and the namespace of their metrics."""

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
    """Collects log lines and metrics of all endpoints and training jobs."""

    def __init__(self, state: StateFolder, region: str):
        self._state = state
        self._region = region
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._events: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._metrics: dict[tuple[str, str, str, str], _Statistics] = defaultdict(_Statistics)
        self._training_metrics: list[dict[str, Any]] = []
        self._files: dict[Path, IO[bytes]] = {}
        self._unwritable: set[Path] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_regularly, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin to hand over what is collected; moto must be ready."""
        self._thread.start()

    def log(self, endpoint_name: str, stream: str, line: str) -> None:
        """Add one line to log stream `stream` of the endpoint. Thread-safe."""
        self._add(log_group(endpoint_name), stream, self._state.endpoint_logs / endpoint_name / f"{stream}.log", line)

    def log_training(self, stream: str, line: str) -> None:
        """Add one line to log stream `stream`, `<job>/<host>-<time>`, of the training jobs. Thread-safe."""
        self._add(TRAINING_LOG_GROUP, stream, self._state.training_logs / f"{stream}.log", line)

    def _add(self, group: str, stream: str, path: Path, line: str) -> None:
        now = int(time.time() * 1000)
        with self._lock:
            self._events[group, stream].append({"timestamp": now, "message": line[:_MAX_EVENT_CHARACTERS]})
            try:
                self._write_line(path, line)
            except OSError as error:
                # The line is in CloudWatch Logs. A full disk must not keep a container's output from being read.
                if path not in self._unwritable:
                    self._unwritable.add(path)
                    log.error("the log file %s cannot be written: %s", path, error)

    def _write_line(self, path: Path, line: str) -> None:
        file = self._files.pop(path, None)
        if file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
        try:
            file.write(line.encode("utf-8", "replace") + b"\n")
        except BaseException:
            file.close()
            raise
        self._files[path] = file

    def training_metric(self, job_name: str, metric: str, value: float, timestamp: float) -> None:
        """Add one value of a training job's metric, measured at `timestamp` (Unix seconds). Thread-safe."""
        datum = {
            "MetricName": metric,
            "Dimensions": [{"Name": "TrainingJobName", "Value": job_name}],
            "Unit": "None",
            "Value": value,
            # moto's own times have no time zone.
            "Timestamp": datetime.datetime.fromtimestamp(timestamp, datetime.UTC).replace(tzinfo=None),
        }
        with self._lock:
            self._training_metrics.append(datum)

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
        self._close_below(self._state.endpoint_logs / endpoint_name)

    def forget_training(self, job_name: str) -> None:
        """Close the log files of a training job that has ended."""
        self._close_below(self._state.training_logs / job_name)

    def _close_below(self, folder: Path) -> None:
        with self._lock:
            for path in [path for path in self._files if folder in path.parents]:
                self._files.pop(path).close()

    def flush(self) -> None:
        """Hand over everything collected until now; returns when clients can read it."""
        with self._flush_lock:
            with self._lock:
                events, self._events = self._events, defaultdict(list)
                metrics, self._metrics = self._metrics, defaultdict(_Statistics)
                training_metrics, self._training_metrics = self._training_metrics, []
            if events:
                self._write_events(events)
            if metrics:
                self._write_metrics(metrics)
            if training_metrics:
                self._put_metrics(TRAINING_LOG_GROUP, training_metrics)

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
        for (group, stream), lines in events.items():
            backend.ensure_log_group(group)
            backend.ensure_log_stream(group, stream)
            backend.put_log_events(group, stream, sorted(lines, key=lambda line: line["timestamp"]))

    def _write_metrics(self, metrics: dict[tuple[str, str, str, str], _Statistics]) -> None:
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
        self._put_metrics("AWS/SageMaker", data)

    def _put_metrics(self, namespace: str, data: list[dict[str, Any]]) -> None:
        from moto.cloudwatch.models import cloudwatch_backends

        cloudwatch_backends[ACCOUNT][self._region].put_metric_data(namespace, data)
