"""The operations of hyperparameter tuning jobs, and what the server does with them."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

from .context import Context, Operation
from .faults import Fault, validation_exception
from .records import Kind, Record, page, select
from .tuning_plans import plan_of
from .tuning_runs import TuningRun

TUNING_JOB = Kind(noun="hyper parameter tuning job", arn_type="hyper-parameter-tuning-job")

LOCAL_PARALLEL_JOBS = 2
"""Training jobs of a tuning job at a time, unless SAGEMAKER_LOCAL_PARALLEL_JOBS says otherwise."""


def _create(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        name = request["HyperParameterTuningJobName"]
        arn = context.store.arn(TUNING_JOB, name)
        if context.store.find(arn) is not None:
            raise Fault(
                "ResourceInUse",
                "Tuning job name must be unique within an AWS account and region, and a tuning job with this name "
                f"already exists ({arn})",
            )
        plan = plan_of(context, request)
        fields = {
            "HyperParameterTuningJobConfig": request["HyperParameterTuningJobConfig"],
            "TrainingJobDefinition": plan.definition,
            "HyperParameterTuningJobStatus": "InProgress",
            "TrainingJobStatusCounters": dict.fromkeys(
                ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped"), 0
            ),
            "ObjectiveStatusCounters": dict.fromkeys(("Succeeded", "Pending", "Failed"), 0),
        }
        record = context.store.create(TUNING_JOB, name, fields, request.get("Tags"))
        limit = max(1, int(float(os.environ.get("SAGEMAKER_LOCAL_PARALLEL_JOBS", LOCAL_PARALLEL_JOBS))))
        run = TuningRun(context, record, plan, limit)
        context.tuning_runs[arn] = run
    run.start()
    return {"HyperParameterTuningJobArn": record.arn}


def _get(context: Context, request: dict[str, Any]) -> Record:
    name = request["HyperParameterTuningJobName"]
    record = context.store.find(context.store.arn(TUNING_JOB, name))
    if record is None:
        raise Fault("ResourceNotFound", f"Amazon SageMaker can't find a tuning job with the name {name}.")
    return record


def _describe(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = _get(context, request)
        return _identity(record) | copy.deepcopy(record.fields)


def _identity(record: Record) -> dict[str, Any]:
    return {
        "HyperParameterTuningJobName": record.name,
        "HyperParameterTuningJobArn": record.arn,
        "CreationTime": record.created,
        "LastModifiedTime": record.modified,
    }


def _list(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    asked = {"SortBy": "Name", "SortOrder": "Ascending"} | request
    with context.store.lock:
        records = select(context.store.all(TUNING_JOB), asked, status_member="HyperParameterTuningJobStatus")
        summaries = [_summary(record) for record in records]
    return page(
        summaries,
        request,
        "HyperParameterTuningJobSummaries",
        key=lambda summary: summary["HyperParameterTuningJobArn"],
    )


def _summary(record: Record) -> dict[str, Any]:
    config = record.fields["HyperParameterTuningJobConfig"]
    members = (
        "HyperParameterTuningJobStatus",
        "HyperParameterTuningEndTime",
        "TrainingJobStatusCounters",
        "ObjectiveStatusCounters",
    )
    return (
        _identity(record)
        | {member: copy.copy(record.fields[member]) for member in members if member in record.fields}
        | {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}
    )


def _list_training_jobs(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        run = context.tuning_runs[_get(context, request).arn]
        summaries = [run.summary(trial) for trial in run.trials]
    if "StatusEquals" in request:
        summaries = [each for each in summaries if each["TrainingJobStatus"] == request["StatusEquals"]]
    sort_by = request.get("SortBy", "Name")
    if sort_by == "FinalObjectiveMetricValue":
        metric = "FinalHyperParameterTuningJobObjectiveMetric"
        summaries = sorted((each for each in summaries if metric in each), key=lambda each: each[metric]["Value"])
    else:
        member = {"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, sort_by)
        summaries.sort(key=lambda each: (each[member], each["TrainingJobName"]))
    if request.get("SortOrder") == "Descending":
        summaries.reverse()
    return page(summaries, request, "TrainingJobSummaries", key=lambda summary: summary["TrainingJobArn"])


def _stop(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = _get(context, request)
        status = record.fields["HyperParameterTuningJobStatus"]
        if status not in ("InProgress", "Stopping"):
            raise validation_exception(f"The request was rejected because the tuning job is in status {status}.")
        record.fields["HyperParameterTuningJobStatus"] = "Stopping"
        record.modified = round(time.time(), 3)
        context.tuning_runs[record.arn].stop()
    return {}


def abandon_all(context: Context) -> None:
    """Start no further training jobs, because the server ends."""
    for run in list(context.tuning_runs.values()):
        run.abandon()


def is_tuning(context: Context) -> bool:
    """Whether a tuning job is under way."""
    return any(not run.ended for run in list(context.tuning_runs.values()))


OPERATIONS: dict[str, Operation] = {
    "CreateHyperParameterTuningJob": _create,
    "DescribeHyperParameterTuningJob": _describe,
    "ListHyperParameterTuningJobs": _list,
    "ListTrainingJobsForHyperParameterTuningJob": _list_training_jobs,
    "StopHyperParameterTuningJob": _stop,
}
