"""Models, endpoint configurations, tags, lists; IAM and STS as the SDK asks them."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest
from front_support import ACCOUNT, BUCKET, IMAGE, ROLE, LocalServer, archive, create_config, create_model, error_of
from hypothesis import given
from hypothesis import strategies as st

from shared.local_sagemaker import records
from shared.local_sagemaker.faults import Fault

ARN = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}"


@pytest.fixture(scope="module")
def data(server: LocalServer) -> str:
    server.client("s3").put_object(Bucket=BUCKET, Key="resources/model.tar.gz", Body=archive({"config.json": "{}"}))
    return f"s3://{BUCKET}/resources/model.tar.gz"


def test_a_model_from_creation_to_deletion(server: LocalServer, data: str) -> None:
    client = server.client("sagemaker")
    container = {"Image": IMAGE, "ModelDataUrl": data, "Environment": {"HF_TASK": "text-generation"}}
    created = client.create_model(ModelName="Model-One", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    assert created["ModelArn"] == f"{ARN}:model/model-one"
    described = client.describe_model(ModelName="Model-One")
    assert described["ModelName"] == "Model-One"
    assert described["ExecutionRoleArn"] == ROLE
    assert container.items() <= described["PrimaryContainer"].items()
    assert described["PrimaryContainer"]["Mode"] == "SingleModel"
    source = described["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert source == {"S3Uri": data, "S3DataType": "S3Object", "CompressionType": "Gzip"}
    age = datetime.datetime.now(datetime.UTC) - described["CreationTime"]
    assert datetime.timedelta(seconds=-1) < age < datetime.timedelta(minutes=5)
    again = {"ModelName": "Model-One", "PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    assert error_of(client.create_model, **again) == (
        "ValidationException",
        f'Cannot create already existing model "{ARN}:model/model-one".',
        400,
    )
    client.delete_model(ModelName="Model-One")
    missing = ("ValidationException", f'Could not find model "{ARN}:model/model-one".', 400)
    assert error_of(client.describe_model, ModelName="Model-One") == missing
    assert error_of(client.delete_model, ModelName="Model-One") == missing


@pytest.mark.parametrize(
    ("container", "cause"),
    [
        ({"Image": "python:3"}, 'Using non-ECR image "python:3" without Vpc repository access mode is not supported.'),
        (
            {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/no.tar.gz"},
            f"Could not find model data at s3://{BUCKET}/no",
        ),
        ({"Image": IMAGE, "ModelDataUrl": "s3://no-such-bucket/a.tar.gz"}, "Could not find model data"),
        ({"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}"}, ".tar.gz"),
        ({"Image": IMAGE, "ModelDataUrl": "https://example.com/m.tar.gz"}, ".tar.gz"),
        ({"Image": IMAGE, "Mode": "MultiModel"}, "MultiModel"),
        ({"Image": IMAGE, "ImageConfig": {"RepositoryAccessMode": "Vpc"}}, "ImageConfig"),
        ({"ModelDataUrl": f"s3://{BUCKET}/no.tar.gz"}, "Image"),
    ],
)
def test_models_that_are_refused(server: LocalServer, container: dict[str, Any], cause: str) -> None:
    code, message, status = error_of(
        server.client("sagemaker").create_model, ModelName="m", PrimaryContainer=container, ExecutionRoleArn=ROLE
    )
    assert (code, status) == ("ValidationException", 400)
    assert cause in message


def test_the_role_is_checked(server: LocalServer) -> None:
    client = server.client("sagemaker")
    model = {"ModelName": "m", "PrimaryContainer": {"Image": IMAGE}}
    unknown = error_of(client.create_model, **model, ExecutionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/unknown")
    assert unknown[0] == "ValidationException" and "Could not assume role" in unknown[1]
    foreign = error_of(client.create_model, **model, ExecutionRoleArn="arn:aws:iam::999999999999:role/other")
    assert foreign[0] == "AccessDeniedException"
    assert "ExecutionRoleArn" in error_of(client.create_model, **model)[1]
    server.client("iam").create_role(RoleName="mine", AssumeRolePolicyDocument="{}")
    client.create_model(**model, ExecutionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/mine")
    client.delete_model(ModelName="m")


def test_model_data_may_be_named_as_a_source(server: LocalServer, data: str) -> None:
    client = server.client("sagemaker")
    source = {"S3Uri": data, "S3DataType": "S3Object", "CompressionType": "Gzip"}
    container = {"Image": IMAGE, "ModelDataSource": {"S3DataSource": source}}
    client.create_model(ModelName="by-source", Containers=[container], ExecutionRoleArn=ROLE)
    assert client.describe_model(ModelName="by-source")["PrimaryContainer"]["ModelDataUrl"] == data
    client.delete_model(ModelName="by-source")
    source |= {"S3DataType": "S3Prefix", "CompressionType": "None"}
    refused = {"ModelName": "m", "PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    assert "S3DataType" in error_of(client.create_model, **refused)[1]


def test_an_endpoint_configuration_from_creation_to_deletion(server: LocalServer) -> None:
    client = server.client("sagemaker")
    create_model(server, "for-config")
    create_config(server, "Config", "for-config", InitialVariantWeight=0.25)
    described = client.describe_endpoint_config(EndpointConfigName="Config")
    assert described["EndpointConfigArn"] == f"{ARN}:endpoint-config/config"
    assert described["ProductionVariants"] == [
        {
            "VariantName": "AllTraffic",
            "ModelName": "for-config",
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
            "InitialVariantWeight": 0.25,
        }
    ]
    assert [
        c["EndpointConfigName"] for c in client.list_endpoint_configs(NameContains="Config")["EndpointConfigs"]
    ] == ["Config"]
    client.delete_endpoint_config(EndpointConfigName="Config")
    assert error_of(client.delete_endpoint_config, EndpointConfigName="Config") == (
        "ValidationException",
        f'Could not find endpoint configuration "{ARN}:endpoint-config/config".',
        400,
    )


VARIANT = {"VariantName": "A", "ModelName": "for-refusal", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        ({"ProductionVariants": [VARIANT | {"ModelName": "missing"}]}, 'Could not find model "arn:aws:'),
        ({"ProductionVariants": [VARIANT, VARIANT]}, "unique"),
        (
            {"ProductionVariants": [VARIANT | {"InstanceType": "ml.made-up.large"}]},
            "Member must satisfy enum value set",
        ),
        ({"ProductionVariants": [VARIANT | {"InitialInstanceCount": 0}]}, "greater than or equal to 1"),
        ({"ProductionVariants": [VARIANT | {"InitialVariantWeight": 0}]}, "InitialVariantWeight"),
        ({"ProductionVariants": [{"VariantName": "A", "ModelName": "for-refusal"}]}, "InstanceType must be given"),
        ({"ProductionVariants": []}, "length greater than or equal to 1"),
        (
            {"ProductionVariants": [VARIANT | {"ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1}}]},
            "does not support ServerlessConfig",
        ),
        (
            {
                "ProductionVariants": [VARIANT],
                "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/x"}},
            },
            "does not support AsyncInferenceConfig",
        ),
        (
            {
                "ProductionVariants": [VARIANT],
                "DataCaptureConfig": {
                    "EnableCapture": True,
                    "InitialSamplingPercentage": 1,
                    "DestinationS3Uri": f"s3://{BUCKET}/x",
                    "CaptureOptions": [{"CaptureMode": "Input"}],
                },
            },
            "does not support DataCaptureConfig",
        ),
    ],
)
def test_endpoint_configurations_that_are_refused(server: LocalServer, request_: dict[str, Any], cause: str) -> None:
    client = server.client("sagemaker", config={"parameter_validation": False})
    if not client.list_models(NameContains="for-refusal")["Models"]:
        create_model(server, "for-refusal")
    code, message, _ = error_of(client.create_endpoint_config, EndpointConfigName="refused", **request_)
    assert code == "ValidationException"
    assert cause in message


@pytest.fixture(scope="module")
def listed(server: LocalServer) -> list[str]:
    client = server.client("sagemaker")
    names = [f"listed-{letter}" for letter in "dbaec"]
    for name in names:
        client.create_model(ModelName=name, PrimaryContainer={"Image": IMAGE}, ExecutionRoleArn=ROLE)
        time.sleep(0.01)
    return names


def names_of(answer: dict[str, Any]) -> list[str]:
    return [model["ModelName"] for model in answer["Models"]]


def test_lists_are_sorted_and_filtered(server: LocalServer, listed: list[str]) -> None:
    client = server.client("sagemaker")
    assert names_of(client.list_models(NameContains="listed")) == listed[::-1]
    assert names_of(client.list_models(NameContains="listed", SortOrder="Ascending")) == listed
    by_name = client.list_models(NameContains="listed", SortBy="Name", SortOrder="Ascending")
    assert names_of(by_name) == sorted(listed)
    assert names_of(client.list_models(NameContains="listed-a")) == ["listed-a"]
    third = client.describe_model(ModelName=listed[2])["CreationTime"]
    after = client.list_models(NameContains="listed", CreationTimeAfter=third, SortOrder="Ascending")
    before = client.list_models(NameContains="listed", CreationTimeBefore=third, SortOrder="Ascending")
    assert (names_of(before), names_of(after)) == (listed[:2], listed[2:])


def test_pages(server: LocalServer, listed: list[str]) -> None:
    client = server.client("sagemaker")
    for size in (1, 2, 5):
        pages = client.get_paginator("list_models").paginate(
            NameContains="listed", SortOrder="Ascending", PaginationConfig={"PageSize": size}
        )
        assert [name for page in pages for name in names_of(page)] == listed
    first = client.list_models(NameContains="listed", MaxResults=2)
    assert len(first["Models"]) == 2
    question = {"NameContains": "listed", "MaxResults": 2}
    for token in ("abc", "é", "", first["NextToken"][:-4], "e30=", "bnVsbA==", "W10="):
        code, message, status = error_of(client.list_models, **question, NextToken=token)
        assert (code, status) == ("ValidationException", 400), token
    other = error_of(client.list_models, NameContains="other", NextToken=first["NextToken"])
    assert other[0] == "ValidationException" and "NextToken" in other[1]


@given(st.lists(st.integers(0, 30), unique=True, max_size=12), st.integers(1, 5), st.data())
def test_pages_lose_and_repeat_nothing_that_stays(items: list[int], size: int, data: st.DataObject) -> None:
    left, seen, request = list(items), [], {"MaxResults": size}
    removed: set[int] = set()
    while True:
        answer = records.page(left, request, "Items", key=str)
        seen += answer["Items"]
        if "NextToken" not in answer:
            break
        request = {"MaxResults": size, "NextToken": answer["NextToken"]}
        if left and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(left))
            removed.add(gone)
            left.remove(gone)
    assert len(seen) == len(set(seen))
    assert [item for item in seen if item not in removed] == [item for item in items if item not in removed]


@given(st.text(max_size=60))
def test_made_up_tokens_are_refused(token: str) -> None:
    with pytest.raises(Fault) as refused:
        records.page([1, 2, 3], {"NextToken": token}, "Items", key=str)
    assert refused.value.code == "ValidationException"


def test_tags(server: LocalServer) -> None:
    client = server.client("sagemaker")
    create = {"PrimaryContainer": {"Image": IMAGE}, "ExecutionRoleArn": ROLE}
    arn = client.create_model(ModelName="tagged", Tags=[{"Key": "a", "Value": "1"}], **create)["ModelArn"]
    added = client.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}])["Tags"]
    assert added == [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}]
    assert client.list_tags(ResourceArn=arn)["Tags"] == added
    client.delete_tags(ResourceArn=arn, TagKeys=["a", "never there"])
    assert client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": ""}]
    many = [{"Key": f"k{number}", "Value": "x"} for number in range(50)]
    assert error_of(client.add_tags, ResourceArn=arn, Tags=many)[0] == "ResourceLimitExceeded"
    reserved = error_of(client.add_tags, ResourceArn=arn, Tags=[{"Key": "aws:x", "Value": "x"}])
    assert reserved[0] == "ValidationException"
    twice = [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}]
    assert "Duplicate" in error_of(client.create_model, ModelName="twice", Tags=twice, **create)[1]
    client.delete_model(ModelName="tagged")
    for call, more in (
        (client.list_tags, {}),
        (client.delete_tags, {"TagKeys": ["b"]}),
        (client.add_tags, {"Tags": []}),
    ):
        code, message, _ = error_of(call, ResourceArn=arn, **more)
        assert code == "ValidationException" and arn in message


def test_tags_are_listed_in_pages(server: LocalServer) -> None:
    client = server.client("sagemaker")
    tags = [{"Key": f"k{number:02}", "Value": "x"} for number in range(50)]
    arn = client.create_model(
        ModelName="many-tags", PrimaryContainer={"Image": IMAGE}, ExecutionRoleArn=ROLE, Tags=tags
    )["ModelArn"]
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn, PaginationConfig={"PageSize": 50})
    assert [tag for page in pages for tag in page["Tags"]] == tags


def test_the_caller_holds_the_execution_role(server: LocalServer) -> None:
    identity = server.client("sts").get_caller_identity()
    role_name = ROLE.rpartition("/")[2]
    assert identity["Account"] == ACCOUNT
    assert identity["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/{role_name}/SageMaker"
    role = server.client("iam").get_role(RoleName=role_name)["Role"]
    assert role["Arn"] == ROLE
    trusted = role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]
    assert trusted == {"Service": "sagemaker.amazonaws.com"}


def test_simulated_policies_allow_everything_to_whoever_exists(server: LocalServer) -> None:
    iam = server.client("iam")
    answer = iam.simulate_principal_policy(
        PolicySourceArn=ROLE, ActionNames=["s3:GetObject", "iam:PassRole"], ResourceArns=["*", "arn:aws:s3:::b&c"]
    )
    assert [result["EvalDecision"] for result in answer["EvaluationResults"]] == ["allowed"] * 4
    assert answer["EvaluationResults"][1]["EvalResourceName"] == "arn:aws:s3:::b&c"
    unknown = f"arn:aws:iam::{ACCOUNT}:role/unknown"
    assert error_of(iam.simulate_principal_policy, PolicySourceArn=unknown, ActionNames=["s3:GetObject"])[::2] == (
        "NoSuchEntity",
        404,
    )


def test_the_other_services_answer(server: LocalServer) -> None:
    logs = server.client("logs")
    logs.create_log_group(logGroupName="mine")
    assert "mine" in [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_data(Namespace="Mine", MetricData=[{"MetricName": "m", "Value": 2.0}])
    assert [metric["MetricName"] for metric in cloudwatch.list_metrics(Namespace="Mine")["Metrics"]] == ["m"]
    scaling = server.client("application-autoscaling")
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_quotas_are_found_by_name_over_all_pages(server: LocalServer) -> None:
    client = server.client("service-quotas")
    for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
        pages = client.get_paginator(operation).paginate(ServiceCode="sagemaker", PaginationConfig={"PageSize": 50})
        by_name = {quota["QuotaName"]: quota for answer in pages for quota in answer["Quotas"]}
        assert by_name["ml.g5.2xlarge for endpoint usage"]["Value"] == 20
        assert len({quota["QuotaCode"] for quota in by_name.values()}) == len(by_name) > 100
    quota = by_name["ml.m5.large for endpoint usage"]
    for get in (client.get_service_quota, client.get_aws_default_service_quota):
        assert get(ServiceCode="sagemaker", QuotaCode=quota["QuotaCode"])["Quota"] == quota
    assert error_of(client.get_service_quota, ServiceCode="sagemaker", QuotaCode="L-00000000")[0] == (
        "NoSuchResourceException"
    )
    assert error_of(client.list_service_quotas, ServiceCode="ec2")[0] == "NoSuchResourceException"
    assert error_of(client.list_service_quotas, ServiceCode="sagemaker", NextToken="x")[0] == "ValidationException"
    assert [service["ServiceCode"] for service in client.list_services()["Services"]] == ["sagemaker"]
    code, message, _ = error_of(
        client.request_service_quota_increase, ServiceCode="sagemaker", QuotaCode="L-00000000", DesiredValue=1
    )
    assert code == "UnknownOperationException"
    assert "RequestServiceQuotaIncrease" in message
