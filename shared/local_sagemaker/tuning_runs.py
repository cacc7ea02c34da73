"""A tuning job while it goes on: starts its training jobs, reads their objective, decides when it is done."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from . import training_jobs
from .context import Context
from .faults import Fault
from .records import Record
from .training_progress import ENDED
from .tuning_plans import TuningPlan

_PAUSE_SECONDS = 0.1
_MAX_FAILURE_REASON = 1024
_HOPELESS = 5
"""So many training jobs without an objective, and none with one, fail the tuning job, as on AWS."""
_COMPARED = 2
"""So many training jobs must have ended with an objective before early stopping compares others with them."""
_IMPROVEMENT = 0.01

log = logging.getLogger(__name__)


@dataclass
class Trial:
    """One training job of a tuning job; `history` has every value of its objective."""

    record: Record
    tuned: dict[str, str]
    history: list[float] = field(default_factory=list)
    asked_to_stop: bool = False

    @property
    def status(self) -> str:
        return self.record.fields["TrainingJobStatus"]

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def objective_status(self) -> str:
        """Whether the objective is known: Succeeded, Pending or Failed."""
        if not self.ended:
            return "Pending"
        return "Succeeded" if self.history and self.status != "Failed" else "Failed"


class TuningRun:
    """One tuning job, from `start` to its end, on a thread of its own."""

    def __init__(self, context: Context, record: Record, plan: TuningPlan, limit: int) -> None:
        self.trials: list[Trial] = []
        self.ended = False
        self._context = context
        self._record = record
        self._plan = plan
        self._parallel = min(plan.parallel, limit)
        self._started = time.monotonic()
        self._changed = threading.Event()
        self._stopping = False
        self._abandoned = False
        self._reason: str | None = None
        self._done = False
        self._thread = threading.Thread(target=self._run, name=f"tuning-{plan.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further training job and stop those under way; returns at once."""
        self._stopping = True
        self._changed.set()

    def abandon(self) -> None:
        """Start no further training job, because the server ends; returns when that is sure."""
        self._abandoned = True
        self._changed.set()
        self._thread.join()

    def best(self) -> Trial | None:
        """The completed training job with the best objective; hold the store's lock."""
        completed = [trial for trial in self.trials if trial.status == "Completed" and trial.history]
        return min(completed, key=lambda trial: self._plan.sign * trial.history[-1], default=None)

    def summary(self, trial: Trial) -> dict[str, Any]:
        """A training job as the tuning job's lists have it; hold the store's lock."""
        fields = trial.record.fields
        optional = ("TrainingStartTime", "TrainingEndTime", "FailureReason")
        summary = {
            "TrainingJobName": trial.record.name,
            "TrainingJobArn": trial.record.arn,
            "CreationTime": trial.record.created,
            "TrainingJobStatus": trial.status,
            "TunedHyperParameters": trial.tuned,
            "ObjectiveStatus": trial.objective_status,
            **{member: fields[member] for member in optional if member in fields},
        }
        if "DefinitionName" in self._plan.definition:
            summary["TrainingJobDefinitionName"] = self._plan.definition["DefinitionName"]
        if trial.objective_status == "Succeeded":
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = {
                "Type": self._plan.objective_type,
                "MetricName": self._plan.metric,
                "Value": trial.history[-1],
            }
        return summary

    def _run(self) -> None:
        try:
            while not self._abandoned and not self._step():
                self._changed.wait(_PAUSE_SECONDS)
                self._changed.clear()
        except Exception as error:
            log.exception("tuning job %s", self._plan.name)
            self._reason = f"InternalServerError: The local SageMaker could not go on with the tuning job: {error}"
            self._stop_trials()
            self._end("Failed")
        finally:
            self.ended = True

    def _step(self) -> bool:
        """Look at the training jobs and do what is due. Whether the tuning job has ended."""
        with self._context.store.lock:
            self._update_record()
            running = [trial for trial in self.trials if not trial.ended]
            enough = self._stopping or self._done or self._reason is not None or self._is_enough()
            all_started = len(self.trials) == len(self._plan.combinations)
        if enough:
            self._done = True
            self._stop_trials()
        elif not all_started and len(running) < self._parallel:
            self._start_next()
            self._changed.set()
            return False
        if running or not (enough or all_started):
            return False
        if self._reason is None and not self._stopping and self.best() is None:
            self._reason = (
                "All training jobs failed. Please take a look at the training job failures to get more details."
            )
        self._end("Failed" if self._reason else "Stopped" if self._stopping else "Completed")
        return True

    def _is_enough(self) -> bool:
        """Whether a limit or a completion criterion is met."""
        plan = self._plan
        known = [trial for trial in self.trials if trial.objective_status == "Succeeded"]
        failed = [trial for trial in self.trials if trial.objective_status == "Failed"]
        if not known and len(failed) >= _HOPELESS:
            self._reason = (
                f"No training job succeeded after {_HOPELESS} attempts. Please take a look at the training job "
                "failures to get more details."
            )
            return True
        best = self.best()
        return (
            time.monotonic() - self._started > plan.max_runtime
            or (
                plan.target is not None and best is not None and plan.sign * best.history[-1] <= plan.sign * plan.target
            )
            or (plan.max_not_improving is not None and self._not_improving() >= plan.max_not_improving)
        )

    def _not_improving(self) -> int:
        """How many training jobs have ended since one was better than all before it, by 1% or more."""
        best, count = None, 0
        ended = [trial for trial in self.trials if trial.objective_status == "Succeeded"]
        for trial in sorted(ended, key=lambda trial: trial.record.fields["TrainingEndTime"]):
            value = self._plan.sign * trial.history[-1]
            if best is None or value < best - _IMPROVEMENT * abs(best):
                best, count = value, 0
            else:
                count += 1
        return count

    def _start_next(self) -> None:
        number = len(self.trials)
        history: list[float] = []

        def on_metric(metric: str, value: float) -> None:
            if metric == self._plan.metric:
                with self._context.store.lock:
                    history.append(value)
                    if self._shall_stop_early(self.trials[number]):
                        self._changed.set()

        request = self._plan.training_job(number, self._plan.training_job_name(number))
        try:
            # Held until the trial is listed, so that its first value finds it.
            with self._context.store.lock:
                record = training_jobs.create_training_job(self._context, request, self._record.arn, on_metric)
                self.trials.append(Trial(record, self._plan.combinations[number], history))
        except Fault as fault:
            if fault.code != "ResourceLimitExceeded":
                self._reason = f"A training job could not be created: {fault.message}"
            else:
                self._changed.wait(_PAUSE_SECONDS)
            return
        log.info("tuning job %s: training job %s", self._plan.name, record.name)

    def _shall_stop_early(self, trial: Trial) -> bool:
        """The median rule of early stopping; marks a training job that is worse."""
        if not self._plan.stops_early or trial.asked_to_stop:
            return False
        steps = len(trial.history)
        others = [
            statistics.fmean(other.history[:steps])
            for other in self.trials
            if other is not trial and other.objective_status == "Succeeded" and len(other.history) >= steps
        ]
        if len(others) < _COMPARED:
            return False
        sign = self._plan.sign
        trial.asked_to_stop = sign * trial.history[-1] > sign * statistics.median(others)
        return trial.asked_to_stop

    def _stop_trials(self) -> None:
        for trial in list(self.trials):
            trial.asked_to_stop = True
        self._stop_asked()

    def _stop_asked(self) -> None:
        for trial in list(self.trials):
            if trial.asked_to_stop and trial.status == "InProgress":
                try:
                    training_jobs.stop_training_job(self._context, trial.record.name)
                except Fault as fault:
                    log.info("training job %s ended before it was stopped: %s", trial.record.name, fault.message)

    def _update_record(self) -> None:
        self._stop_asked()
        statuses = [trial.status for trial in self.trials]
        objectives = [trial.objective_status for trial in self.trials]
        fields = self._record.fields
        fields["TrainingJobStatusCounters"] = {
            "Completed": statuses.count("Completed"),
            "InProgress": statuses.count("InProgress") + statuses.count("Stopping"),
            "RetryableError": 0,
            "NonRetryableError": statuses.count("Failed"),
            "Stopped": statuses.count("Stopped"),
        }
        fields["ObjectiveStatusCounters"] = {
            status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
        }
        fields["ConsumedResources"] = {"RuntimeInSeconds": round(time.monotonic() - self._started)}
        fields["TuningJobCompletionDetails"] = {"NumberOfTrainingJobsObjectiveNotImproving": self._not_improving()}
        best = self.best()
        if best is not None:
            fields["BestTrainingJob"] = self.summary(best)

    def _end(self, status: str) -> None:
        if self._plan.keeps_containers:
            for trial in self.trials:
                self._context.warm_pools.update(trial.record, 0)
        with self._context.store.lock:
            self._update_record()
            fields = self._record.fields
            fields["HyperParameterTuningJobStatus"] = status
            fields["HyperParameterTuningEndTime"] = self._record.modified = round(time.time(), 3)
            if self._reason is not None:
                fields["FailureReason"] = self._reason[:_MAX_FAILURE_REASON]
        log.info("tuning job %s is %s%s", self._plan.name, status, f": {self._reason}" if self._reason else "")
