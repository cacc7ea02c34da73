"""Endpoints under unmodified clients: deployed, invoked, streamed from, logged, counted, failed, deleted."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from botocore.exceptions import EventStreamError, WaiterError
from front_support import (
    ACCOUNT,
    HANDLER,
    ROOT,
    LocalServer,
    create_config,
    create_model,
    deploy,
    error_of,
    wait_while,
)

from shared.local_sagemaker import schema

ARN = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:endpoint"


@pytest.fixture(scope="module")
def endpoint(server: LocalServer) -> Iterator[str]:
    assert deploy(server, "Echo")["EndpointStatus"] == "InService"
    yield "Echo"
    server.client("sagemaker").delete_endpoint(EndpointName="Echo")


def invoke(server: LocalServer, name: str, request: Any, **more: Any) -> dict[str, Any]:
    return server.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, Body=json.dumps(request), **{"ContentType": "application/json"} | more
    )


def stream(server: LocalServer, name: str, request: Any) -> Any:
    return server.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=name, Body=json.dumps(request), ContentType="application/json"
    )["Body"]


def model_error(server: LocalServer, name: str, request: Any) -> Any:
    client = server.client("sagemaker-runtime")
    with pytest.raises(client.exceptions.ModelError) as raised:
        client.invoke_endpoint(EndpointName=name, Body=json.dumps(request), ContentType="application/json")
    return raised.value


def remove(server: LocalServer, name: str) -> None:
    client = server.client("sagemaker")
    client.delete_endpoint(EndpointName=name)
    client.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    client.delete_endpoint_config(EndpointConfigName=name)
    client.delete_model(ModelName=name)


def test_what_an_endpoint_says_about_itself(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker")
    client.get_waiter("endpoint_in_service").wait(EndpointName=endpoint, WaiterConfig={"Delay": 1})
    described = client.describe_endpoint(EndpointName=endpoint)
    assert described["EndpointArn"] == f"{ARN}/echo"
    assert described["EndpointConfigName"] == endpoint
    assert described["LastModifiedTime"] >= described["CreationTime"]
    assert "FailureReason" not in described
    variant = described["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (1, 1)
    assert variant["CurrentWeight"] == 1.0
    assert "@sha256:" in variant["DeployedImages"][0]["ResolvedImage"]
    listed = client.list_endpoints(NameContains=endpoint, StatusEquals="InService", SortBy="Status")["Endpoints"]
    assert [summary["EndpointArn"] for summary in listed] == [f"{ARN}/echo"]
    assert client.list_endpoints(NameContains=endpoint, StatusEquals="Failed")["Endpoints"] == []
    code, message, _ = error_of(client.create_endpoint, EndpointName="ECHO", EndpointConfigName=endpoint)
    assert (code, message) == ("ValidationException", f'Cannot create already existing endpoint "{ARN}/echo".')


def test_invocation(server: LocalServer, endpoint: str) -> None:
    answer = invoke(server, endpoint, {"a": "é"}, Accept="application/json", CustomAttributes="trace=1")
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads(answer["Body"].read()) == {"echo": {"a": "é"}, "accept": "application/json"}
    assert invoke(server, endpoint, {}, TargetVariant="AllTraffic")["InvokedProductionVariant"] == "AllTraffic"


def test_invocations_at_once(server: LocalServer, endpoint: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: json.loads(invoke(server, endpoint, {"n": n})["Body"].read()), range(40))
        assert [answer["echo"]["n"] for answer in answers] == list(range(40))


def test_streaming(server: LocalServer, endpoint: str) -> None:
    answer = server.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint, Body=b'{"stream": 3, "sleep": 0.3}', ContentType="application/json"
    )
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/jsonlines", "AllTraffic")
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert [json.loads(part)["number"] for part in parts] == [0, 1, 2]


def test_a_client_that_goes_away_ends_the_stream(server: LocalServer, endpoint: str) -> None:
    body = stream(server, endpoint, {"stream": 1000, "sleep": 0.02})
    next(iter(body))
    body.close()
    log = next((server.state / "logs" / "endpoints" / endpoint).rglob("*.log"))
    lines, deadline = -1, time.monotonic() + 20
    while time.monotonic() < deadline and lines != len(log.read_text().splitlines()):
        lines = len(log.read_text().splitlines())
        time.sleep(0.5)
    assert "piece 999" not in log.read_text()


def test_an_error_of_the_model(server: LocalServer, endpoint: str) -> None:
    error = model_error(server, endpoint, {"raise": "the model is unhappy"})
    response = error.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == 400
    assert json.loads(response["OriginalMessage"])["message"] == "the model is unhappy"
    assert response["LogStreamArn"] == f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/{endpoint}"
    assert response["Error"]["Message"].startswith('Received client error (400) from primary with message "')
    assert f"in account {ACCOUNT} for more information" in response["Error"]["Message"]
    client = server.client("sagemaker-runtime")
    with pytest.raises(client.exceptions.ModelError):
        client.invoke_endpoint_with_response_stream(
            EndpointName=endpoint, Body=b'{"raise": "x"}', ContentType="application/json"
        )


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"EndpointName": "nothing"}, f"Endpoint nothing of account {ACCOUNT} not found."),
        ({"EndpointName": "echo"}, f"Endpoint echo of account {ACCOUNT} not found."),
        (
            {"EndpointName": "a b"},
            "'endpointName' failed to satisfy constraint: Member must satisfy regular expression",
        ),
        ({"TargetVariant": "Other"}, "Variant Other not found"),
        ({"TargetVariant": "a/b"}, "targetVariant"),
        ({"CustomAttributes": "x" * 1025}, "length less than or equal to 1024"),
    ],
)
def test_invocations_that_are_refused(
    server: LocalServer, endpoint: str, parameters: dict[str, str], cause: str
) -> None:
    client = server.client("sagemaker-runtime")
    for call in (client.invoke_endpoint, client.invoke_endpoint_with_response_stream):
        code, message, status = error_of(call, **{"EndpointName": endpoint, "Body": b"{}"} | parameters)
        assert (code, status) == ("ValidationError", 400)
        assert cause in message


def test_what_the_runtime_does_not_support_is_named(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker-runtime")
    code, message, _ = error_of(client.invoke_endpoint, EndpointName=endpoint, Body=b"{}", TargetModel="a.tar.gz")
    assert (code, message) == ("ValidationError", "The local SageMaker does not support TargetModel in InvokeEndpoint.")


def test_an_invocation_that_is_too_large(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker-runtime")
    limit = 25 << 20
    code, message, status = error_of(client.invoke_endpoint, EndpointName=endpoint, Body=b"1" * (limit + 1))
    assert (code, status) == ("413", 413)
    assert f"exceeded {limit} bytes" in message
    assert error_of(client.invoke_endpoint, EndpointName=endpoint, Body=bytes(40 << 20))[2] == 413
    small = client.invoke_endpoint(EndpointName=endpoint, Body=b'{"a": "%s"}' % (b"1" * (limit - 100)))
    assert len(small["Body"].read()) > limit - 100


def test_other_paths_of_the_runtime(server: LocalServer, endpoint: str) -> None:
    runtime = server.client("sagemaker-runtime")
    code, message, _ = error_of(runtime.invoke_endpoint_async, EndpointName=endpoint, InputLocation="s3://b/k")
    assert code == "UnknownOperationException" and "InvokeEndpointAsync" in message
    path = f"/endpoints/{endpoint}/other"
    status, _, body = server.raw("POST", path, b"", server.signed("POST", path))
    assert (status, json.loads(body)["__type"]) == (400, "UnknownOperationException")


def test_logs(server: LocalServer, endpoint: str) -> None:
    with pytest.raises(Exception, match="to be found in the log"):
        invoke(server, endpoint, {"raise": "to be found in the log"})
    logs, group = server.client("logs"), f"/aws/sagemaker/Endpoints/{endpoint}"
    streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    assert len(streams) == 1
    variant, instance = streams[0]["logStreamName"].split("/")
    assert variant == "AllTraffic"
    assert len(instance) == 19 and instance.startswith("i-")
    found: list[str] = []
    deadline = time.monotonic() + 10
    while not any("to be found in the log" in line for line in found) and time.monotonic() < deadline:
        events = logs.get_log_events(logGroupName=group, logStreamName=f"{variant}/{instance}", startFromHead=True)
        found = [event["message"] for event in events["events"]]
    assert "loading the model" in found
    assert any("Traceback" in line for line in found)
    plain = server.state / "logs" / "endpoints" / endpoint / variant / f"{instance}.log"
    assert set(found) <= set(plain.read_text().splitlines())


def test_metrics(server: LocalServer, endpoint: str) -> None:
    client = server.client("cloudwatch")
    dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "AllTraffic"}]

    def total(name: str, statistic: str = "Sum") -> float:
        now = datetime.datetime.now(datetime.UTC)
        answer = client.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=name,
            Dimensions=dimensions,
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(minutes=1),
            Period=7200,
            Statistics=[statistic],
        )
        return sum(point[statistic] for point in answer["Datapoints"])

    before = total("Invocations"), total("Invocation4XXErrors")
    for _ in range(3):
        invoke(server, endpoint, {})
    model_error(server, endpoint, {"raise": "counted"})
    deadline = time.monotonic() + 10
    while total("Invocations") < before[0] + 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert total("Invocations") == before[0] + 4
    assert total("Invocation4XXErrors") == before[1] + 1
    assert total("Invocation5XXErrors") == 0
    assert total("ModelLatency", "Minimum") > total("OverheadLatency", "Minimum") > 0


def test_a_deletion_and_what_remains(server: LocalServer) -> None:
    deploy(server, "short-lived")
    folder = server.state / "endpoints" / "short-lived"
    assert folder.exists()
    children = psutil.Process(server.record()["pid"]).children(recursive=True)
    client = server.client("sagemaker")
    remove(server, "short-lived")
    missing = ("ValidationException", f'Could not find endpoint "{ARN}/short-lived".', 400)
    assert error_of(client.describe_endpoint, EndpointName="short-lived") == missing
    assert error_of(client.delete_endpoint, EndpointName="short-lived") == missing
    assert not folder.exists()
    assert len(psutil.Process(server.record()["pid"]).children(recursive=True)) < len(children)
    assert list((server.state / "logs" / "endpoints" / "short-lived").rglob("*.log"))
    assert "short-lived" not in server.record()["endpoints"]


def test_an_endpoint_in_progress_is_left_alone(server: LocalServer) -> None:
    create_model(server, "slow", "import time\ndef model_fn(d): time.sleep(3)\ndef predict_fn(x, m): return x\n")
    create_config(server, "slow", "slow")
    client = server.client("sagemaker")
    client.create_endpoint(EndpointName="slow", EndpointConfigName="slow")
    assert client.describe_endpoint(EndpointName="slow")["EndpointStatus"] == "Creating"
    busy = ("ValidationException", f'Cannot update in-progress endpoint "{ARN}/slow".', 400)
    assert error_of(client.delete_endpoint, EndpointName="slow") == busy
    runtime = server.client("sagemaker-runtime")
    assert "not found" in error_of(runtime.invoke_endpoint, EndpointName="slow", Body=b"{}")[1]
    assert wait_while(server, "slow", "Creating")["EndpointStatus"] == "InService"
    remove(server, "slow")


def test_a_model_that_does_not_load(server: LocalServer) -> None:
    create_model(server, "broken", "def model_fn(d): raise RuntimeError('cannot load this')\n")
    create_config(server, "broken", "broken")
    client = server.client("sagemaker")
    client.create_endpoint(EndpointName="broken", EndpointConfigName="broken")
    with pytest.raises(WaiterError, match="Failed"):
        client.get_waiter("endpoint_in_service").wait(
            EndpointName="broken", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
    described = client.describe_endpoint(EndpointName="broken")
    assert "production variant AllTraffic" in described["FailureReason"]
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    group = "/aws/sagemaker/Endpoints/broken"
    events = server.client("logs").filter_log_events(logGroupName=group)["events"]
    assert any("cannot load this" in event["message"] for event in events)
    assert (
        "not found"
        in error_of(server.client("sagemaker-runtime").invoke_endpoint, EndpointName="broken", Body=b"{}")[1]
    )
    remove(server, "broken")


def test_a_container_that_dies_in_an_invocation(server: LocalServer) -> None:
    deploy(server, "mortal")
    error = model_error(server, "mortal", {"exit": 3})
    assert error.response["OriginalStatusCode"] == 503
    with pytest.raises(EventStreamError, match="ModelStreamError") as broken:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                list(stream(server, "mortal", {"stream": 2, "break": True, "sleep": 0.2}))
            except server.client("sagemaker-runtime").exceptions.ModelError:
                time.sleep(0.2)
    assert "StreamBroken" in str(broken.value.response) or "broke off" in str(broken.value)
    wait_until_settled(server, "mortal")
    remove(server, "mortal")


def wait_until_settled(server: LocalServer, name: str) -> None:
    deadline = time.monotonic() + 60
    client = server.client("sagemaker")
    while time.monotonic() < deadline:
        if client.describe_endpoint(EndpointName=name)["EndpointStatus"] in ("InService", "Failed"):
            return
        time.sleep(0.1)


def test_several_variants(server: LocalServer) -> None:
    client = server.client("sagemaker")
    create_model(server, "variants")
    variant = {"ModelName": "variants", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    client.create_endpoint_config(
        EndpointConfigName="variants",
        ProductionVariants=[
            variant | {"VariantName": "Often", "InitialVariantWeight": 1},
            variant | {"VariantName": "Never", "InitialVariantWeight": 0},
        ],
    )
    client.create_endpoint(EndpointName="variants", EndpointConfigName="variants")
    assert wait_while(server, "variants", "Creating")["EndpointStatus"] == "InService"
    assert {invoke(server, "variants", {})["InvokedProductionVariant"] for _ in range(10)} == {"Often"}
    assert invoke(server, "variants", {}, TargetVariant="Never")["InvokedProductionVariant"] == "Never"
    remove(server, "variants")


def test_what_cannot_be_created(server: LocalServer) -> None:
    client = server.client("sagemaker")
    code, message, _ = error_of(client.create_endpoint, EndpointName="e", EndpointConfigName="missing")
    assert code == "ValidationException"
    assert message == f'Could not find endpoint configuration "{ARN}-config/missing".'
    create_model(server, "many")
    create_config(server, "many", "many", InitialInstanceCount=21)
    code, message, _ = error_of(client.create_endpoint, EndpointName="e", EndpointConfigName="many")
    assert code == "ResourceLimitExceeded"
    assert "ml.m5.large for endpoint usage" in message
    client.delete_model(ModelName="many")
    assert 'Could not find model "' in error_of(client.create_endpoint, EndpointName="e", EndpointConfigName="many")[1]
    assert client.list_endpoints(NameContains="e", StatusEquals="Creating")["Endpoints"] == []


SDK_SCRIPT = """
import json, sys
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

image, data, role = sys.argv[1:]
model = Model.create(
    model_name="sdk", execution_role_arn=role,
    primary_container=ContainerDefinition(image=image, model_data_url=data),
)
config = EndpointConfig.create(
    endpoint_config_name="sdk",
    production_variants=[ProductionVariant(
        variant_name="AllTraffic", model_name="sdk", instance_type="ml.m5.large", initial_instance_count=1)],
)
endpoint = Endpoint.create(endpoint_name="sdk", endpoint_config_name=config)
endpoint.wait_for_status("InService", poll=1)
answer = endpoint.invoke(body=json.dumps({"from": "sdk"}), content_type="application/json")
print("answer", answer.body.read().decode())
print("names", [found.endpoint_name for found in Endpoint.get_all(name_contains="sdk")])
endpoint.delete()
endpoint.wait_for_delete(poll=1)
config.delete()
model.delete()
from sagemaker.core.helper.session_helper import Session
print("bucket", Session().default_bucket())
"""


def test_sdk_v3(server: LocalServer) -> None:
    from front_support import IMAGE, ROLE

    create_model(server, "sdk-data")
    data = server.client("sagemaker").describe_model(ModelName="sdk-data")["PrimaryContainer"]["ModelDataUrl"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
    result = subprocess.run(
        [sys.executable, "-c", SDK_SCRIPT, IMAGE, data, ROLE],
        env=clean | server.values,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert 'answer {"echo": {"from": "sdk"}' in result.stdout
    assert "names ['sdk']" in result.stdout
    assert f"bucket sagemaker-us-east-1-{ACCOUNT}" in result.stdout


def test_answers_of_the_runtime_fit_the_service_model() -> None:
    shapes = schema.service_model("sagemaker-runtime")["shapes"]
    assert set(shapes["ModelError"]["members"]) == {"Message", "OriginalStatusCode", "OriginalMessage", "LogStreamArn"}
    assert shapes["ModelError"]["error"]["httpStatusCode"] == 424
    assert {"PayloadPart", "ModelStreamError", "InternalStreamFailure"} == set(shapes["ResponseStream"]["members"])


def test_creations_at_once_make_one_endpoint(server: LocalServer) -> None:
    create_model(server, "raced", HANDLER)
    create_config(server, "raced", "raced")
    outcomes: list[str] = []

    def create() -> None:
        try:
            server.client("sagemaker").create_endpoint(EndpointName="raced", EndpointConfigName="raced")
            outcomes.append("created")
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=create) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ClientError"] * 4 + ["created"]
    wait_while(server, "raced", "Creating")
    remove(server, "raced")
