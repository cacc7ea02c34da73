"""An old boto3: upload, deploy, invoke, stream, look at logs and metrics, delete. Run by test_old_boto3.py."""

import json
import os
import sys
import time

import boto3
from botocore.exceptions import ClientError, EventStreamError

RESULTS, ARCHIVE, _ = sys.argv[1:]
BUCKET = "sagemaker-us-east-1-123456789012"
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu"
NAME = "old-boto3"
JSON = "application/json"

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")
s3 = boto3.client("s3")
results = {"version": boto3.__version__}


def stream(request):
    answer = runtime.invoke_endpoint_with_response_stream(EndpointName=NAME, ContentType=JSON, Body=json.dumps(request))
    yield answer["ContentType"]
    for event in answer["Body"]:
        yield event["PayloadPart"]["Bytes"].decode()


# More than one part, by threads, without the checksums that newer versions add.
content = os.urandom(20 << 20)
with open("large", "wb") as file:
    file.write(content)
s3.upload_file("large", BUCKET, "large")
s3.download_file(BUCKET, "large", "large again")
with open("large again", "rb") as file:
    results["large_file_survives"] = file.read() == content
s3.upload_file(ARCHIVE, BUCKET, f"{NAME}/model.tar.gz")

sagemaker.create_model(
    ModelName=NAME,
    ExecutionRoleArn=ROLE,
    PrimaryContainer={"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{NAME}/model.tar.gz"},
)
sagemaker.create_endpoint_config(
    EndpointConfigName=NAME,
    ProductionVariants=[
        {"VariantName": "AllTraffic", "ModelName": NAME, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    ],
)
sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

answer = runtime.invoke_endpoint(EndpointName=NAME, ContentType=JSON, Body=b'{"x": 1}')
results["answer"] = json.loads(answer["Body"].read())
content_type, *chunks = stream({"count": 3, "pause": 0.2})
results["stream"] = {"content_type": content_type, "chunks": chunks}
try:
    list(stream({"raise": "no such luck"}))
except (ClientError, runtime.exceptions.ModelError) as error:
    results["model_error"] = {
        "code": error.response["Error"]["Code"],
        "status": error.response["OriginalStatusCode"],
        "message": error.response["OriginalMessage"],
    }
# Last, because it kills the container.
broken = stream({"count": 2, "pause": 0.2, "die": True})
results["broken_stream"] = {"chunks": []}
try:
    for chunk in broken:
        results["broken_stream"]["chunks"].append(chunk)
except EventStreamError as error:
    results["broken_stream"]["code"] = error.response["Error"]["Code"]

group = f"/aws/sagemaker/Endpoints/{NAME}"
pages = boto3.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
results["log"] = [event["message"] for page in pages for event in page["events"]]
cloudwatch = boto3.client("cloudwatch")
for _ in range(50):
    statistics = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        Dimensions=[{"Name": "EndpointName", "Value": NAME}, {"Name": "VariantName", "Value": "AllTraffic"}],
        StartTime=time.time() - 3600,
        EndTime=time.time() + 60,
        Period=3600,
        Statistics=["Sum"],
    )
    results["invocations"] = sum(point["Sum"] for point in statistics["Datapoints"])
    if results["invocations"] == 4:
        break
    time.sleep(0.2)

sagemaker.delete_endpoint(EndpointName=NAME)
sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
sagemaker.delete_endpoint_config(EndpointConfigName=NAME)
sagemaker.delete_model(ModelName=NAME)

with open(RESULTS, "w", encoding="utf-8") as file:
    json.dump(results, file)
