"""Endpoints that change while they serve: UpdateEndpoint and UpdateEndpointWeightsAndCapacities."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from front_support import (
    ACCOUNT,
    LocalServer,
    archive,
    create_config,
    create_model,
    deploy,
    error_of,
    wait_while,
)

SAYS = """
import json, os, time

def model_fn(model_dir):
    {at_start}
    return {word!r}

def transform_fn(model, data, content_type, accept):
    request = json.loads(data)
    time.sleep(request.get("sleep", 0))
    if "exit" in request:
        os._exit(request["exit"])
    return json.dumps(model), "application/json"
"""


def says(word: str, at_start: str = "pass") -> str:
    """A handler that answers `word`."""
    return SAYS.format(word=word, at_start=at_start)


def arn(name: str, kind: str = "endpoint") -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{kind}/{name}"


def ask(server: LocalServer, name: str, **request: Any) -> str:
    runtime = server.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=json.dumps(request))
    return json.loads(answer["Body"].read())


def containers(server: LocalServer, name: str) -> int:
    """How many working folders of containers of the endpoint there are."""
    folder = server.state / "endpoints" / name
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)
    return value


def new_config(server: LocalServer, name: str, word: str, at_start: str = "pass", **variant: Any) -> str:
    """A model that answers `word` and a configuration for it, both of that name."""
    create_model(server, name, says(word, at_start))
    create_config(server, name, name, **variant)
    return name


def two_variants(server: LocalServer, name: str, models: tuple[str, str], weights: tuple[float, float]) -> str:
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": variant,
                "ModelName": model,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
                "InitialVariantWeight": weight,
            }
            for variant, model, weight in zip(("one", "two"), models, weights, strict=True)
        ],
    )
    return name


@pytest.fixture
def endpoint(server: LocalServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """An endpoint in service that answers "old", named after the test."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:50]
    assert deploy(server, name, says("old"))["EndpointStatus"] == "InService"
    yield name
    client = server.client("sagemaker")
    wait_while(server, name, "Updating")
    client.delete_endpoint(EndpointName=name)
    wait_until(lambda: not client.list_endpoints(NameContains=name)["Endpoints"], "the endpoint is deleted")
    assert containers(server, name) == 0


def test_a_new_model_takes_over_without_a_gap(server: LocalServer, endpoint: str, tmp_path) -> None:
    client = server.client("sagemaker")
    go = tmp_path / "go"
    wait = f"while not __import__('os').path.exists({str(go)!r}): time.sleep(0.02)"
    new_config(server, f"{endpoint}-2", "new", at_start=wait)
    answer = client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2")
    assert answer["EndpointArn"] == arn(endpoint)
    updating = client.describe_endpoint(EndpointName=endpoint)
    assert updating["EndpointStatus"] == "Updating"
    assert updating["EndpointConfigName"] == endpoint
    assert updating["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    pending = updating["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == f"{endpoint}-2"
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Creating"
    assert ask(server, endpoint) == "old"
    for refused in (
        lambda: client.update_endpoint(EndpointName=endpoint, EndpointConfigName=endpoint),
        lambda: client.delete_endpoint(EndpointName=endpoint),
    ):
        code, message, _ = error_of(refused)
        assert (code, message) == ("ValidationException", f'Cannot update in-progress endpoint "{arn(endpoint)}".')

    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(ask(server, endpoint, sleep=2)))
    slow.start()
    wait_until(lambda: containers(server, endpoint) == 2, "the second container")
    go.touch()
    done = wait_while(server, endpoint, "Updating")
    assert (done["EndpointStatus"], done["EndpointConfigName"]) == ("InService", f"{endpoint}-2")
    assert "FailureReason" not in done and "PendingDeploymentSummary" not in done
    assert done["LastModifiedTime"] > updating["CreationTime"] == done["CreationTime"]
    assert done["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert {ask(server, endpoint) for _ in range(10)} == {"new"}
    slow.join()
    assert answers == ["old"], "a request that was under way is answered"
    wait_until(lambda: containers(server, endpoint) == 1, "the old container is gone")


def test_a_model_that_raises_leaves_the_old_one_serving(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker")
    new_config(server, f"{endpoint}-2", "new", at_start="raise RuntimeError('no weights here')")
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2")
    assert ask(server, endpoint) == "old"
    done = wait_while(server, endpoint, "Updating")
    assert (done["EndpointStatus"], done["EndpointConfigName"]) == ("InService", endpoint)
    assert "did not pass the ping health check" in done["FailureReason"]
    assert "RuntimeError: no weights here" in done["FailureReason"]
    assert ask(server, endpoint) == "old"
    wait_until(lambda: containers(server, endpoint) == 1, "the new container is gone")
    # The next update succeeds, and its success clears the reason.
    new_config(server, f"{endpoint}-3", "third")
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-3")
    done = wait_while(server, endpoint, "Updating")
    assert "FailureReason" not in done
    assert ask(server, endpoint) == "third"


def test_model_data_that_is_gone_fails_the_update(server: LocalServer, endpoint: str) -> None:
    new_config(server, f"{endpoint}-2", "new")
    server.client("s3").delete_object(Bucket=f"sagemaker-us-east-1-{ACCOUNT}", Key=f"models/{endpoint}-2/model.tar.gz")
    server.client("sagemaker").update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2")
    done = wait_while(server, endpoint, "Updating")
    assert done["EndpointStatus"] == "InService"
    assert "Failed to download model data" in done["FailureReason"]
    assert ask(server, endpoint) == "old"


def test_an_old_fleet_that_dies_during_an_update_is_replaced(server: LocalServer, endpoint: str, tmp_path) -> None:
    go = tmp_path / "go"
    wait = f"while not __import__('os').path.exists({str(go)!r}): time.sleep(0.02)"
    new_config(server, f"{endpoint}-2", "new", at_start=wait)
    old = next((server.state / "endpoints" / endpoint).rglob("inference.py"))
    client = server.client("sagemaker")
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2")
    wait_until(lambda: containers(server, endpoint) == 2, "the second container")
    # The handler is broken, so that a container that ends cannot be started again.
    old.write_text("raise RuntimeError('broken meanwhile')")
    assert error_of(lambda: ask(server, endpoint, exit=3))[0] == "ModelError"
    wait_until(lambda: containers(server, endpoint) == 1, "the end of the old container")
    assert error_of(lambda: ask(server, endpoint))[0] == "ModelError"
    assert client.describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "Updating"
    go.touch()
    done = wait_while(server, endpoint, "Updating")
    assert (done["EndpointStatus"], done["EndpointConfigName"]) == ("InService", f"{endpoint}-2")
    assert ask(server, endpoint) == "new"


def test_what_cannot_be_updated(server: LocalServer, endpoint: str) -> None:
    update = server.client("sagemaker").update_endpoint
    weights = server.client("sagemaker").update_endpoint_weights_and_capacities
    one = [{"VariantName": "AllTraffic", "DesiredWeight": 2.0}]
    missing = ("ValidationException", f'Could not find endpoint "{arn("nowhere")}".', 400)
    assert error_of(update, EndpointName="nowhere", EndpointConfigName=endpoint) == missing
    assert error_of(weights, EndpointName="nowhere", DesiredWeightsAndCapacities=one) == missing
    code, message, _ = error_of(update, EndpointName=endpoint, EndpointConfigName="nothing")
    assert (code, message) == (
        "ValidationException",
        f'Could not find endpoint configuration "{arn("nothing", "endpoint-config")}".',
    )
    failed = deploy(server, "failed-before", says("x", "raise ValueError"))
    assert failed["EndpointStatus"] == "Failed"
    for call, parameters in (
        (update, {"EndpointConfigName": endpoint}),
        (weights, {"DesiredWeightsAndCapacities": one}),
    ):
        code, message, _ = error_of(call, EndpointName="failed-before", **parameters)
        assert code == "ValidationException" and "in status Failed" in message
    server.client("sagemaker").delete_endpoint(EndpointName="failed-before")
    new_config(server, f"{endpoint}-many", "x", InitialInstanceCount=20)
    code, message, _ = error_of(update, EndpointName=endpoint, EndpointConfigName=f"{endpoint}-many")
    assert code == "ResourceLimitExceeded" and "request delta of 20" in message
    server.client("sagemaker").delete_endpoint_config(EndpointConfigName=endpoint)
    code, message, _ = error_of(update, EndpointName=endpoint, EndpointConfigName=f"{endpoint}-many")
    assert message == f'Could not find endpoint configuration "{arn(endpoint, "endpoint-config")}".'
    assert server.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointStatus"] == "InService"


HALF = {"Type": "CAPACITY_PERCENT", "Value": 50}
AT_ONCE = {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}
ROLLING = {"MaximumBatchSize": HALF, "WaitIntervalInSeconds": 0}
TOO_LONG = {"TerminationWaitInSeconds": 900, "MaximumExecutionTimeoutInSeconds": 600}


def routing(kind: str, **sizes: Any) -> dict[str, Any]:
    return {"TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 0, **sizes}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"BlueGreenUpdatePolicy": AT_ONCE, "RollingUpdatePolicy": ROLLING}, "Only one of"),
        ({"RollingUpdatePolicy": ROLLING | {"MaximumBatchSize": HALF | {"Value": 60}}}, "5 to 50 percent"),
        ({"BlueGreenUpdatePolicy": routing("CANARY")}, "CanarySize must be specified"),
        ({"BlueGreenUpdatePolicy": routing("LINEAR", CanarySize=HALF)}, "LinearStepSize must be specified"),
        ({"BlueGreenUpdatePolicy": routing("ALL_AT_ONCE", CanarySize=HALF)}, "CanarySize cannot be specified"),
        ({"BlueGreenUpdatePolicy": routing("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 1})}, "not 100"),
        ({"BlueGreenUpdatePolicy": routing("LINEAR", LinearStepSize=HALF | {"Value": 9})}, "10 to 50 percent"),
        ({"BlueGreenUpdatePolicy": AT_ONCE | TOO_LONG}, "must be larger than the total waiting time"),
        ({"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "not-there"}]}}, "alarms not-there"),
    ],
)
def test_deployment_configs_that_are_refused(server: LocalServer, config: dict[str, Any], expected: str) -> None:
    name = "refused-deployment-configs"
    client = server.client("sagemaker")
    if not client.list_models(NameContains=name)["Models"]:
        create_model(server, name, says("x"))
        create_config(server, name, name)
    code, message, _ = error_of(
        client.create_endpoint, EndpointName=name, EndpointConfigName=name, DeploymentConfig=config
    )
    assert code == "ValidationException"
    assert expected in message


def test_a_canary_and_an_alarm_that_takes_it_back(server: LocalServer, endpoint: str) -> None:
    client, cloudwatch = server.client("sagemaker"), server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="errors",
        MetricName="Invocation5XXErrors",
        Namespace="AWS/SageMaker",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    config = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "CANARY", "WaitIntervalInSeconds": 3600, "CanarySize": HALF},
            "MaximumExecutionTimeoutInSeconds": 28800,
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
    }
    new_config(server, f"{endpoint}-2", "new")
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2", DeploymentConfig=config)
    wait_until(lambda: ask(server, endpoint) == "new", "the canary gets traffic")
    seen = Counter(ask(server, endpoint) for _ in range(60))
    assert min(seen["old"], seen["new"]) >= 8, seen
    pending = client.describe_endpoint(EndpointName=endpoint)["PendingDeploymentSummary"]
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Baking"
    cloudwatch.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="a test")
    done = wait_while(server, endpoint, "Updating")
    assert (done["EndpointStatus"], done["EndpointConfigName"]) == ("InService", endpoint)
    assert "errors" in done["FailureReason"]
    assert {ask(server, endpoint) for _ in range(10)} == {"old"}


def test_linear_steps_and_the_last_deployment_config(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker")
    config = {"BlueGreenUpdatePolicy": routing("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 30})}
    new_config(server, f"{endpoint}-2", "new")
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-2", DeploymentConfig=config)
    done = wait_while(server, endpoint, "Updating")
    assert done["LastDeploymentConfig"] == config
    assert ask(server, endpoint) == "new"
    other = two_variants(server, f"{endpoint}-3", (f"{endpoint}-2", endpoint), (1, 1))
    code, message, _ = error_of(
        client.update_endpoint, EndpointName=endpoint, EndpointConfigName=other, RetainDeploymentConfig=True
    )
    assert code == "ValidationException" and "same production variant names" in message
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=other)
    done = wait_while(server, endpoint, "Updating")
    assert [variant["VariantName"] for variant in done["ProductionVariants"]] == ["one", "two"]
    assert "LastDeploymentConfig" not in done


def test_weights_move_traffic_and_counts_start_and_end_containers(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker")
    create_model(server, f"{endpoint}-b", says("b"))
    two_variants(server, f"{endpoint}-two", (endpoint, f"{endpoint}-b"), (1, 0))
    client.update_endpoint(EndpointName=endpoint, EndpointConfigName=f"{endpoint}-two")
    wait_while(server, endpoint, "Updating")
    assert {ask(server, endpoint) for _ in range(10)} == {"old"}

    def change(*wanted: dict[str, Any]) -> dict[str, Any]:
        client.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=list(wanted))
        return wait_while(server, endpoint, "Updating")

    client.update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[
            {"VariantName": "one", "DesiredWeight": 0},
            {"VariantName": "two", "DesiredWeight": 3.5},
        ],
    )
    assert {ask(server, endpoint) for _ in range(10)} == {"b"}, "at once"
    done = wait_while(server, endpoint, "Updating")
    assert [(v["CurrentWeight"], v["DesiredWeight"]) for v in done["ProductionVariants"]] == [(0, 0), (3.5, 3.5)]

    done = change({"VariantName": "two", "DesiredInstanceCount": 2})
    assert done["EndpointStatus"] == "InService"
    assert [v["CurrentInstanceCount"] for v in done["ProductionVariants"]] == [1, 2]
    wait_until(lambda: containers(server, endpoint) == 3, "a third container, and the end of the first fleet's")
    done = change({"VariantName": "two", "DesiredInstanceCount": 1})
    assert [v["DesiredInstanceCount"] for v in done["ProductionVariants"]] == [1, 1]
    wait_until(lambda: containers(server, endpoint) == 2, "one container is gone")
    assert ask(server, endpoint) == "b"

    # What was set by hand is kept through an update where that is asked for.
    change({"VariantName": "two", "DesiredInstanceCount": 2})
    update = {"EndpointName": endpoint, "EndpointConfigName": f"{endpoint}-two", "RetainAllVariantProperties": True}
    client.update_endpoint(**update)
    done = wait_while(server, endpoint, "Updating")
    kept = [(v["DesiredWeight"], v["DesiredInstanceCount"]) for v in done["ProductionVariants"]]
    assert kept == [(0, 1), (3.5, 2)]
    client.update_endpoint(**update, ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredInstanceCount"}])
    done = wait_while(server, endpoint, "Updating")
    kept = [(v["DesiredWeight"], v["DesiredInstanceCount"]) for v in done["ProductionVariants"]]
    assert kept == [(0, 1), (3.5, 1)]
    assert {ask(server, endpoint) for _ in range(5)} == {"b"}


def test_weights_and_counts_that_are_refused(server: LocalServer, endpoint: str) -> None:
    change = server.client("sagemaker").update_endpoint_weights_and_capacities
    for wanted, code, expected in (
        ([{"VariantName": "Other", "DesiredWeight": 1.0}], "ValidationException", '"Other"'),
        ([{"VariantName": "AllTraffic", "DesiredWeight": 0.0}], "ValidationException", "weight above 0"),
        ([{"VariantName": "AllTraffic", "DesiredInstanceCount": 0}], "ValidationException", "at least 1"),
        ([{"VariantName": "AllTraffic", "DesiredInstanceCount": 21}], "ResourceLimitExceeded", "delta of 20"),
        ([{"VariantName": "AllTraffic"}, {"VariantName": "AllTraffic"}], "ValidationException", "once"),
        ([{"VariantName": "AllTraffic", "ServerlessUpdateConfig": {}}], "ValidationException", "not support"),
    ):
        given = error_of(change, EndpointName=endpoint, DesiredWeightsAndCapacities=wanted)
        assert given[0] == code and expected in given[1], (wanted, given)
    description = server.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    assert description["EndpointStatus"] == "InService"
    assert description["ProductionVariants"][0]["DesiredWeight"] == 1


def test_an_instance_that_cannot_be_added_leaves_the_old_ones(server: LocalServer, endpoint: str) -> None:
    client = server.client("sagemaker")
    # The model data is downloaded anew for each instance; meanwhile it has become another one.
    data = archive({"code/inference.py": says("old", "raise OSError('no room')")})
    server.client("s3").put_object(
        Bucket=f"sagemaker-us-east-1-{ACCOUNT}", Key=f"models/{endpoint}/model.tar.gz", Body=io.BytesIO(data)
    )
    client.update_endpoint_weights_and_capacities(
        EndpointName=endpoint, DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    )
    done = wait_while(server, endpoint, "Updating")
    assert done["EndpointStatus"] == "InService"
    assert "OSError: no room" in done["FailureReason"]
    assert done["ProductionVariants"][0]["DesiredInstanceCount"] == 1
    wait_until(lambda: containers(server, endpoint) == 1, "the added container is gone")
    assert ask(server, endpoint) == "old"
