"""The operations of training jobs, and what the server does with jobs at its start and its end."""

from __future__ import annotations

import copy
import functools
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .context import Context, Operation
from .faults import Fault, validation_exception
from .models import refuse_unsupported
from .records import Kind, Record, page, select
from .state import StateFolder
from .training_plans import plan_of
from .training_progress import ENDED, TrainingProgress
from .training_requests import checked
from .training_runs import Environs, TrainingRun

TRAINING_JOB = Kind(noun="training job", arn_type="training-job")

MAX_INSTANCES = 20
"""Instances of all training jobs together."""
STOP_SECONDS = 120.0
"""How long a container may take to end after SIGTERM, as on AWS."""

_DESCRIBED = (
    "HyperParameters", "AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig",
    "StoppingCondition", "EnableNetworkIsolation", "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining", "CheckpointConfig", "DebugHookConfig", "TensorBoardOutputConfig", "ProfilerConfig",
    "Environment", "RetryStrategy", "RemoteDebugConfig", "InfraCheckConfig",
)  # fmt: skip

log = logging.getLogger(__name__)


def create_training_job(
    context: Context,
    request: dict[str, Any],
    tuning_job_arn: str | None = None,
    on_metric: Callable[[str, float], None] | None = None,
) -> Record:
    """Create and start a job from a CreateTrainingJob request that fits the service model; returns its record.

    `tuning_job_arn` is of the tuning job that it belongs to, `on_metric` gets each value of its metrics, on a thread.
    Raises faults as AWS does.
    """
    with context.store.lock:
        name = request["TrainingJobName"]
        arn = context.store.arn(TRAINING_JOB, name)
        if context.store.find(arn) is not None:
            raise Fault(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already exists "
                f"({arn})",
            )
        request = checked(context, request)
        _check_capacity(context, request["ResourceConfig"])
        plan = plan_of(request, arn)
        model = "model.tar.gz" if plan.compress_output else "model/"
        fields = {member: request[member] for member in _DESCRIBED if member in request} | {
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "ModelArtifacts": {"S3ModelArtifacts": f"{plan.output_url}/{model}"},
        }
        if tuning_job_arn is not None:
            fields["TuningJobArn"] = tuning_job_arn
        record = context.store.create(TRAINING_JOB, name, fields, request.get("Tags"))
        progress = TrainingProgress(record, context.store.lock, context.state)
        on_end = functools.partial(_forget, context, record)
        run = TrainingRun(plan, progress, _environs(context, on_metric), context.warm_pools, on_end)
        context.training_runs[arn] = run
    run.start()
    return record


def _create_training_job(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    return {"TrainingJobArn": create_training_job(context, request).arn}


def _environs(context: Context, on_metric: Callable[[str, float], None] | None) -> Environs:
    telemetry = context.telemetry

    def metric(job: str, name: str, value: float, timestamp: float) -> None:
        telemetry.training_metric(job, name, value, timestamp)
        if on_metric is not None:
            on_metric(name, value)

    return Environs(
        region=context.region,
        storage=context.moto,
        folder=context.state.training,
        artifacts=context.state.artifacts,
        log=telemetry.log_training,
        metric=metric,
        flush=telemetry.flush,
        container_environment=context.container_environment,
        grace_seconds=float(os.environ.get("SAGEMAKER_LOCAL_STOP_SECONDS", STOP_SECONDS)),
    )


def _check_capacity(context: Context, resources: dict[str, Any]) -> None:
    used = sum(run.plan.instance_count for run in context.training_runs.values())
    wanted = resources["InstanceCount"]
    if used + wanted > MAX_INSTANCES:
        raise Fault(
            "ResourceLimitExceeded",
            f"The account-level service limit '{resources['InstanceType']} for training job usage' is {MAX_INSTANCES} "
            f"Instances, with current utilization of {used} Instances and a request delta of {wanted} Instances. "
            "(The local SageMaker allows that many in all, whatever their type.)",
        )


def _forget(context: Context, record: Record) -> None:
    context.telemetry.forget_training(record.name)
    context.training_runs.pop(record.arn, None)


def get(context: Context, name: str) -> Record:
    """The record of a job. Raises AWS's fault where there is none."""
    record = context.store.find(context.store.arn(TRAINING_JOB, name))
    if record is None:
        raise validation_exception("Requested resource not found.")
    return record


def _describe_training_job(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = get(context, request["TrainingJobName"])
        return {
            "TrainingJobName": record.name,
            "TrainingJobArn": record.arn,
            "CreationTime": record.created,
            "LastModifiedTime": record.modified,
            **copy.deepcopy(record.fields),
        }


def _list_training_jobs(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    if "TrainingPlanArnEquals" in request:
        raise validation_exception("The local SageMaker has no training plans.")
    with context.store.lock:
        # Ascending is this operation's default.
        records = select(
            context.store.all(TRAINING_JOB), {"SortOrder": "Ascending"} | request, status_member="TrainingJobStatus"
        )
        wanted = request.get("WarmPoolStatusEquals")
        summaries = [
            summary(record)
            for record in records
            if wanted is None or record.fields.get("WarmPoolStatus", {}).get("Status") == wanted
        ]
    return page(summaries, request, "TrainingJobSummaries", key=lambda summary: summary["TrainingJobArn"])


def summary(record: Record) -> dict[str, Any]:
    """A job as lists have it."""
    optional = ("TrainingEndTime", "WarmPoolStatus")
    return {
        "TrainingJobName": record.name,
        "TrainingJobArn": record.arn,
        "CreationTime": record.created,
        "LastModifiedTime": record.modified,
        "TrainingJobStatus": record.fields["TrainingJobStatus"],
        "SecondaryStatus": record.fields["SecondaryStatus"],
        **{member: record.fields[member] for member in optional if member in record.fields},
    }


def stop_training_job(context: Context, name: str) -> None:
    """Have a job end; returns at once. Raises the ValidationException fault for one that has ended or never was."""
    with context.store.lock:
        record = get(context, name)
        status = record.fields["TrainingJobStatus"]
        run = context.training_runs.get(record.arn)
        if status in ENDED or run is None:
            raise validation_exception(f"The request was rejected because the training job is in status {status}.")
        if status == "Stopping":
            return
        TrainingProgress(record, context.store.lock, context.state).enter(
            "Stopping", "Stopping the training job", status="Stopping"
        )
    run.stop()


def _stop_training_job(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    stop_training_job(context, request["TrainingJobName"])
    return {}


def _update_training_job(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    refuse_unsupported(
        request, ("ProfilerConfig", "ProfilerRuleConfigurations", "RemoteDebugConfig"), "UpdateTrainingJob"
    )
    record = get(context, request["TrainingJobName"])
    seconds = request.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds")
    if seconds is not None and not context.warm_pools.update(record, seconds):
        raise validation_exception(f"Training job {record.name} has no warm pool that is available.")
    return {"TrainingJobArn": record.arn}


def interrupt(context: Context, name: str, seconds: float) -> None:
    """Take a managed spot training job's instances away, and give it others after so many seconds. Raises faults."""
    record = get(context, name)
    if not record.fields["EnableManagedSpotTraining"]:
        raise validation_exception(
            f"Training job {record.name} does not run on spot instances: it was created without "
            "EnableManagedSpotTraining, so nothing interrupts it."
        )
    run = context.training_runs.get(record.arn)
    if run is None or not run.interrupt(seconds):
        raise validation_exception(
            f"Training job {record.name} cannot be interrupted now: its status is "
            f"{record.fields['TrainingJobStatus']} ({record.fields['SecondaryStatus']}), not Training."
        )


def restore_lost(context: Context) -> None:
    """List the jobs that were under way when the last server was killed: as failed, with the reason."""
    for lost in context.state.take_training_records():
        fields = lost.get("fields")
        if fields is None:
            log.error("the record of training job %s cannot be read", lost["name"])
            continue
        record = context.store.create(TRAINING_JOB, lost["name"], fields, None)
        record.tags, record.created = lost["tags"], lost["created"]
        reason = (
            "InternalServerError: The local SageMaker was killed while this job was under way "
            f"({fields['SecondaryStatus']}). Its processes ended with it; its input, checkpoints and artifacts in S3 "
            f"are gone. What it printed until then: {context.state.training_logs / record.name}"
        )
        TrainingProgress(record, context.store.lock, context.state).end(
            "Failed", "Failed", "Training job failed: the local SageMaker was killed", reason
        )


def abandon_all(context: Context) -> None:
    """End every job's and warm pool's processes, because the server ends; returns when they are gone."""
    runs = list(context.training_runs.values())
    if runs:
        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(lambda run: run.abandon(), runs))
    context.warm_pools.close()


def describe_all(context: Context, state: StateFolder) -> list[dict[str, Any]]:
    """Name, status, seconds since creation and log folder of every job under way."""
    return [
        {
            "name": run.plan.name,
            "status": context.store.by_arn(arn).fields["SecondaryStatus"],
            "seconds": round(time.time() - context.store.by_arn(arn).created, 1),
            "logs": str(state.training_logs / run.plan.name),
        }
        for arn, run in list(context.training_runs.items())
    ]


OPERATIONS: dict[str, Operation] = {
    "CreateTrainingJob": _create_training_job,
    "DescribeTrainingJob": _describe_training_job,
    "ListTrainingJobs": _list_training_jobs,
    "StopTrainingJob": _stop_training_job,
    "UpdateTrainingJob": _update_training_job,
}
