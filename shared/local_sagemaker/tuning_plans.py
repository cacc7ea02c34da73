"""What a tuning job shall do: a CreateHyperParameterTuningJob request, checked and in terms of this package."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Any

from . import training_requests
from .context import Context
from .faults import validation_exception
from .models import refuse_unsupported
from .schema import validate
from .tuning_ranges import draws, grid, read_ranges

OBJECTIVE_HYPERPARAMETER = "_tuning_objective_metric"
"""The hyperparameter in which AWS tells a training job the tuning job's objective metric."""
_MAX_JOBS = 500
_KEEP_ALIVE_SECONDS = 60
"""How long a training job's containers wait for the next one of the tuning job."""

_UNSUPPORTED = ("TrainingJobDefinitions", "WarmStartConfig", "Autotune")
_UNSUPPORTED_IN_DEFINITION = (
    "TuningObjective",
    "HyperParameterRanges",
    "VpcConfig",
)
_TAKEN_OVER = (
    "RoleArn",
    "InputDataConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "RetryStrategy",
    "Environment",
)


@dataclass(frozen=True)
class TuningPlan:
    """A tuning job: which combinations of hyperparameters it trains, how many at a time, and when it is done.

    `sign` is 1 where the objective is to be small, else -1. Times in seconds.
    """

    name: str
    combinations: list[dict[str, str]]
    parallel: int
    metric: str
    sign: int
    objective_type: str
    stops_early: bool
    max_runtime: float
    target: float | None
    max_not_improving: int | None
    definition: dict[str, Any]
    tags: list[dict[str, str]]

    def training_job(self, number: int, name: str) -> dict[str, Any]:
        """The CreateTrainingJob request of the `number`-th combination, counted from 0."""
        definition = self.definition
        algorithm = definition["AlgorithmSpecification"]
        request = {member: definition[member] for member in _TAKEN_OVER if member in definition} | {
            "ResourceConfig": self._keep_alive() | definition["ResourceConfig"],
            "TrainingJobName": name,
            "AlgorithmSpecification": algorithm,
            "HyperParameters": definition["StaticHyperParameters"] | self.combinations[number],
        }
        if self.tags:
            request["Tags"] = self.tags
        if "CheckpointConfig" in definition:
            # One folder for all would have the second job go on with the first one's weights.
            checkpoints = definition["CheckpointConfig"]
            request["CheckpointConfig"] = checkpoints | {"S3Uri": f"{checkpoints['S3Uri'].rstrip('/')}/{name}"}
        return validate("sagemaker", "CreateTrainingJob", request)

    @property
    def keeps_containers(self) -> bool:
        """Whether the tuning job, not its request, has containers kept between its training jobs."""
        return not (
            self.definition.get("EnableManagedSpotTraining")
            or "KeepAlivePeriodInSeconds" in self.definition["ResourceConfig"]
        )

    def _keep_alive(self) -> dict[str, Any]:
        return {"KeepAlivePeriodInSeconds": _KEEP_ALIVE_SECONDS} if self.keeps_containers else {}

    def training_job_name(self, number: int) -> str:
        """A new name for the `number`-th training job, counted from 0."""
        return f"{self.name}-{number + 1:03d}-{secrets.token_hex(4)}"


def plan_of(context: Context, request: dict[str, Any]) -> TuningPlan:
    """The plan of a request that fits the service model. Raises the ValidationException fault as AWS would."""
    refuse_unsupported(request, _UNSUPPORTED, "CreateHyperParameterTuningJob")
    config = request["HyperParameterTuningJobConfig"]
    if "TrainingJobDefinition" not in request:
        raise validation_exception("TrainingJobDefinition must be given to create a tuning job.")
    definition = dict(request["TrainingJobDefinition"])
    refuse_unsupported(definition, _UNSUPPORTED_IN_DEFINITION, "TrainingJobDefinition")
    combinations = _combinations(config, definition.get("StaticHyperParameters", {}))
    parallel = config["ResourceLimits"]["MaxParallelTrainingJobs"]
    if parallel > len(combinations):
        raise validation_exception(
            f"MaxParallelTrainingJobs ({parallel}) cannot be larger than MaxNumberOfTrainingJobs ({len(combinations)})."
        )
    objective = _objective(config, definition)
    definition["ResourceConfig"] = _resources(definition)
    definition["OutputDataConfig"] = training_requests.OUTPUT_DEFAULTS | definition["OutputDataConfig"]
    definition["StaticHyperParameters"] = definition.get("StaticHyperParameters", {}) | {
        OBJECTIVE_HYPERPARAMETER: objective["MetricName"]
    }
    criteria = config.get("TuningJobCompletionCriteria", {})
    refuse_unsupported(criteria, ("ConvergenceDetected",), "TuningJobCompletionCriteria")
    plan = TuningPlan(
        name=request["HyperParameterTuningJobName"],
        combinations=combinations,
        parallel=parallel,
        metric=objective["MetricName"],
        sign=1 if objective["Type"] == "Minimize" else -1,
        objective_type=objective["Type"],
        stops_early=config.get("TrainingJobEarlyStoppingType", "Off") == "Auto",
        max_runtime=config["ResourceLimits"].get("MaxRuntimeInSeconds", math.inf),
        target=criteria.get("TargetObjectiveMetricValue"),
        max_not_improving=criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving"),
        definition=definition,
        tags=request.get("Tags", []),
    )
    # What a training job would be refused for is refused now, not when the first one is due.
    training_requests.checked(context, plan.training_job(0, plan.training_job_name(0)))
    return plan


def _resources(definition: dict[str, Any]) -> dict[str, Any]:
    """The ResourceConfig of the training jobs; of several instance types in order of preference the first one."""
    given = ("ResourceConfig", "HyperParameterTuningResourceConfig")
    if sum(member in definition for member in given) != 1:
        raise validation_exception(f"Exactly one of {' and '.join(given)} must be given in TrainingJobDefinition.")
    if "ResourceConfig" in definition:
        return definition["ResourceConfig"]
    resources = dict(definition["HyperParameterTuningResourceConfig"])
    resources.pop("AllocationStrategy", None)
    configs = resources.pop("InstanceConfigs", [])
    if configs and resources.keys() & {"InstanceType", "InstanceCount", "VolumeSizeInGB"}:
        raise validation_exception("InstanceConfigs exclude InstanceType, InstanceCount and VolumeSizeInGB.")
    return resources | (configs[0] if configs else {})


def _combinations(config: dict[str, Any], static: dict[str, str]) -> list[dict[str, str]]:
    strategy = config["Strategy"]
    if strategy not in ("Grid", "Random"):
        raise validation_exception(
            f"The local SageMaker does not support the tuning strategy {strategy}; it has Random and Grid."
        )
    refuse_unsupported(config, ("StrategyConfig",), "HyperParameterTuningJobConfig")
    given = config.get("ParameterRanges", {})
    if given.get("AutoParameters"):
        raise validation_exception("The local SageMaker does not support AutoParameters in ParameterRanges.")
    ranges = read_ranges(given, static)
    wanted = config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
    if strategy == "Grid":
        combinations = grid(ranges)
        if wanted not in (None, len(combinations)):
            raise validation_exception(
                f"MaxNumberOfTrainingJobs ({wanted}) must be the number of combinations of a Grid "
                f"({len(combinations)}), or be left out."
            )
    elif wanted is None:
        raise validation_exception("MaxNumberOfTrainingJobs must be given for the strategy Random.")
    if max(wanted or 0, len(combinations) if strategy == "Grid" else 0) > _MAX_JOBS:
        raise validation_exception(f"A tuning job can have at most {_MAX_JOBS} training jobs.")
    return combinations if strategy == "Grid" else draws(ranges, wanted, config.get("RandomSeed"))


def _objective(config: dict[str, Any], definition: dict[str, Any]) -> dict[str, str]:
    if "HyperParameterTuningJobObjective" not in config:
        raise validation_exception("HyperParameterTuningJobObjective must be given to create a tuning job.")
    objective = config["HyperParameterTuningJobObjective"]
    names = [metric["Name"] for metric in definition["AlgorithmSpecification"].get("MetricDefinitions", [])]
    if objective["MetricName"] not in names:
        raise validation_exception(
            f"The objective metric for the hyperparameter tuning job, [{objective['MetricName']}], isn't one of the "
            f"MetricDefinitions of the training jobs: [{', '.join(names)}]."
        )
    return objective
