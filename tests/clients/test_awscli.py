"""The AWS command line, version 1: every step of hosting a model, its lists, its errors and exit statuses."""

from __future__ import annotations

import json
import os
import shlex
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from client_support import ACCOUNT, BUCKET, IMAGE, ROLE, Server, run_client, wait_until, write_archive

ENDPOINT = "command-line"
ENDPOINT_ARN = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/{ENDPOINT}"
LOG_GROUP = f"/aws/sagemaker/Endpoints/{ENDPOINT}"
INVOKE = "sagemaker-runtime invoke-endpoint --content-type application/json"
TRAINING_IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312"
)
FAILED = 255
TRANSFER_FAILED = 1

Aws = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command line runs."""
    return tmp_path_factory.mktemp("awscli")


@pytest.fixture(scope="module")
def aws(awscli_python: Path, server: Server, folder: Path) -> Aws:
    """Runs aws with the arguments in a line as a shell would split it, and in further strings as they are."""

    def run(line: str, *arguments: str, expected: int = 0) -> CompletedProcess[str]:
        command = ["-m", "awscli", *shlex.split(line), *arguments]
        done = run_client(awscli_python, command, server, folder, AWS_DEFAULT_OUTPUT="json", COLUMNS="200")
        assert done.returncode == expected, (command, done.stdout, done.stderr)
        return done

    return run


@pytest.fixture(scope="module")
def endpoint(aws: Aws, folder: Path) -> Iterator[str]:
    """An endpoint in service, made and deleted by the command line."""
    write_archive(folder / "model.tar.gz")
    url = f"s3://{BUCKET}/{ENDPOINT}/model.tar.gz"
    aws(f"s3 cp model.tar.gz {url} --no-progress")
    create_model(aws, ENDPOINT, f",ModelDataUrl={url},Environment={{GREETING=ahoy}}")
    answer = create_endpoint(aws, ENDPOINT, "--tags Key=workshop,Value=genai Key=lab,Value=1")
    assert answer == {"EndpointArn": ENDPOINT_ARN}
    assert wait_for_decision(aws, ENDPOINT)["EndpointStatus"] == "InService"
    aws(f"sagemaker wait endpoint-in-service --endpoint-name {ENDPOINT}")
    yield ENDPOINT
    delete_endpoint(aws, ENDPOINT)
    aws(f"sagemaker wait endpoint-deleted --endpoint-name {ENDPOINT}")
    aws(f"sagemaker delete-model --model-name {ENDPOINT}")


def read(aws: Aws, line: str, *arguments: str) -> Any:
    """What aws answers."""
    return json.loads(aws(line, *arguments).stdout)


def create_model(aws: Aws, name: str, members: str = "") -> None:
    """A model with the image and those `members` of its container."""
    aws(
        f"sagemaker create-model --model-name {name} --execution-role-arn {ROLE} --primary-container",
        f"Image={IMAGE}{members}",
    )


def create_endpoint(aws: Aws, name: str, options: str = "") -> Any:
    """An endpoint for the model of that name, and its configuration; what aws says about the endpoint."""
    variant = f"VariantName=AllTraffic,ModelName={name},InstanceType=ml.m5.large,InitialInstanceCount=1"
    aws(f"sagemaker create-endpoint-config --endpoint-config-name {name} --production-variants {variant}")
    return read(aws, f"sagemaker create-endpoint --endpoint-name {name} --endpoint-config-name {name} {options}")


def delete_endpoint(aws: Aws, name: str) -> None:
    """Delete the endpoint and its configuration; returns when it is gone."""
    aws(f"sagemaker delete-endpoint --endpoint-name {name}")
    listing = f"sagemaker list-endpoints --name-contains {name}"
    wait_until(lambda: not read(aws, listing)["Endpoints"], "the endpoint is deleted")
    aws(f"sagemaker delete-endpoint-config --endpoint-config-name {name}")


def wait_for_decision(aws: Aws, name: str) -> dict[str, Any]:
    """The endpoint's description once it is in service or failed.

    The command line's own waiter would sleep for 30 seconds if its first look came too early.
    """

    def decided() -> dict[str, Any] | None:
        description = read(aws, f"sagemaker describe-endpoint --endpoint-name {name}")
        return None if description["EndpointStatus"] == "Creating" else description

    return wait_until(decided, "the endpoint is decided")


def test_invocation(aws: Aws, folder: Path, endpoint: str) -> None:
    printed = read(aws, INVOKE, "--endpoint-name", endpoint, "--body", '{"x": 1}', "answer.json")
    assert printed == {"ContentType": "application/json", "InvokedProductionVariant": "AllTraffic"}
    assert json.loads((folder / "answer.json").read_text()) == {"greeting": "ahoy", "request": {"x": 1}}
    (folder / "bytes").write_bytes(bytes(range(256)))
    aws(
        f"sagemaker-runtime invoke-endpoint --endpoint-name {endpoint} --body fileb://bytes "
        "--content-type application/octet-stream --accept text/csv --custom-attributes trace=1 answer.json"
    )
    answer = json.loads((folder / "answer.json").read_text())
    assert answer == {"length": 256, "content_type": "application/octet-stream", "accept": "text/csv"}


def test_errors_of_invocations(aws: Aws, endpoint: str) -> None:
    body = ("--body", '{"raise": "bad luck"}', "unwritten")
    failed = aws(INVOKE, "--endpoint-name", endpoint, *body, expected=FAILED)
    assert "An error occurred (ModelError) when calling the InvokeEndpoint operation" in failed.stderr
    assert "Received client error (400) from primary with message" in failed.stderr
    assert "bad luck" in failed.stderr
    assert f"#logEventViewer:group={LOG_GROUP} in account {ACCOUNT}" in failed.stderr
    missing = aws(INVOKE, "--endpoint-name", "nowhere", *body, expected=FAILED)
    assert missing.stderr.strip() == (
        "An error occurred (ValidationError) when calling the InvokeEndpoint operation: "
        f"Endpoint nowhere of account {ACCOUNT} not found."
    )


@pytest.mark.parametrize("operation", ["describe", "delete"])
def test_a_missing_endpoint(aws: Aws, operation: str) -> None:
    missing = aws(f"sagemaker {operation}-endpoint --endpoint-name nowhere", expected=FAILED)
    assert missing.stdout == ""
    assert missing.stderr.strip() == (
        f"An error occurred (ValidationException) when calling the {operation.title()}Endpoint operation: "
        f'Could not find endpoint "arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint/nowhere".'
    )


def test_an_endpoint_that_fails(aws: Aws) -> None:
    create_model(aws, "empty")
    create_endpoint(aws, "empty")
    decided = wait_for_decision(aws, "empty")
    assert decided["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in decided["FailureReason"]
    waited = aws("sagemaker wait endpoint-in-service --endpoint-name empty", expected=FAILED)
    assert "Waiter EndpointInService failed" in waited.stderr
    delete_endpoint(aws, "empty")
    aws("sagemaker delete-model --model-name empty")


def test_lists_in_pages(aws: Aws, server: Server) -> None:
    names = [f"listed-{number}" for number in range(3)]
    sagemaker = server.client("sagemaker")
    for name in names:
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})

    def listed(options: str = "") -> tuple[list[str], str | None]:
        answer = read(
            aws, f"sagemaker list-models --name-contains listed --sort-by Name --sort-order Ascending {options}"
        )
        return [model["ModelName"] for model in answer["Models"]], answer.get("NextToken")

    assert listed("--page-size 1") == (names, None)
    first, token = listed("--max-items 2 --page-size 1")
    rest, end = listed(f"--max-items 2 --page-size 1 --starting-token {token}")
    assert (first, rest, end) == (names[:2], names[2:], None)
    foreign = aws("sagemaker list-models --starting-token of-no-list", expected=FAILED)
    assert "(ValidationException)" in foreign.stderr
    for name in names:
        sagemaker.delete_model(ModelName=name)
    assert listed() == ([], None)


def test_tags(aws: Aws, endpoint: str) -> None:
    def tags() -> dict[str, str]:
        answer = read(aws, f"sagemaker list-tags --resource-arn {ENDPOINT_ARN}")
        return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}

    assert tags() == {"workshop": "genai", "lab": "1"}
    aws(f"sagemaker add-tags --resource-arn {ENDPOINT_ARN} --tags Key=lab,Value=2 'Key=a b,Value=ü = é'")
    aws(f"sagemaker delete-tags --resource-arn {ENDPOINT_ARN} --tag-keys workshop")
    assert tags() == {"lab": "2", "a b": "ü = é"}
    gone = aws(f"sagemaker add-tags --resource-arn {ENDPOINT_ARN}-gone --tags Key=a,Value=b", expected=FAILED)
    assert "(ValidationException)" in gone.stderr


def test_logs(aws: Aws, endpoint: str) -> None:
    aws(INVOKE, "--endpoint-name", endpoint, "--body", '{"logged": true}', "answer.json")
    assert LOG_GROUP in aws("logs describe-log-groups --log-group-name-prefix /aws/sagemaker/").stdout
    streams = read(aws, f"logs describe-log-streams --log-group-name {LOG_GROUP}")["logStreams"]
    assert [stream["logStreamName"].startswith("AllTraffic/i-") for stream in streams] == [True]
    stream = streams[0]["logStreamName"]

    def messages() -> list[str]:
        answer = read(aws, f"logs get-log-events --log-group-name {LOG_GROUP} --log-stream-name {stream}")
        return [event["message"] for event in answer["events"]]

    assert "the model is loaded" in messages()
    wait_until(lambda: 'request {"logged": true}' in messages(), "what the handler printed is in the log")
    found = read(aws, f"logs filter-log-events --log-group-name {LOG_GROUP} --filter-pattern loaded")["events"]
    assert [event["message"] for event in found] == ["the model is loaded"]


def test_metrics(aws: Aws, endpoint: str) -> None:
    aws(INVOKE, "--endpoint-name", endpoint, "--body", "{}", "answer.json")

    def points() -> list[dict[str, Any]]:
        answer = read(
            aws,
            "cloudwatch get-metric-statistics --namespace AWS/SageMaker --metric-name ModelLatency "
            f"--dimensions Name=EndpointName,Value={endpoint} Name=VariantName,Value=AllTraffic "
            "--start-time 2020-01-01T00:00:00Z --end-time 2100-01-01T00:00:00Z --period 86400 "
            "--statistics SampleCount Average Maximum",
        )
        return answer["Datapoints"]

    point = wait_until(points, "the invocation is counted")[0]
    assert point["Unit"] == "Microseconds"
    assert point["SampleCount"] >= 1
    assert 0 < point["Average"] <= point["Maximum"]


def test_s3(aws: Aws, folder: Path) -> None:
    content = os.urandom(20 << 20)  # Several parts, sent and fetched at once.
    (folder / "large").write_bytes(content)
    url, name = f"s3://{BUCKET}/files", "größe + %20.bin"
    aws("s3 cp large", f"{url}/{name}", "--no-progress")
    assert f"files/{name}" in aws(f"s3 ls {url} --recursive").stdout
    aws(f"s3 sync {url} copies --no-progress")
    assert (folder / "copies" / name).read_bytes() == content
    assert aws(f"s3 sync {url} copies").stdout == ""
    with urllib.request.urlopen(aws("s3 presign", f"{url}/{name}").stdout.strip()) as response:
        assert response.read() == content
    aws(f"s3 rm {url} --recursive")
    missing = aws("s3 cp", f"{url}/{name}", "-", expected=TRANSFER_FAILED)
    assert "(404)" in missing.stderr
    no_bucket = aws("s3 ls s3://no-such-bucket", expected=FAILED)
    assert "(NoSuchBucket)" in no_bucket.stderr


def test_identity_and_permissions(aws: Aws) -> None:
    identity = read(aws, "sts get-caller-identity")
    assert identity["Account"] == ACCOUNT
    assert "AmazonSageMaker-ExecutionRole-Local" in identity["Arn"]
    simulated = read(
        aws,
        f"iam simulate-principal-policy --policy-source-arn {ROLE} "
        "--action-names sagemaker:CreateEndpoint s3:GetObject",
    )
    decisions = {result["EvalActionName"]: result["EvalDecision"] for result in simulated["EvaluationResults"]}
    assert decisions == {"sagemaker:CreateEndpoint": "allowed", "s3:GetObject": "allowed"}


def test_service_quotas(aws: Aws) -> None:
    quotas = read(aws, "service-quotas list-service-quotas --service-code sagemaker")["Quotas"]
    values = {quota["QuotaName"]: quota["Value"] for quota in quotas}
    assert values["ml.g5.2xlarge for endpoint usage"] >= 1


SCRIPT = """
import os, pathlib
print("train_loss=0.5")
pathlib.Path(os.environ["SM_MODEL_DIR"], "weights").write_text("1 2 3")
"""


def create_training_job(aws: Aws, name: str, options: str = "") -> Any:
    """A training job of the script in the default bucket; what aws says about it."""
    values = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"s3://{BUCKET}/training/sourcedir.tar.gz",
    }
    algorithm = {
        "TrainingImage": TRAINING_IMAGE,
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "train_loss", "Regex": "train_loss=([0-9.]+)"}],
    }
    return read(
        aws,
        f"sagemaker create-training-job --training-job-name {name} --role-arn {ROLE} "
        f"--output-data-config S3OutputPath=s3://{BUCKET}/trained "
        "--resource-config InstanceType=ml.m5.xlarge,InstanceCount=1,VolumeSizeInGB=30 "
        f"--stopping-condition MaxRuntimeInSeconds=600 {options}",
        "--hyper-parameters",
        json.dumps(values),
        "--algorithm-specification",
        json.dumps(algorithm),
    )


def test_training_jobs(aws: Aws, folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)
    with tarfile.open(folder / "sourcedir.tar.gz", "w:gz") as tar:
        tar.add(folder / "train.py", "train.py")
    aws(f"s3 cp sourcedir.tar.gz s3://{BUCKET}/training/sourcedir.tar.gz --no-progress")
    answer = create_training_job(aws, "by-command-line", "--tags Key=workshop,Value=genai")
    arn = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/by-command-line"
    assert answer == {"TrainingJobArn": arn}
    describe = "sagemaker describe-training-job --training-job-name by-command-line"
    wait_until(lambda: read(aws, describe)["TrainingJobStatus"] != "InProgress", "the training job ends")
    described = read(aws, describe)
    assert described["TrainingJobStatus"] == "Completed"
    assert [metric["Value"] for metric in described["FinalMetricDataList"]] == [0.5]
    aws("sagemaker wait training-job-completed-or-stopped --training-job-name by-command-line")
    listing = "sagemaker list-training-jobs --name-contains by-command --status-equals Completed"
    listed = aws(f"{listing} --query TrainingJobSummaries[].TrainingJobArn --output text")
    assert listed.stdout.strip() == arn
    tags = read(aws, f"sagemaker list-tags --resource-arn {arn}")["Tags"]
    assert tags == [{"Key": "workshop", "Value": "genai"}]
    aws(f"s3 cp {described['ModelArtifacts']['S3ModelArtifacts']} model-by-training.tar.gz --no-progress")
    with tarfile.open(folder / "model-by-training.tar.gz") as tar:
        assert tar.getnames() == ["weights"]
    events = aws(
        "logs filter-log-events --log-group-name /aws/sagemaker/TrainingJobs --log-stream-name-prefix by-command-line/ "
        "--query events[].message --output text"
    )
    assert "train_loss=0.5" in events.stdout
    stopped = aws("sagemaker stop-training-job --training-job-name by-command-line", expected=FAILED)
    assert "(ValidationException)" in stopped.stderr
    missing = aws("sagemaker describe-training-job --training-job-name nowhere", expected=FAILED)
    assert "Requested resource not found" in missing.stderr
    aws(f"s3 rm s3://{BUCKET}/trained --recursive")


def test_what_there_is_not(aws: Aws) -> None:
    domains = aws("sagemaker list-domains", expected=FAILED)
    assert "The local SageMaker does not implement SageMaker.ListDomains" in domains.stderr
    instances = aws("ec2 describe-instances", expected=FAILED)
    assert "does not offer the AWS service 'ec2'" in instances.stderr
    region = aws("sagemaker list-models --region eu-west-1", expected=FAILED)
    assert "this local SageMaker is in us-east-1" in region.stderr
