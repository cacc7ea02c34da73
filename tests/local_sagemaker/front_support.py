"""A local SageMaker started by its command line, and what the front's tests do with it."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions

from shared.local_sagemaker import schema

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "123456789012"
BUCKET = f"sagemaker-us-east-1-{ACCOUNT}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu"

HANDLER = """
import json, os, sys, time

def model_fn(model_dir, context=None):
    print("loading the model", flush=True)
    return "model"

def transform_fn(model, data, content_type, accept):
    request = json.loads(data)
    if "raise" in request:
        raise ValueError(request["raise"])
    if "exit" in request:
        os._exit(request["exit"])
    if "stream" in request:
        return pieces(request), "application/jsonlines"
    return json.dumps({"echo": request, "accept": accept}), "application/json"

def pieces(request):
    for number in range(request["stream"]):
        print("piece", number, flush=True)
        yield json.dumps({"number": number}).encode() + b"\\n"
        time.sleep(request.get("sleep", 0))
    if "break" in request:
        os._exit(1)
"""


def command(*arguments: str, state: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, away from any AWS settings of this one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    return subprocess.run(
        [sys.executable, "-m", "shared.local_sagemaker", *arguments, "--state", str(state)],
        cwd=ROOT,
        env=clean | environment,
        check=check,
        capture_output=True,
        text=True,
        timeout=120,
    )


@dataclass
class LocalServer:
    """A running server: its state folder and the values of `env --json`."""

    state: Path
    values: dict[str, str]
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def port(self) -> int:
        return int(self.values["AWS_ENDPOINT_URL"].rpartition(":")[2])

    def record(self) -> dict[str, Any]:
        """What the server has written about itself."""
        return json.loads((self.state / "server.json").read_text())

    def client(self, service: str, **settings: Any) -> Any:
        """A boto3 client for the server; every SageMaker answer is held against the service model.

        Without settings it is the same one each time: making one takes longer than most calls.
        """
        if not settings and service in self._clients:
            return self._clients[service]
        plain = not settings
        config = {"retries": {"max_attempts": 0}} | settings.pop("config", {})
        parameters = {
            "endpoint_url": self.values["AWS_ENDPOINT_URL"],
            "region_name": self.values["AWS_REGION"],
            "aws_access_key_id": self.values["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.values["AWS_SECRET_ACCESS_KEY"],
        } | settings
        client = boto3.session.Session().client(service, config=botocore.config.Config(**config), **parameters)
        if service == "sagemaker":
            client.meta.events.register("before-parse.sagemaker.*", _check_answer)
        if plain:
            self._clients[service] = client
        return client

    def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        service: str = "sagemaker",
    ) -> dict[str, str]:
        """Headers that sign a request as botocore would."""
        request = botocore.awsrequest.AWSRequest(
            method=method, url=self.values["AWS_ENDPOINT_URL"] + path, data=body, headers=headers or {}
        )
        keys = botocore.credentials.Credentials(self.values["AWS_ACCESS_KEY_ID"], self.values["AWS_SECRET_ACCESS_KEY"])
        signer = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
        signer(keys, service, self.values["AWS_REGION"]).add_auth(request)
        return dict(request.headers.items())

    def raw(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send exactly that over a new connection: (status, headers in lower case, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(body))} | (headers or {})
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def call(self, operation: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """A signed control plane request with any body."""
        headers = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
        return self.raw("POST", "/", body, self.signed("POST", "/", body, headers))


def _check_answer(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] == 200 and operation_model.output_shape is not None:
        answer = json.loads(response_dict["body"])
        schema.validate_shape("sagemaker", operation_model.output_shape.name, answer)


def start(state: Path, *arguments: str, **environment: str) -> LocalServer:
    """Start a server, or find it."""
    command("start", *arguments, state=state, **environment)
    return LocalServer(state, json.loads(command("env", "--json", state=state).stdout))


def archive(files: dict[str, str]) -> bytes:
    """A model.tar.gz of text files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def create_model(server: LocalServer, name: str, handler: str = HANDLER, **container: Any) -> str:
    """A model with that handler; returns its ARN."""
    key = f"models/{name}/model.tar.gz"
    server.client("s3").put_object(Bucket=BUCKET, Key=key, Body=archive({"code/inference.py": handler}))
    answer = server.client("sagemaker").create_model(
        ModelName=name,
        PrimaryContainer={"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{key}"} | container,
        ExecutionRoleArn=ROLE,
    )
    return answer["ModelArn"]


def create_config(server: LocalServer, name: str, model: str, **variant: Any) -> None:
    """An endpoint configuration of one variant."""
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": model,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
            }
            | variant
        ],
    )


def deploy(server: LocalServer, name: str, handler: str = HANDLER, **variant: Any) -> dict[str, Any]:
    """A model, a configuration and an endpoint of that name; returns the endpoint's description once it is decided."""
    create_model(server, name, handler)
    create_config(server, name, name, **variant)
    client = server.client("sagemaker")
    client.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return wait_while(server, name, "Creating")


def wait_while(server: LocalServer, endpoint: str, status: str, seconds: float = 60) -> dict[str, Any]:
    """The endpoint's description once its status is another one."""
    client = server.client("sagemaker")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        description = client.describe_endpoint(EndpointName=endpoint)
        if description["EndpointStatus"] != status:
            return description
        time.sleep(0.05)
    raise AssertionError(f"endpoint {endpoint} is still {status}")


def error_of(call: Any, **parameters: Any) -> tuple[str, str, int]:
    """(code, message, HTTP status) of the ClientError that the call must raise."""
    try:
        call(**parameters)
    except botocore.exceptions.ClientError as error:
        response = error.response
        return (
            response["Error"]["Code"],
            response["Error"]["Message"],
            response["ResponseMetadata"]["HTTPStatusCode"],
        )
    raise AssertionError("the call did not fail")
