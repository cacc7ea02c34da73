"""A local SageMaker of the benchmark's own, and endpoints on it."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

ROOT = Path(__file__).parents[2]
_SERVER = [sys.executable, "-m", "shared.local_sagemaker"]
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu-py312"


class LocalSageMaker:
    """Clients of a running local SageMaker, and the endpoints made through it."""

    def __init__(self, environment: dict[str, str]):
        self.url = environment["AWS_ENDPOINT_URL"]
        self.session = boto3.Session(
            environment["AWS_ACCESS_KEY_ID"],
            environment["AWS_SECRET_ACCESS_KEY"],
            environment.get("AWS_SESSION_TOKEN"),
            environment["AWS_DEFAULT_REGION"],
        )
        self.sagemaker = self.client("sagemaker")
        self.runtime = self.client("sagemaker-runtime")
        self._s3 = self.client("s3")
        account = self.client("sts").get_caller_identity()["Account"]
        self._bucket = f"sagemaker-{environment['AWS_DEFAULT_REGION']}-{account}"
        self._role = f"arn:aws:iam::{account}:role/service-role/AmazonSageMaker-ExecutionRole-Local"

    def client(self, service: str):
        """A boto3 client that neither retries nor gives up early."""
        config = Config(retries={"total_max_attempts": 1}, read_timeout=120, max_pool_connections=64)
        return self.session.client(service, endpoint_url=self.url, config=config)

    def prepare(self, name: str, weights: Path | None, code: Path, environment: dict[str, str] | None = None) -> None:
        """Upload a model archive and create the model and the endpoint configuration `name`.

        Args:
            weights: folder whose files lie at the top of the archive, or None.
            code: `inference.py` by another name, or a folder that becomes `code/`.
            environment: variables of the container, beside the number of threads.
        """
        self._s3.upload_fileobj(_archive(weights, code), self._bucket, f"{name}/model.tar.gz")
        container = {
            "Image": IMAGE,
            "ModelDataUrl": f"s3://{self._bucket}/{name}/model.tar.gz",
            "Environment": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]} | (environment or {}),
        }
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self._role)
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.c6i.large"}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": 1}]
        )

    def create_endpoint(self, name: str, configuration: str | None = None) -> float:
        """Create endpoint `name` and wait; returns the seconds from CreateEndpoint to InService."""
        start = time.perf_counter()
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=configuration or name)
        while (answer := self.sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] == "Creating":
            time.sleep(0.05)
        if answer["EndpointStatus"] != "InService":
            raise RuntimeError(f"Endpoint {name} is {answer['EndpointStatus']}: {answer.get('FailureReason')}")
        return time.perf_counter() - start

    def log_lines(self, name: str) -> list[str]:
        """What the endpoint's container has printed."""
        events = self.client("logs").filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{name}")["events"]
        return [event["message"] for event in events]

    def generate(self, name: str, prompt: str, **parameters) -> dict:
        """One request to an endpoint of a language model, by boto3; returns its decoded answer."""
        return self.invoke(name, {"inputs": prompt, "parameters": parameters})

    def invoke(self, name: str, request: dict) -> dict:
        """One request to an endpoint, by boto3; returns its decoded answer."""
        body = json.dumps(request)
        answer = self.runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=body)
        return json.loads(answer["Body"].read())

    def seconds_to_first_token(self, name: str, prompt: str, **parameters) -> float:
        """Seconds until the first part of a streamed answer, which is read to its end."""
        body = json.dumps({"inputs": prompt, "parameters": parameters, "stream": True})
        start = time.perf_counter()
        answer = self.runtime.invoke_endpoint_with_response_stream(
            EndpointName=name, ContentType="application/json", Body=body
        )
        events = iter(answer["Body"])
        next(events)
        seconds = time.perf_counter() - start
        for _ in events:
            pass
        return seconds


@contextmanager
def local_sagemaker(state: Path) -> Iterator[LocalSageMaker]:
    """Start a server with a state folder of its own; it and its containers are gone at the end."""
    environment = os.environ | {"SAGEMAKER_LOCAL_STATE": str(state)}
    subprocess.run([*_SERVER, "start"], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    try:
        shown = subprocess.run(
            [*_SERVER, "env", "--json"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        yield LocalSageMaker(json.loads(shown.stdout))
    finally:
        subprocess.run([*_SERVER, "stop"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def container_sockets() -> set[Path]:
    """The Unix domain sockets of all running containers of local SageMakers of this user."""
    folders = {Path(tempfile.gettempdir()), Path("/tmp")}
    return {socket for folder in folders for socket in folder.glob("sagemaker-*/socket")}


def _archive(weights: Path | None, code: Path) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for file in sorted(weights.iterdir()) if weights else []:
            tar.add(file, file.name)
        if code.is_dir():
            for file in sorted(code.glob("*.py")):
                tar.add(file, f"code/{file.name}")
        else:
            tar.add(code, "code/inference.py")
    archive.seek(0)
    return archive
