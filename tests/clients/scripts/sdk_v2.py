"""The SageMaker Python SDK v2: sessions, models with and without source code of their own, predictors.

Run by test_sdk_v2.py.
"""

import json
import os
import shutil
import sys
import tarfile
import tempfile

import sagemaker
from botocore.exceptions import ClientError
from sagemaker.huggingface import HuggingFaceModel
from sagemaker.iterators import LineIterator
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.serverless import ServerlessInferenceConfig

RESULTS, ARCHIVE, INFERENCE = sys.argv[1:]
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu"
MACHINE = {"initial_instance_count": 1, "instance_type": "ml.m5.large"}


def of_session(session):
    """Files to S3 and back."""
    bucket = session.default_bucket()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "two"):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(f"number {name}")
        prefix_url = session.upload_data(folder, key_prefix="numbers")
        url = session.upload_string_as_file_body("number three", bucket, "numbers/three")
        back = os.path.join(folder, "back")
        os.mkdir(back)
        session.download_data(back, bucket, "numbers/")
        downloaded = sorted(os.listdir(back))
    return {
        "bucket": bucket,
        "region": session.boto_region_name,
        "urls": [prefix_url, url],
        "keys": sorted(session.list_s3_files(bucket, "numbers")),
        "content": session.read_s3_file(bucket, "numbers/two"),
        "downloaded": downloaded,
    }


def model_with_source_code(session):
    """A model whose script the SDK packs into the archive, in an image that the SDK looks up."""
    with tarfile.open("weights.tar.gz", "w:gz"):
        pass
    os.mkdir("source")
    shutil.copy(INFERENCE, "source/handlers.py")
    return HuggingFaceModel(
        model_data=session.upload_data("weights.tar.gz", key_prefix="weights"),
        role=ROLE,
        source_dir="source",
        entry_point="handlers.py",
        transformers_version="4.51.3",
        pytorch_version="2.6.0",
        py_version="py312",
        env={"GREETING": "hej"},
        sagemaker_session=session,
    )


def model_with_archive(session):
    """A model whose archive holds code/inference.py already."""
    return HuggingFaceModel(
        model_data=session.upload_data(ARCHIVE, key_prefix="archive"),
        role=ROLE,
        image_uri=IMAGE,
        env={"GREETING": "hola"},
        sagemaker_session=session,
    )


def of_predictor(predictor, session):
    """Answers, streams, errors."""
    results = {"class": type(predictor).__name__, "answer": predictor.predict({"x": 1})}
    plain = Predictor(predictor.endpoint_name, session, serializer=JSONSerializer())
    lines = plain.predict_stream({"count": 3, "pause": 0.1}, iterator=LineIterator)
    results["lines"] = [json.loads(line) for line in lines]
    results["bytes"] = b"".join(plain.predict_stream({"count": 2})).decode()
    table = Predictor(predictor.endpoint_name, session, serializer=CSVSerializer())
    results["table"] = json.loads(table.predict([[1, 2], [3, 4]], initial_args={"Accept": "text/plain"}))
    try:
        predictor.predict({"raise": "no such luck"})
    except ClientError as error:
        results["error"] = {"code": error.response["Error"]["Code"], "message": str(error)}
    return results


def refused_deployment(session):
    """What the SDK says about a way of hosting that the local SageMaker does not have."""
    model = model_with_archive(session)
    config = ServerlessInferenceConfig(memory_size_in_mb=2048, max_concurrency=1)
    try:
        model.deploy(endpoint_name="serverless", serverless_inference_config=config)
    except ClientError as error:
        model.delete_model()
        return str(error)
    return None


session = sagemaker.Session()
results = {"version": sagemaker.__version__, "session": of_session(session)}
source_model, archive_model = model_with_source_code(session), model_with_archive(session)
source_predictor = source_model.deploy(**MACHINE, endpoint_name="source", wait=False)
tags = [{"Key": "workshop", "Value": "genai"}]
archive_predictor = archive_model.deploy(**MACHINE, endpoint_name="archive", tags=tags)
session.wait_for_endpoint("source", poll=1)
description = session.describe_endpoint("archive")
results["status"] = description["EndpointStatus"]
results["tags"] = session.list_tags(description["EndpointArn"])
results["source"] = of_predictor(source_predictor, session)
results["archive"] = of_predictor(archive_predictor, session)
results["refused"] = refused_deployment(session)
for predictor, model in ((source_predictor, source_model), (archive_predictor, archive_model)):
    predictor.delete_endpoint()
    model.delete_model()

with open(RESULTS, "w", encoding="utf-8") as file:
    json.dump(results, file)
