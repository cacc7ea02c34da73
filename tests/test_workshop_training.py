"""Training jobs through the workshop object: watched, found again, priced, stopped, cleaned up; and the live chart."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbclient
import nbformat
import pytest

from shared import backends, cleaning, live_chart, resources, training_jobs
from shared.resources import Label
from shared.workshop import Workshop

ROOT = Path(__file__).resolve().parent.parent
DEFINITIONS = [
    {"Name": "train_loss", "Regex": "train_loss=([0-9.eE+-]+)"},
    {"Name": "eval_loss", "Regex": "eval_loss=([0-9.eE+-]+)"},
]
SCRIPT = "; ".join(
    [
        "echo reading the data",
        "echo step=10 train_loss=4.0",
        "echo step=20 train_loss=2.5",
        "echo step=20 eval_loss=2.75",
        "echo '{}' > /opt/ml/model/config.json",
    ]
)


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory):
    """A local SageMaker of this file's own, stopped at the end."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SAGEMAKER_LOCAL_STATE", str(tmp_path_factory.mktemp("state")))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        patch.delenv(name, raising=False)
    yield
    subprocess.run([sys.executable, "-m", "shared.local_sagemaker", "stop"], cwd=ROOT, capture_output=True, check=True)
    patch.undo()


@pytest.fixture
def workshop():
    before = dict(os.environ)
    workshop = Workshop(lab="2", backend="local")
    yield workshop
    cleaning.cleanup(workshop.client, workshop.bucket, Label(None, None), 0.1, logs=True, artifacts=True)
    os.environ.clear()
    os.environ.update(before)
    backends._before.clear()
    backends._forget_clients()


def start(workshop, name, script=SCRIPT, tags=None, **hyperparameters):
    """A training job that runs a shell script; returns the SDK's resource."""
    from sagemaker.core.resources import TrainingJob

    workshop.client("sagemaker").create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={
            "TrainingImage": workshop.model.training_image_uri(workshop.region),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/bash", "-c"],
            "ContainerArguments": [script],
            "MetricDefinitions": DEFINITIONS,
        },
        RoleArn=workshop.role,
        OutputDataConfig={"S3OutputPath": workshop.s3_uri("jobs")},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        HyperParameters=hyperparameters,
        Tags=workshop.aws_tags if tags is None else tags,
    )
    return TrainingJob.get(name)


def test_a_job_is_watched_found_again_priced_and_kept(workshop, capsys):
    from sagemaker.core.resources import TrainingJob

    name = workshop.name("job", {"rate": 1})
    assert len(name) + len("-20261121100243") <= 63
    assert workshop.existing(TrainingJob, name) is None
    job = start(workshop, f"{name}-1", max_steps="20")
    workshop.watch(job)
    output = capsys.readouterr().out
    assert "| reading the data" in output and "Completed" in output
    assert re.search(r"\[figure: .*train_loss from 4 to 2\.5; eval_loss from 2\.75 to 2\.75", output)
    assert workshop.metrics(job) == {"train_loss": [(10, 4.0), (20, 2.5)], "eval_loss": [(20, 2.75)]}
    assert "reading the data" in workshop.logs(job) and workshop.log_group(job) == "/aws/sagemaker/TrainingJobs"

    assert workshop.existing(TrainingJob, name).training_job_name == f"{name}-1"
    assert "re-attached to the training job" in capsys.readouterr().out
    assert workshop.existing(TrainingJob, workshop.name("job", {"rate": 2})) is None

    job.refresh()
    table = repr(workshop.cost(job))
    usd = job.billable_time_in_seconds * 1.408 / 3600
    assert f"{usd:.4f} USD" in table and "1 x ml.g5.xlarge" in table and f"{name}-1" in table
    container = workshop.tuned_container(job)
    assert container["model_data_url"].endswith(f"{name}-1/output/model.tar.gz") and "inference" in container["image"]

    capsys.readouterr()
    workshop.cleanup()
    output = capsys.readouterr().out
    assert "0 running training jobs" in output and "and 1 S3 objects: what training jobs made" in output
    assert "kept" in output and "artifacts=True" in output
    assert workshop.existing(TrainingJob, name) is not None  # paid for once
    workshop.cleanup(artifacts=True)
    assert "0 S3 objects: nothing is left" in capsys.readouterr().out
    assert workshop.existing(TrainingJob, name) is None
    assert "its model was deleted from S3" in capsys.readouterr().out


def test_a_job_that_fails_ends_the_watch_with_its_reason(workshop, capsys):
    from sagemaker.core.resources import TrainingJob

    name = workshop.name("job", "fails")
    job = start(workshop, f"{name}-1", "echo loading; echo 'ValueError: the data has holes' >&2; exit 3")
    with pytest.raises(training_jobs.TrainingJobFailed, match=r"(?s)Failed: .*holes.*Last lines of its log.*loading"):
        workshop.watch(job)
    assert workshop.existing(TrainingJob, name) is None
    assert "is Failed: starting another" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is Failed: it made no model"):
        workshop.tuned_container(job)
    with pytest.raises(LookupError, match="no training job"):
        workshop.cost("genai-workshop-none")


def test_cleanup_stops_what_runs_and_only_what_is_ours(workshop, capsys):
    ours = start(workshop, workshop.name("job", "long"), "sleep 50")
    theirs = start(workshop, "genai-workshop-lab2-job-somebody", "sleep 50", tags=[])
    with pytest.raises(ValueError, match="still runs"):
        workshop.cost(ours)
    with pytest.raises(TimeoutError, match="it goes on"):
        workshop.watch(ours, timeout=0.3, chart=None)
    workshop.cleanup()
    assert re.search(r"running training job .* stopped", capsys.readouterr().out)
    client = workshop.client("sagemaker")
    assert client.describe_training_job(TrainingJobName=ours.training_job_name)["TrainingJobStatus"] == "Stopped"
    assert client.describe_training_job(TrainingJobName=theirs.training_job_name)["TrainingJobStatus"] == "InProgress"
    theirs.stop()
    while not resources.TRAINING_JOB.is_gone(client, theirs.training_job_name):
        time.sleep(0.1)
    resources.TRAINING_JOB.delete(client, ours.training_job_name)  # has ended: nothing to do


def test_the_sdks_own_lines_are_hidden_and_its_uploads_cleaned_up(workshop, tmp_path, capsys):
    from sagemaker.core.shapes import MetricDefinition
    from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
    from sagemaker.train import ModelTrainer

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text('print("step=1 train_loss=1.5")\n')
    (tmp_path / "data.txt").write_text("text")
    trainer = ModelTrainer(
        training_image=workshop.model.training_image_uri(workshop.region),
        source_code=SourceCode(source_dir=str(tmp_path / "code"), entry_script="train.py"),
        compute=Compute(instance_type=workshop.model.training_instance_type, instance_count=1),
        base_job_name=workshop.name("job"),
        role=workshop.role,
        sagemaker_session=workshop.session,
        tags=workshop.tags,
        output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
    ).with_metric_definitions([MetricDefinition(name="train_loss", regex="train_loss=([0-9.]+)")])
    channel = InputData(channel_name="train", data_source=str(tmp_path / "data.txt"))
    trainer.train(input_data_config=[channel], wait=False)
    job = trainer._latest_training_job
    capsys.readouterr()
    workshop.watch(job)
    shown = [line for line in capsys.readouterr().out.splitlines() if "    | " in line]
    assert [line.split("| ")[1] for line in shown if "train_loss" in line] == ["step=1 train_loss=1.5"]
    assert len(shown) <= 3, shown
    s3 = workshop.client("s3")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=workshop.bucket)["Contents"]]
    assert any("/sm_drivers/" in key for key in keys)
    assert all(key.startswith(f"genai-workshop/{workshop.owner}/lab2/") for key in keys)
    workshop.cleanup()
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=workshop.bucket).get("Contents", [])]
    assert keys and all("/lab2/jobs/" in key for key in keys)  # what the job made, and nothing that the SDK uploaded


def test_the_sdks_own_lines_are_hidden_in_a_second_attempt_too(workshop, capsys):
    attempt = "echo Starting training script; echo KEY=value; echo Executing command: python train.py; echo step={}"
    job = start(workshop, workshop.name("job", "again"), "; ".join(attempt.format(number) for number in (1, 2)))
    workshop.watch(job, chart=None)
    shown = capsys.readouterr().out
    assert "step=1" in shown and "step=2" in shown
    assert "KEY=value" not in shown


def test_metrics_are_read_by_their_definitions():
    found = training_jobs.Metrics([*DEFINITIONS, {"Name": "rate", "Regex": r"rate: (\S+)"}])
    lines = ["step=5 train_loss=2.5 and rate: 1e-3", "nothing", "train_loss=-", "rate: 2e-3", "step: 9 train_loss=2"]
    assert [found.read(line) for line in lines] == [True, False, True, True, True]
    assert found.series == {"train_loss": [(5, 2.5), (9, 2.0)], "rate": [(5, 0.001), (3, 0.002)]}


def test_outside_a_notebook_only_the_last_picture_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(live_chart, "display", shown.append)
    chart = live_chart.LiveChart()
    chart.draw({"loss": [(1, 4.0)], "none yet": []})
    chart.draw({"loss": [(1, 4.0), (2, 3.0)]})  # too soon after the first
    chart.draw({"loss": [(1, 4.0), (2, 3.0), (3, 2.0)]}, last_step=5, final=True)
    chart.close()
    assert len(shown) == 1 and "up to 3: loss from 4 to 2" in repr(shown[0])


def test_a_notebook_keeps_one_picture(tmp_path):
    cell = """
from shared import live_chart
live_chart.INTERVAL = 0
for count in (0, 2):
    chart = live_chart.LiveChart()
    print("below")
    for end in range(1, count + 1):
        chart.draw({"loss": [(step, 4.0 - step) for step in range(end + 1)]})
    chart.close()
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(ROOT)}}).execute()
    none, first, some, second = notebook.cells[0].outputs
    assert "no numbers" in none["data"]["text/plain"] and first["text"] == second["text"] == "below\n"
    assert "up to 2: loss from 4 to 2" in some["data"]["text/plain"] and some["data"]["text/html"].count("<img") == 1
