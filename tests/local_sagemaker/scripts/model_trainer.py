"""SDK v3's ModelTrainer, unmodified, against the server of the environment. Run by test_training_sdk_v3.py.

Arguments: the folder with the source, the folder with the data, the file for the results (JSON).
"""

import json
import sys
from pathlib import Path

from sagemaker.core.helper.session_helper import Session
from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import CheckpointConfig, MetricDefinition, StoppingCondition
from sagemaker.core.utils.exceptions import FailedStatusError
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun

SOURCE, DATA, RESULTS = sys.argv[1:]
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312"
SESSION = Session()
HYPERPARAMETERS = {"epochs": 3, "learning_rate": 1e-4, "note": 'a "b" c', "flag": True}


def trainer(name, script, hyperparameters=None, hosts=1, **more):
    """A trainer with one metric; `more` goes to the ModelTrainer."""
    made = ModelTrainer(
        training_image=IMAGE,
        source_code=SourceCode(source_dir=SOURCE, entry_script=script, requirements=more.pop("requirements", None)),
        compute=Compute(instance_type="ml.g5.2xlarge", instance_count=hosts, **more.pop("compute", {})),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=100, **more.pop("stopping", {})),
        hyperparameters=hyperparameters or {},
        base_job_name=name,
        role=ROLE,
        sagemaker_session=SESSION,
        **more,
    )
    return made.with_metric_definitions([MetricDefinition(name="train_loss", regex="train_loss=([0-9.]+)")])


def described(job):
    """What the SDK knows of a job that has ended."""
    job.refresh()
    return {
        "name": job.training_job_name,
        "status": job.training_job_status,
        "secondary": [step.status for step in job.secondary_status_transitions],
        "reason": job.failure_reason if job.training_job_status == "Failed" else None,
        "artifacts": job.model_artifacts.s3_model_artifacts,
        "metrics": {metric.metric_name: metric.value for metric in job.final_metric_data_list or []},
        "hosts": job.resource_config.instance_count,
    }


def train(made, **options):
    """Run a trainer's job to its end; returns what `described` says."""
    made.train(input_data_config=[InputData(channel_name="train", data_source=DATA)], wait=False, **options)
    job = made._latest_training_job
    try:
        job.wait(poll=1, logs=True)
    except FailedStatusError as error:
        assert "Failed" in str(error)
    return described(job)


results = {
    "plain": train(trainer("plain", "plain.py", HYPERPARAMETERS, requirements="requirements.txt")),
    "fails": train(trainer("fails", "fails.py")),
    "spot": train(
        trainer(
            "spot",
            "plain.py",
            HYPERPARAMETERS,
            compute={"enable_managed_spot_training": True},
            stopping={"max_wait_time_in_seconds": 200},
        ).with_checkpoint_config(CheckpointConfig(s3_uri="s3://sagemaker-us-east-1-123456789012/spot/checkpoints"))
    ),
    "two_processes": train(trainer("two-processes", "joined.py", distributed=Torchrun(process_count_per_node=2))),
    "two_hosts": train(trainer("two-hosts", "joined.py", hosts=2, distributed=Torchrun(process_count_per_node=1))),
}
sleeper = trainer("sleeper", "sleeps.py")
sleeper.train(wait=False)
job = TrainingJob.get(sleeper._latest_training_job.training_job_name)
job.stop()
job.wait(poll=1)
results["stopped"] = described(job)
results["listed"] = [job.training_job_name for job in TrainingJob.get_all(name_contains="two-", sort_by="Name")]
Path(RESULTS).write_text(json.dumps(results))
