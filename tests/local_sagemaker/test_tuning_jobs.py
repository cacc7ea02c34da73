"""Hyperparameter tuning jobs under boto3, with real training jobs: searched, compared, stopped, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from front_support import ACCOUNT, BUCKET, ROLE, ROOT, LocalServer, command, error_of
from front_support import start as start_server
from training_support import TRAINING_IMAGE, channel, put, read, sourcedir, wait_for_line

from shared.local_sagemaker import tuning_ranges

# The loss is smallest where x is 3 and the optimizer is b. It is printed twice: the last value counts.
SCRIPT = """
import argparse, os, pathlib, time
parser = argparse.ArgumentParser()
parser.add_argument("-x", type=float)
for name in ("rate", "wait", "fail_at", "quiet_at", "hang_at"):
    parser.add_argument("--" + name, type=float)
parser.add_argument("--optimizer", default="a")
given = parser.parse_args()
x = given.x or 0.0
loss = (x - 3) ** 2 + (given.optimizer != "b")
if given.fail_at == x:
    raise ValueError(f"x must not be {x}")
if given.quiet_at != x:
    print(f"loss={loss + 100}", flush=True)
time.sleep(60 if given.hang_at == x else given.wait or 0)
if given.quiet_at != x:
    print(f"loss={loss}")
pathlib.Path(os.environ["SM_MODEL_DIR"], "loss.txt").write_text(str(loss))
"""
LOSS = {"Name": "loss", "Regex": "loss=([0-9.]+)"}


@pytest.fixture(scope="module")
def source(server: LocalServer) -> str:
    """The URL of a sourcedir.tar.gz with SCRIPT."""
    return put(server, "tuning/sourcedir.tar.gz", sourcedir({"train.py": SCRIPT}))


def categories(**values: list[str]) -> dict[str, Any]:
    return {"CategoricalParameterRanges": [{"Name": name, "Values": texts} for name, texts in values.items()]}


def request_for(source: str, name: str, ranges: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    """A request for a grid search, two training jobs at a time; members of `changes` replace its."""
    config = {
        "Strategy": "Grid",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
        "ResourceLimits": {"MaxParallelTrainingJobs": 2} | changes.pop("limits", {}),
        "ParameterRanges": ranges,
    } | changes.pop("config", {})
    definition = {
        "StaticHyperParameters": {"sagemaker_program": "train.py", "sagemaker_submit_directory": source}
        | changes.pop("static", {}),
        "AlgorithmSpecification": {
            "TrainingImage": TRAINING_IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [LOSS],
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/tuned"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 50},
    } | changes.pop("definition", {})
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {key: value for key, value in config.items() if value is not None},
        "TrainingJobDefinition": {key: value for key, value in definition.items() if value is not None},
    } | changes


def start(server: LocalServer, *arguments: Any, **changes: Any) -> str:
    request = request_for(*arguments, **changes)
    return server.client("sagemaker").create_hyper_parameter_tuning_job(**request)["HyperParameterTuningJobArn"]


def describe(server: LocalServer, name: str) -> dict[str, Any]:
    return server.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def trials(server: LocalServer, name: str, **options: Any) -> list[dict[str, Any]]:
    answer = server.client("sagemaker").list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, **({"MaxResults": 100} | options)
    )
    return answer["TrainingJobSummaries"]


def wait_for_end(server: LocalServer, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        described = describe(server, name)
        if described["HyperParameterTuningJobStatus"] not in ("InProgress", "Stopping"):
            return described
        running = described["TrainingJobStatusCounters"]["InProgress"]
        assert running <= 2, "two training jobs at a time"
        time.sleep(0.05)
    raise AssertionError(f"tuning job {name} does not end: {trials(server, name)}")


def tune(server: LocalServer, *arguments: Any, **changes: Any) -> dict[str, Any]:
    start(server, *arguments, **changes)
    return wait_for_end(server, arguments[1])


def value_of(trial: dict[str, Any]) -> float:
    return trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]


def test_a_grid_is_searched_and_the_best_one_is_named(server: LocalServer, source: str) -> None:
    data = put(server, "tuning/data/rows.txt", "rows")
    arn = start(
        server,
        source,
        "Grid-1",
        categories(x=["1", "3"], optimizer=["a", "b"]),
        Tags=[{"Key": "workshop", "Value": "genai"}],
        definition={"InputDataConfig": [channel("train", data)], "DefinitionName": "runs"},
    )
    assert arn == f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:hyper-parameter-tuning-job/grid-1"
    first = describe(server, "Grid-1")
    assert first["HyperParameterTuningJobStatus"] == "InProgress"
    assert "HyperParameterTuningEndTime" not in first
    done = wait_for_end(server, "Grid-1")
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    assert done["TrainingJobStatusCounters"] == {
        "Completed": 4, "InProgress": 0, "RetryableError": 0, "NonRetryableError": 0, "Stopped": 0,
    }  # fmt: skip
    assert done["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}
    assert done["HyperParameterTuningEndTime"] >= done["CreationTime"]
    best = done["BestTrainingJob"]
    assert best["TunedHyperParameters"] == {"x": "3", "optimizer": "b"}
    assert best["FinalHyperParameterTuningJobObjectiveMetric"] == {
        "Type": "Minimize", "MetricName": "loss", "Value": 0.0,
    }  # fmt: skip
    listed = trials(server, "Grid-1", SortBy="FinalObjectiveMetricValue")
    assert [value_of(trial) for trial in listed] == [0, 1, 4, 5]
    assert listed[0]["TrainingJobName"] == best["TrainingJobName"]
    worst_first = trials(server, "Grid-1", SortBy="FinalObjectiveMetricValue", SortOrder="Descending")
    assert [value_of(trial) for trial in worst_first] == [5, 4, 1, 0]
    names = [trial["TrainingJobName"] for trial in trials(server, "Grid-1")]
    assert [name[:11] for name in names] == [f"Grid-1-{number:03d}-" for number in range(1, 5)]
    assert {trial["TrainingJobDefinitionName"] for trial in listed} == {"runs"}

    job = server.client("sagemaker").describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert job["TuningJobArn"] == arn
    assert job["HyperParameters"].items() >= {"x": "3", "optimizer": "b", "_tuning_objective_metric": "loss"}.items()
    assert job["InputDataConfig"][0]["ChannelName"] == "train"
    assert job["ModelArtifacts"]["S3ModelArtifacts"].startswith(f"s3://{BUCKET}/tuned/{best['TrainingJobName']}/")
    assert read(server, job["ModelArtifacts"]["S3ModelArtifacts"])
    tags = server.client("sagemaker").list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    assert (
        tags == server.client("sagemaker").list_tags(ResourceArn=arn)["Tags"] == [{"Key": "workshop", "Value": "genai"}]
    )
    assert done["TrainingJobDefinition"]["StaticHyperParameters"]["_tuning_objective_metric"] == "loss"


def test_random_search_is_the_same_for_the_same_seed(server: LocalServer, source: str) -> None:
    ranges = {
        "IntegerParameterRanges": [{"Name": "x", "MinValue": "-2", "MaxValue": "8"}],
        "ContinuousParameterRanges": [
            {"Name": "rate", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
        ],
        "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["a", "b"]}],
    }
    seen = []
    for name, seed in (("random-1", 7), ("random-2", 7)):
        config = {"Strategy": "Random", "RandomSeed": seed}
        limits = {"MaxNumberOfTrainingJobs": 2}
        done = tune(server, source, name, ranges, config=config, limits=limits)
        assert done["HyperParameterTuningJobStatus"] == "Completed"
        seen.append([trial["TunedHyperParameters"] for trial in trials(server, name)])
        losses = [value_of(trial) for trial in trials(server, name)]
        assert value_of(done["BestTrainingJob"]) == min(losses)
    assert seen[0] == seen[1] != drawn(ranges, 2, seed=8)
    for tuned in seen[0]:
        assert -2 <= int(tuned["x"]) <= 8
        assert 0.0001 <= float(tuned["rate"]) <= 0.1
        assert tuned["optimizer"] in ("a", "b")


def test_maximising_and_one_at_a_time(server: LocalServer, source: str) -> None:
    objective = {"Type": "Maximize", "MetricName": "loss"}
    start(
        server,
        source,
        "maximum",
        categories(x=["1", "9", "2"]),
        limits={"MaxParallelTrainingJobs": 1},
        config={"HyperParameterTuningJobObjective": objective},
    )
    done = wait_for_end(server, "maximum")
    assert done["BestTrainingJob"]["TunedHyperParameters"] == {"x": "9"}
    jobs = trials(server, "maximum", SortBy="CreationTime")
    for before, after in zip(jobs, jobs[1:], strict=False):
        assert after["CreationTime"] >= before["TrainingEndTime"]


def test_jobs_that_fail_or_say_nothing_are_counted(server: LocalServer, source: str) -> None:
    done = tune(server, source, "some-fail", categories(x=["1", "2", "5"]), static={"fail_at": "2", "quiet_at": "5"})
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    assert done["TrainingJobStatusCounters"]["NonRetryableError"] == 1
    assert done["TrainingJobStatusCounters"]["Completed"] == 2
    assert done["ObjectiveStatusCounters"] == {"Succeeded": 1, "Pending": 0, "Failed": 2}
    assert done["BestTrainingJob"]["TunedHyperParameters"] == {"x": "1"}
    failed = trials(server, "some-fail", StatusEquals="Failed")
    assert len(failed) == 1
    assert "ValueError: x must not be 2.0" in failed[0]["FailureReason"]
    assert failed[0]["ObjectiveStatus"] == "Failed"
    assert len(trials(server, "some-fail", SortBy="FinalObjectiveMetricValue")) == 1


def test_a_tuning_job_without_hope_fails(server: LocalServer, source: str) -> None:
    many = [str(number / 10) for number in range(10)]
    done = tune(server, source, "hopeless", categories(rate=many), static={"fail_at": "0"})
    assert done["HyperParameterTuningJobStatus"] == "Failed"
    assert done["FailureReason"].startswith("No training job succeeded after 5 attempts")
    assert "BestTrainingJob" not in done
    assert len(trials(server, "hopeless")) <= 7
    done = tune(server, source, "hopeless-2", categories(rate=["1", "2"]), static={"fail_at": "0"})
    assert done["HyperParameterTuningJobStatus"] == "Failed"
    assert done["FailureReason"].startswith("All training jobs failed")


def test_stopping(server: LocalServer, source: str) -> None:
    stop = server.client("sagemaker").stop_hyper_parameter_tuning_job
    start(server, source, "stopped", categories(x=["1", "2", "3", "4"]), static={"wait": "60"})
    while len(trials(server, "stopped", StatusEquals="InProgress")) < 2:
        time.sleep(0.02)
    for trial in trials(server, "stopped"):
        wait_for_line(
            server, trial["TrainingJobName"], f"loss={(float(trial['TunedHyperParameters']['x']) - 3) ** 2 + 101}"
        )
    stop(HyperParameterTuningJobName="stopped")
    assert describe(server, "stopped")["HyperParameterTuningJobStatus"] in ("Stopping", "Stopped")
    done = wait_for_end(server, "stopped")
    assert done["HyperParameterTuningJobStatus"] == "Stopped"
    assert done["TrainingJobStatusCounters"]["Stopped"] == 2
    assert done["ObjectiveStatusCounters"]["Succeeded"] == 2
    assert len(trials(server, "stopped")) == 2
    code, message, _ = error_of(stop, HyperParameterTuningJobName="stopped")
    assert code == "ValidationException" and "in status Stopped" in message


def test_a_training_job_that_is_stopped_by_hand_leaves_the_others(server: LocalServer, source: str) -> None:
    start(server, source, "one-stopped", categories(wait=["60", "0", "0.1"]))
    while not trials(server, "one-stopped"):
        time.sleep(0.02)
    first = trials(server, "one-stopped")[0]["TrainingJobName"]
    server.client("sagemaker").stop_training_job(TrainingJobName=first)
    done = wait_for_end(server, "one-stopped")
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    assert done["TrainingJobStatusCounters"] | {"Completed": 2, "Stopped": 1} == done["TrainingJobStatusCounters"]


def test_a_server_that_stops_ends_its_tuning_jobs(state: Path) -> None:
    server = start_server(state)
    source = put(server, "tuning/sourcedir.tar.gz", sourcedir({"train.py": SCRIPT}))
    start(server, source, "ended", categories(x=["1", "2", "3"]), static={"wait": "600"})
    while len(trials(server, "ended", StatusEquals="InProgress")) < 2:
        time.sleep(0.02)
    process = psutil.Process(server.record()["pid"])
    children = process.children(recursive=True)
    command("stop", state=state)
    assert not psutil.wait_procs([process, *children], timeout=20)[1]
    log = (state / "logs" / "server.log").read_text()
    assert "Traceback" not in log
    assert len(re.findall(r"training job ended-\d{3}-[0-9a-f]{8} is Stopped", log)) == 2


def test_completion_criteria(server: LocalServer, source: str) -> None:
    one = {"MaxParallelTrainingJobs": 1}
    values = categories(x=["5", "3", "1", "2", "4"])
    criteria = {"TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": 1.5}}
    done = tune(server, source, "target", values, limits=one, config=criteria)
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    assert [value_of(trial) for trial in trials(server, "target")] == [5.0, 1.0]
    values = categories(rate=["1", "2", "3", "4", "5", "6"])
    criteria = {
        "TuningJobCompletionCriteria": {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    }
    done = tune(server, source, "not-improving", values, limits=one, config=criteria)
    assert len(trials(server, "not-improving")) == 4
    assert done["TuningJobCompletionDetails"]["NumberOfTrainingJobsObjectiveNotImproving"] == 3


def test_early_stopping_stops_what_is_worse_than_the_median(server: LocalServer, source: str) -> None:
    done = tune(
        server,
        source,
        "early",
        categories(x=["3", "4", "40", "1"]),
        limits={"MaxParallelTrainingJobs": 1},
        static={"hang_at": "40"},
        config={"TrainingJobEarlyStoppingType": "Auto"},
    )
    assert done["HyperParameterTuningJobStatus"] == "Completed"
    worst = trials(server, "early", StatusEquals="Stopped")
    assert [trial["TunedHyperParameters"]["x"] for trial in worst if trial["ObjectiveStatus"] == "Succeeded"][0] == "40"
    assert value_of(worst[0]) == 1470
    assert done["BestTrainingJob"]["TunedHyperParameters"]["x"] == "3"


def test_what_training_jobs_are_given(server: LocalServer, source: str) -> None:
    url = f"s3://{BUCKET}/tuned-checkpoints/"
    instances = [
        {"InstanceType": kind, "InstanceCount": 1, "VolumeSizeInGB": 30} for kind in ("ml.g5.xlarge", "ml.m5.xlarge")
    ]
    definition = {
        "CheckpointConfig": {"S3Uri": url},
        "ResourceConfig": None,
        "HyperParameterTuningResourceConfig": {"InstanceConfigs": instances, "AllocationStrategy": "Prioritized"},
    }
    tune(server, source, "given", categories(x=["1", "2"]), definition=definition)
    names = [trial["TrainingJobName"] for trial in trials(server, "given")]
    jobs = [server.client("sagemaker").describe_training_job(TrainingJobName=name) for name in names]
    assert [job["CheckpointConfig"]["S3Uri"] for job in jobs] == [f"{url}{name}" for name in names], "kept apart"
    assert {job["ResourceConfig"]["InstanceType"] for job in jobs} == {"ml.g5.xlarge"}
    # Nothing is kept for long once the tuning job has ended.
    deadline = time.monotonic() + 20
    while any(job["WarmPoolStatus"]["Status"] == "Available" for job in jobs):
        assert time.monotonic() < deadline
        jobs = [server.client("sagemaker").describe_training_job(TrainingJobName=name) for name in names]


def test_lists(server: LocalServer, source: str) -> None:
    for name in ("list-b", "list-a", "list-c"):
        tune(server, source, name, categories(x=["1"]), limits={"MaxParallelTrainingJobs": 1})
    listing = server.client("sagemaker").list_hyper_parameter_tuning_jobs
    answer = listing(NameContains="list-", MaxResults=2)
    names = [found["HyperParameterTuningJobName"] for found in answer["HyperParameterTuningJobSummaries"]]
    rest = listing(NameContains="list-", MaxResults=2, NextToken=answer["NextToken"])
    names += [found["HyperParameterTuningJobName"] for found in rest["HyperParameterTuningJobSummaries"]]
    assert names == ["list-a", "list-b", "list-c"]
    summary = rest["HyperParameterTuningJobSummaries"][0]
    assert (summary["Strategy"], summary["HyperParameterTuningJobStatus"]) == ("Grid", "Completed")
    newest = listing(NameContains="list-", SortBy="CreationTime", SortOrder="Descending")
    assert newest["HyperParameterTuningJobSummaries"][0]["HyperParameterTuningJobName"] == "list-c"
    assert listing(NameContains="list-", StatusEquals="Failed")["HyperParameterTuningJobSummaries"] == []


RANDOM = {"Strategy": "Random"}
THREE = {"MaxNumberOfTrainingJobs": 3}


def integers(name: str, low: str, high: str, **more: str) -> dict[str, Any]:
    return {"IntegerParameterRanges": [{"Name": name, "MinValue": low, "MaxValue": high, **more}]}


def numbers(name: str, low: str, high: str, **more: str) -> dict[str, Any]:
    return {"ContinuousParameterRanges": [{"Name": name, "MinValue": low, "MaxValue": high, **more}]}


X = categories(x=["1", "2"])


@pytest.mark.parametrize(
    ("ranges", "changes", "expected"),
    [
        ({}, {}, "at least one range"),
        (integers("x", "1", "3"), {}, "Grid takes categorical ranges only"),
        (X, {"limits": THREE}, "number of combinations of a Grid (2)"),
        (X, {"limits": {"MaxParallelTrainingJobs": 3}}, "cannot be larger than MaxNumberOfTrainingJobs (2)"),
        (X, {"config": {"Strategy": "Bayesian"}}, "does not support the tuning strategy Bayesian"),
        (X, {"config": RANDOM}, "MaxNumberOfTrainingJobs must be given"),
        (X, {"config": RANDOM, "limits": {"MaxNumberOfTrainingJobs": 501}}, "at most 500"),
        (X, {"static": {"x": "1"}}, "cannot be both static and tuned"),
        (X | integers("x", "1", "2"), {"config": RANDOM, "limits": THREE}, "more than one range"),
        (integers("x", "1", "2.5"), {"config": RANDOM, "limits": THREE}, "MaxValue of hyperparameter x must be"),
        (integers("x", "9" * 30, "1"), {"config": RANDOM, "limits": THREE}, "must be an integer"),
        (numbers("x", "nan", "1"), {"config": RANDOM, "limits": THREE}, "must be a number"),
        (numbers("x", "2", "1"), {"config": RANDOM, "limits": THREE}, "is above its MaxValue"),
        (
            numbers("x", "0", "1", ScalingType="Logarithmic"),
            {"config": RANDOM, "limits": THREE},
            "needs values above 0",
        ),
        (
            numbers("x", "0", "1", ScalingType="ReverseLogarithmic"),
            {"config": RANDOM, "limits": THREE},
            "from 0 to below 1",
        ),
        (
            integers("x", "1", "2", ScalingType="ReverseLogarithmic"),
            {"config": RANDOM, "limits": THREE},
            "continuous hyperparameters only",
        ),
        (X, {"config": {"HyperParameterTuningJobObjective": None}}, "HyperParameterTuningJobObjective must be given"),
        (
            X,
            {"config": {"HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "accuracy"}}},
            "[accuracy], isn't one of the MetricDefinitions of the training jobs: [loss]",
        ),
        (
            X,
            {"WarmStartConfig": {"ParentHyperParameterTuningJobs": [{}], "WarmStartType": "TransferLearning"}},
            "does not support WarmStartConfig",
        ),
        (X, {"Autotune": {"Mode": "Enabled"}}, "does not support Autotune"),
        (X, {"definition": {"ResourceConfig": None}}, "Exactly one of ResourceConfig and"),
        (
            X,
            {"definition": {"ResourceConfig": None, "HyperParameterTuningResourceConfig": {
                "InstanceType": "ml.m5.large", "InstanceConfigs": [{"InstanceType": "ml.m5.large", "InstanceCount": 1,
                                                                    "VolumeSizeInGB": 1}]}}},
            "InstanceConfigs exclude",
        ),
        (X, {"definition": {"RoleArn": ROLE + "-gone"}}, "Could not assume role"),
        (X, {"definition": {"InputDataConfig": [channel("train", f"s3://{BUCKET}/nothing/")]}}, "No S3 objects found"),
        (
            X,
            {"definition": {"AlgorithmSpecification": {"TrainingImage": "mine", "TrainingInputMode": "File",
                                                       "MetricDefinitions": [LOSS]}}},
            "Invalid TrainingImage",
        ),
        (X, {"static": {"k": "v" * 3000}}, "failed to satisfy constraint"),
    ],
)  # fmt: skip
def test_what_is_refused(
    server: LocalServer, source: str, ranges: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    create = server.client("sagemaker").create_hyper_parameter_tuning_job
    code, message, _ = error_of(create, **request_for(source, "refused", ranges, **dict(changes)))
    assert code == "ValidationException"
    assert expected in message
    assert error_of(lambda: describe(server, "refused"))[0] == "ResourceNotFound"


def test_a_name_is_given_once(server: LocalServer, source: str) -> None:
    tune(server, source, "once", categories(x=["1"]), limits={"MaxParallelTrainingJobs": 1})
    create = server.client("sagemaker").create_hyper_parameter_tuning_job
    request = request_for(source, "Once", categories(x=["1"]), limits={"MaxParallelTrainingJobs": 1})
    assert error_of(create, **request)[0] == "ResourceInUse"
    client = server.client("sagemaker")
    for call in (
        client.stop_hyper_parameter_tuning_job,
        client.list_training_jobs_for_hyper_parameter_tuning_job,
    ):
        assert error_of(call, HyperParameterTuningJobName="nowhere")[0] == "ResourceNotFound"


def drawn(ranges: dict[str, Any], count: int, seed: int = 0) -> list[dict[str, str]]:
    return tuning_ranges.draws(tuning_ranges.read_ranges(ranges, {}), count, seed)


def test_scaling() -> None:
    share = {}
    for scaling in ("Linear", "Logarithmic", "Auto"):
        values = [float(each["x"]) for each in drawn(numbers("x", "0.001", "1", ScalingType=scaling), 400)]
        assert 0.001 <= min(values) and max(values) <= 1
        share[scaling] = sum(value < 0.0316 for value in values) / 400
    assert share["Linear"] < 0.1
    assert 0.4 < share["Logarithmic"] < 0.6
    assert share["Auto"] == share["Logarithmic"], "the ends are a factor of 1000 apart"
    values = [float(each["x"]) for each in drawn(numbers("x", "0", "0.999", ScalingType="ReverseLogarithmic"), 400)]
    assert 0.4 < sum(value > 0.968 for value in values) / 400 < 0.6
    values = [int(each["x"]) for each in drawn(integers("x", "1", "100", ScalingType="Logarithmic"), 90)]
    assert len(set(values)) == 90, "no combination comes twice while there are others"
    assert sorted({int(each["x"]) for each in drawn(integers("x", "3", "5"), 9)}) == [3, 4, 5]
    assert drawn(integers("x", "1", "9"), 3) == drawn(integers("x", "1", "9"), 3)


TUNER_SCRIPT = """
import sys
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.tuner import HyperparameterTuner

image, role, folder, data = sys.argv[1:]
trainer = ModelTrainer(
    sagemaker_session=Session(), role=role, training_image=image, base_job_name="tuned-by-v3",
    source_code=SourceCode(source_dir=folder, entry_script="train.py"),
    compute=Compute(instance_type="ml.m5.xlarge", instance_count=1),
    hyperparameters={"wait": 0}, tags=[{"key": "workshop", "value": "genai"}],
)
tuner = HyperparameterTuner(
    model_trainer=trainer, objective_metric_name="loss", objective_type="Minimize", strategy="Random",
    metric_definitions=[{"Name": "loss", "Regex": "loss=([0-9.]+)"}], random_seed=4,
    hyperparameter_ranges={
        "x": IntegerParameter(0, 9),
        "rate": ContinuousParameter(0.001, 0.1, scaling_type="Logarithmic"),
        "optimizer": CategoricalParameter(["a", "b"]),
    },
    max_jobs=3, max_parallel_jobs=2, base_tuning_job_name="by-v3",
)
tuner.tune(inputs=[InputData(channel_name="train", data_source=data)], wait=False)
job = tuner.latest_tuning_job
job.wait(poll=1)
print("status", job.refresh().hyper_parameter_tuning_job_status)
print("best", tuner.best_training_job())
found = list(job.get_all_training_jobs(sort_by="FinalObjectiveMetricValue"))
print("first", found[0].training_job_name, len(found))
table = tuner.analytics().dataframe().sort_values("FinalObjectiveValue")
print("table", table.iloc[0]["TrainingJobName"], sorted({"x", "rate", "optimizer"} & set(table.columns)))
"""


def test_the_tuner_of_sdk_v3(server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    data = put(server, "tuning/v3/rows.txt", "rows").rpartition("/")[0]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    arguments = [TRAINING_IMAGE, ROLE, str(tmp_path), data]
    result = subprocess.run(
        [sys.executable, "-c", TUNER_SCRIPT, *arguments],
        env=clean | server.values,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    told = dict(line.split(" ", 1) for line in result.stdout.splitlines() if line.split(" ")[0] in TOLD)
    assert told["status"] == "Completed"
    assert told["first"] == f"{told['best']} 3"
    assert told["table"] == f"{told['best']} ['optimizer', 'rate', 'x']"
    job = server.client("sagemaker").describe_training_job(TrainingJobName=told["best"])
    assert {channel["ChannelName"] for channel in job["InputDataConfig"]} == {"train", "sm_drivers"}
    assert job["HyperParameters"]["wait"] == "0"


TOLD = ("status", "best", "first", "table")
