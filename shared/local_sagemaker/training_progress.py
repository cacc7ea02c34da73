"""What a training job's record says while the job goes on: statuses, times, metrics, artifacts."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from .records import Record
from .state import StateFolder

ENDED = ("Completed", "Failed", "Stopped")
_MAX_FAILURE_REASON = 1024

log = logging.getLogger(__name__)


class TrainingProgress:
    """Keeps the record of one job up to date, also on the disk until the job has ended.

    Every method takes the records' lock, so that a Describe sees a job before or after a change, never within.
    """

    def __init__(self, record: Record, lock: threading.RLock, state: StateFolder) -> None:
        self.record = record
        self._lock = lock
        self._state = state
        self._billable_since: float | None = None
        self._billable = 0.0

    def enter(self, secondary: str, message: str, status: str = "InProgress") -> None:
        """Change to another status. A job that is being stopped stays so."""
        with self._lock:
            if status == "InProgress" and self.record.fields["TrainingJobStatus"] == "Stopping":
                status = "Stopping"
            self._change(status, secondary, message)
            try:
                self._state.write_training_record(self.record.name, self._snapshot())
            except OSError as error:
                log.error("the record of training job %s cannot be written: %s", self.record.name, error)

    def start_clock(self) -> None:
        """From now on an instance is in use."""
        with self._lock:
            self._billable_since = time.time()
            self.record.fields.setdefault("TrainingStartTime", _now())

    def stop_clock(self) -> None:
        """No instance is in use any more."""
        with self._lock:
            if self._billable_since is not None:
                self._billable += time.time() - self._billable_since
                self._billable_since = None

    @property
    def seconds_used(self) -> float:
        """Seconds during which an instance was in use, until now."""
        with self._lock:
            running = 0.0 if self._billable_since is None else time.time() - self._billable_since
            return self._billable + running

    def metric(self, name: str, value: float, timestamp: float) -> None:
        """Keep the last value of a metric."""
        with self._lock:
            metrics = self.record.fields.setdefault("FinalMetricDataList", [])
            datum = {"MetricName": name, "Value": value, "Timestamp": round(timestamp, 3)}
            for number, known in enumerate(metrics):
                if known["MetricName"] == name:
                    metrics[number] = datum
                    return
            metrics.append(datum)

    def end(self, status: str, secondary: str, message: str, reason: str | None = None) -> None:
        """The job has ended."""
        with self._lock:
            self.stop_clock()
            fields = self.record.fields
            if reason is not None:
                fields["FailureReason"] = reason[:_MAX_FAILURE_REASON]
            if "TrainingStartTime" in fields:
                fields["TrainingEndTime"] = _now()
                fields["TrainingTimeInSeconds"] = max(1, round(fields["TrainingEndTime"] - fields["TrainingStartTime"]))
                fields["BillableTimeInSeconds"] = max(1, round(self._billable))
            self._change(status, secondary, message)
            fields["SecondaryStatusTransitions"][-1]["EndTime"] = self.record.modified
            self._state.remove_training_record(self.record.name)
        log.info("training job %s is %s (%s)%s", self.record.name, status, secondary, f": {reason}" if reason else "")

    def _change(self, status: str, secondary: str, message: str) -> None:
        now = _now()
        fields = self.record.fields
        transitions = fields.setdefault("SecondaryStatusTransitions", [])
        if transitions:
            transitions[-1].setdefault("EndTime", now)
        transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
        fields["TrainingJobStatus"] = status
        fields["SecondaryStatus"] = secondary
        self.record.modified = now

    def _snapshot(self) -> dict[str, Any]:
        record = self.record
        return {"name": record.name, "fields": record.fields, "tags": record.tags, "created": record.created}


def _now() -> float:
    return round(time.time(), 3)
