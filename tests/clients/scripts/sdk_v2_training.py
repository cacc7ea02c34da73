"""The SageMaker Python SDK v2: a training job, the deployment of its model, a job that fails, a tuning job.

Run by test_sdk_v2.py.
"""

import contextlib
import io
import json
import os
import shutil
import sys

import sagemaker
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.huggingface import HuggingFace
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner, IntegerParameter

RESULTS = sys.argv[1]
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu"
METRICS = [{"Name": "eval_loss", "Regex": "eval_loss=([0-9.eE+-]+)"}]
TRAIN = """
import argparse, json, os
import helper

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--learning_rate", type=float)
parser.add_argument("--name")
parser.add_argument("--fail", default="False")
given = parser.parse_args()
with open(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "rows.txt")) as file:
    rows = file.read().split()
for epoch in range(given.epochs):
    print(f"epoch={epoch} eval_loss={abs(given.learning_rate - 0.5) + 1 / (epoch + 1)}", flush=True)
if given.fail == "True":
    raise RuntimeError("the rows are spoiled")
with open(os.path.join(os.environ["SM_MODEL_DIR"], "greeting.txt"), "w") as file:
    file.write(helper.greeting(given.name, rows))
with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "metrics.json"), "w") as file:
    json.dump({"hyperparameters": json.loads(os.environ["SM_HPS"]), "host": os.environ["SM_CURRENT_HOST"]}, file)
"""
HELPER = """
def greeting(name, rows):
    return f"{name} knows {len(rows)} rows"
"""
SERVE = """
import json, os

def model_fn(model_dir):
    with open(os.path.join(model_dir, "greeting.txt")) as file:
        return file.read()

def predict_fn(data, model):
    return {"model": model, "request": data}
"""


def write_source():
    """The folder of source code that the SDK uploads."""
    os.mkdir("training-source")
    for name, text in (("train.py", TRAIN), ("helper.py", HELPER), ("inference.py", SERVE)):
        with open(os.path.join("training-source", name), "w", encoding="utf-8") as file:
            file.write(text)


def estimator(session, **hyperparameters):
    """An estimator in an image that the SDK looks up."""
    return HuggingFace(
        entry_point="train.py",
        source_dir="training-source",
        role=ROLE,
        instance_count=1,
        instance_type="ml.g5.2xlarge",
        transformers_version="4.56.2",
        pytorch_version="2.8.0",
        py_version="py312",
        hyperparameters={"epochs": 2, "learning_rate": 0.25, "name": "the model's name", **hyperparameters},
        metric_definitions=METRICS,
        environment={"TOKENIZERS_PARALLELISM": "false"},
        sagemaker_session=session,
    )


def of_training(session, inputs):
    """A job, its log, its metrics, its files, and the endpoint of its model."""
    trained = estimator(session)
    trained.fit(inputs, wait=False, job_name="trained-by-v2")
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        session.logs_for_job("trained-by-v2", wait=True, poll=1)
    described = session.describe_training_job("trained-by-v2")
    results = {
        "status": described["TrainingJobStatus"],
        "image": described["AlgorithmSpecification"]["TrainingImage"],
        "log": log.getvalue(),
        "model_data": trained.model_data,
        "metrics": [metric["Value"] for metric in described["FinalMetricDataList"]],
        "seconds": [described["TrainingTimeInSeconds"], described["BillableTimeInSeconds"]],
    }
    os.mkdir("artifacts")
    bucket = session.default_bucket()
    session.download_data("artifacts", bucket, "trained-by-v2/output/")
    results["files"] = sorted(os.listdir("artifacts"))
    shutil.unpack_archive("artifacts/output.tar.gz", "artifacts")
    with open("artifacts/metrics.json", encoding="utf-8") as file:
        results["output"] = json.load(file)
    attached = HuggingFace.attach("trained-by-v2", sagemaker_session=session)
    results["attached"] = [attached.model_data, attached.hyperparameters()["epochs"]]
    predictor = trained.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.large",
        endpoint_name="trained",
        image_uri=IMAGE,
        entry_point="inference.py",
        source_dir="training-source",
        wait=False,
    )
    session.wait_for_endpoint("trained", poll=1)
    results["answer"] = predictor.predict({"x": 1})
    predictor.delete_model()
    predictor.delete_endpoint(delete_endpoint_config=True)
    return results


def of_failure(session, inputs):
    """What fit() raises for a script that does."""
    try:
        estimator(session, fail=True).fit(inputs, job_name="failed-by-v2", logs=False)
    except UnexpectedStatusException as error:
        return str(error)
    return None


def of_tuning(session, inputs):
    """A tuning job of four training jobs, two at a time."""
    tuner = HyperparameterTuner(
        estimator(session),
        objective_metric_name="eval_loss",
        objective_type="Minimize",
        metric_definitions=METRICS,
        hyperparameter_ranges={"learning_rate": ContinuousParameter(0.1, 0.9), "epochs": IntegerParameter(1, 3)},
        strategy="Random",
        random_seed=5,
        max_jobs=4,
        max_parallel_jobs=2,
        base_tuning_job_name="tuned-by-v2",
    )
    tuner.fit(inputs, wait=False)
    described = session.wait_for_tuning_job(tuner.latest_tuning_job.name, poll=1)
    table = tuner.analytics().dataframe()
    attached = HyperparameterTuner.attach(tuner.latest_tuning_job.name, sagemaker_session=session)
    tuner.stop_tuning_job()
    return {
        "status": described["HyperParameterTuningJobStatus"],
        "completed": described["TrainingJobStatusCounters"]["Completed"],
        "best": tuner.best_training_job(),
        "attached": attached.best_training_job(),
        "columns": sorted(table.columns),
        "smallest": table.loc[table["FinalObjectiveValue"].idxmin(), "TrainingJobName"],
    }


session = sagemaker.Session()
write_source()
url = session.upload_string_as_file_body("a b c", session.default_bucket(), "training/rows.txt")
channels = {"train": url.rpartition("/")[0]}
results = {
    "training": of_training(session, channels),
    "failure": of_failure(session, channels),
    "tuning": of_tuning(session, channels),
}
with open(RESULTS, "w", encoding="utf-8") as file:
    json.dump(results, file)
