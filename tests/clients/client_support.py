"""A local SageMaker for clients of other versions, which run as processes with interpreters of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).with_name("scripts")
INFERENCE = Path(__file__).with_name("model") / "inference.py"
ACCOUNT = "123456789012"
BUCKET = f"sagemaker-us-east-1-{ACCOUNT}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service-role/AmazonSageMaker-ExecutionRole-Local"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu"
PATIENCE_SECONDS = 60.0
CLIENT_SECONDS = 240.0


@dataclass(frozen=True)
class Server:
    """A running local SageMaker: its state folder and the values of `env --json`."""

    state: Path
    values: dict[str, str]

    def client(self, service: str) -> Any:
        """A boto3 client of this project's own version, for looking at what the other clients did."""
        return boto3.session.Session().client(
            service,
            endpoint_url=self.values["AWS_ENDPOINT_URL"],
            region_name=self.values["AWS_REGION"],
            aws_access_key_id=self.values["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.values["AWS_SECRET_ACCESS_KEY"],
        )

    def resources(self) -> list[str]:
        """Names of all models, endpoint configurations and endpoints."""
        client = self.client("sagemaker")
        return [
            *(model["ModelName"] for model in client.list_models()["Models"]),
            *(config["EndpointConfigName"] for config in client.list_endpoint_configs()["EndpointConfigs"]),
            *(endpoint["EndpointName"] for endpoint in client.list_endpoints()["Endpoints"]),
        ]

    def processes(self) -> list[psutil.Process]:
        """The living processes that were told the server's address: containers, and clients that have not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AWS_ENDPOINT_URL") == self.values["AWS_ENDPOINT_URL"]:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


def start(state: Path) -> Server:
    """Start a server for the state folder by its command line."""
    command("start", state=state)
    return Server(state, json.loads(command("env", "--json", state=state).stdout))


def command(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run the local SageMaker's command line. Raises CalledProcessError."""
    return subprocess.run(
        [sys.executable, "-m", "shared.local_sagemaker", *arguments, "--state", str(state)],
        cwd=ROOT,
        env=_clean_environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_client(
    python: Path, arguments: list[str], server: Server, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with the client's interpreter in `folder`, pointed at the server and at no settings of the user."""
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env=_clean_environment() | server.values | {"HOME": str(folder)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
    )


def run_script(python: Path, name: str, server: Server, folder: Path, **environment: str) -> dict[str, Any]:
    """The results of a program of scripts/, which writes them as JSON to the file that it is given.

    It is also given the path of a model archive and the inference script in it.
    """
    results = folder / f"{name}.results.json"
    write_archive(folder / "model.tar.gz")
    arguments = [str(SCRIPTS / f"{name}.py"), str(results), str(folder / "model.tar.gz"), str(INFERENCE)]
    done = run_client(python, arguments, server, folder, **environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(results.read_text())


def write_archive(path: Path) -> Path:
    """A model.tar.gz with the inference script as code/inference.py."""
    content = INFERENCE.read_bytes()
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.1)
    return value


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
