"""Requests that AWS would refuse for their shape are refused: a fuzzer plants one defect in a request that is right."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from front_support import BUCKET, IMAGE, ROLE, LocalServer
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.local_sagemaker import schema
from shared.local_sagemaker.control_plane import OPERATIONS
from shared.local_sagemaker.faults import Fault

ARN = "arn:aws:sagemaker:us-east-1:123456789012:model/m"
TAGS = [{"Key": "team", "Value": "höher"}, {"Key": "empty", "Value": ""}]
LIST = {
    "SortOrder": "Ascending",
    "SortBy": "Name",
    "MaxResults": 5,
    "NextToken": "abc",
    "NameContains": "abc",
    "CreationTimeAfter": 1700000000.5,
    "CreationTimeBefore": 1800000000,
}
CONTAINER = {
    "ContainerHostname": "first",
    "Image": IMAGE,
    "ImageConfig": {
        "RepositoryAccessMode": "Vpc",
        "RepositoryAuthConfig": {
            "RepositoryCredentialsProviderArn": "arn:aws:lambda:us-east-1:123456789012:function:f"
        },
    },
    "Mode": "MultiModel",
    "ModelDataUrl": f"s3://{BUCKET}/a/model.tar.gz",
    "ModelDataSource": {
        "S3DataSource": {
            "S3Uri": f"s3://{BUCKET}/a/",
            "S3DataType": "S3Prefix",
            "CompressionType": "None",
            "ModelAccessConfig": {"AcceptEula": True},
        }
    },
    "Environment": {"NAME": "value", "_OTHER2": ""},
    "MultiModelConfig": {"ModelCacheSetting": "Enabled"},
}
CHANNEL = {
    "ChannelName": "train",
    "DataSource": {
        "S3DataSource": {
            "S3DataType": "S3Prefix",
            "S3Uri": f"s3://{BUCKET}/data/",
            "S3DataDistributionType": "ShardedByS3Key",
        }
    },
    "ContentType": "application/jsonlines",
    "CompressionType": "None",
    "RecordWrapperType": "None",
    "InputMode": "FastFile",
}
METRIC = {"Name": "loss", "Regex": "loss=([0-9.]+)"}
OF_TRAINING = {
    "RoleArn": ROLE,
    "InputDataConfig": [CHANNEL],
    "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out", "CompressionType": "NONE"},
    "ResourceConfig": {
        "InstanceType": "ml.g5.2xlarge",
        "InstanceCount": 2,
        "VolumeSizeInGB": 30,
        "KeepAlivePeriodInSeconds": 60,
    },
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
    "EnableNetworkIsolation": False,
    "EnableManagedSpotTraining": True,
    "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints", "LocalPath": "/opt/ml/checkpoints"},
    "RetryStrategy": {"MaximumRetryAttempts": 2},
    "Environment": {"NAME": "value"},
}
REQUESTS: dict[str, dict[str, Any]] = {
    "CreateTrainingJob": OF_TRAINING
    | {
        "TrainingJobName": "a-job",
        "HyperParameters": {"learning_rate": "0.1"},
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [METRIC],
            "EnableSageMakerMetricsTimeSeries": True,
            "ContainerEntrypoint": ["/bin/bash"],
            "ContainerArguments": ["-c", "true"],
        },
        "Tags": TAGS,
    },
    "DescribeTrainingJob": {"TrainingJobName": "a-job"},
    "StopTrainingJob": {"TrainingJobName": "a-job"},
    "UpdateTrainingJob": {"TrainingJobName": "a-job", "ResourceConfig": {"KeepAlivePeriodInSeconds": 60}},
    "ListTrainingJobs": LIST | {"StatusEquals": "Stopped", "LastModifiedTimeAfter": 1, "WarmPoolStatusEquals": "InUse"},
    "CreateHyperParameterTuningJob": {
        "HyperParameterTuningJobName": "a-tuning-job",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {
                "MaxNumberOfTrainingJobs": 4,
                "MaxParallelTrainingJobs": 2,
                "MaxRuntimeInSeconds": 3600,
            },
            "ParameterRanges": {
                "IntegerParameterRanges": [
                    {"Name": "r", "MinValue": "1", "MaxValue": "64", "ScalingType": "Logarithmic"}
                ],
                "ContinuousParameterRanges": [{"Name": "learning_rate", "MinValue": "0.1", "MaxValue": "1"}],
                "CategoricalParameterRanges": [{"Name": "method", "Values": ["full", "lora"]}],
            },
            "TrainingJobEarlyStoppingType": "Auto",
            "TuningJobCompletionCriteria": {
                "TargetObjectiveMetricValue": 0.5,
                "BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3},
            },
            "RandomSeed": 1,
        },
        "TrainingJobDefinition": OF_TRAINING
        | {
            "DefinitionName": "runs",
            "StaticHyperParameters": {"epochs": "1"},
            "AlgorithmSpecification": {
                "TrainingImage": IMAGE,
                "TrainingInputMode": "File",
                "MetricDefinitions": [METRIC],
            },
        },
        "Tags": TAGS,
    },
    "DescribeHyperParameterTuningJob": {"HyperParameterTuningJobName": "a-tuning-job"},
    "StopHyperParameterTuningJob": {"HyperParameterTuningJobName": "a-tuning-job"},
    "ListHyperParameterTuningJobs": LIST | {"StatusEquals": "Completed"},
    "ListTrainingJobsForHyperParameterTuningJob": {
        "HyperParameterTuningJobName": "a-tuning-job",
        "NextToken": "abc",
        "MaxResults": 100,
        "StatusEquals": "Failed",
        "SortBy": "FinalObjectiveMetricValue",
        "SortOrder": "Descending",
    },
    "CreateModel": {
        "ModelName": "a-model-1",
        "PrimaryContainer": CONTAINER,
        "Containers": [CONTAINER],
        "InferenceExecutionConfig": {"Mode": "Serial"},
        "ExecutionRoleArn": ROLE,
        "Tags": TAGS,
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": False,
    },
    "CreateEndpointConfig": {
        "EndpointConfigName": "a-config",
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic",
                "ModelName": "a-model",
                "InitialInstanceCount": 1,
                "InstanceType": "ml.g5.2xlarge",
                "InitialVariantWeight": 0.5,
                "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5},
                "VolumeSizeInGB": 30,
                "ModelDataDownloadTimeoutInSeconds": 600,
                "ContainerStartupHealthCheckTimeoutInSeconds": 600,
                "EnableSSMAccess": True,
                "RoutingConfig": {"RoutingStrategy": "RANDOM"},
            }
        ],
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": f"s3://{BUCKET}/capture",
            "CaptureOptions": [{"CaptureMode": "Input"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        },
        "AsyncInferenceConfig": {
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 4},
            "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        },
        "Tags": TAGS,
    },
    "CreateEndpoint": {"EndpointName": "an-endpoint", "EndpointConfigName": "a-config", "Tags": TAGS},
    "UpdateEndpoint": {
        "EndpointName": "an-endpoint",
        "EndpointConfigName": "a-config",
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
        "RetainDeploymentConfig": False,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "WaitIntervalInSeconds": 60,
                    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 30},
                },
                "TerminationWaitInSeconds": 60,
                "MaximumExecutionTimeoutInSeconds": 1800,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
        },
    },
    "UpdateEndpointWeightsAndCapacities": {
        "EndpointName": "an-endpoint",
        "DesiredWeightsAndCapacities": [{"VariantName": "A", "DesiredWeight": 0.5, "DesiredInstanceCount": 2}],
    },
    "DescribeModel": {"ModelName": "m"},
    "DescribeEndpointConfig": {"EndpointConfigName": "c"},
    "DescribeEndpoint": {"EndpointName": "e"},
    "DeleteModel": {"ModelName": "m"},
    "DeleteEndpointConfig": {"EndpointConfigName": "c"},
    "DeleteEndpoint": {"EndpointName": "e"},
    "ListModels": LIST,
    "ListEndpointConfigs": LIST,
    "ListEndpoints": LIST | {"StatusEquals": "InService", "LastModifiedTimeAfter": 1, "LastModifiedTimeBefore": 2},
    "AddTags": {"ResourceArn": ARN, "Tags": TAGS},
    "ListTags": {"ResourceArn": ARN, "MaxResults": 50, "NextToken": "abc"},
    "DeleteTags": {"ResourceArn": ARN, "TagKeys": ["team"]},
}
SHAPES = schema.service_model("sagemaker")["shapes"]
OF_WRONG_TYPE: dict[str, list[Any]] = {
    "structure": [1, "text", [], True],
    "list": [1, "text", {}, False],
    "map": [1, "text", [], True],
    "string": [1, 1.5, True, [], {}, "\ud800"],
    "boolean": [1, 0, "true", [], {}],
    "integer": ["1", 1.5, True, [], {}, 1 << 40, -(1 << 99), 1e300],
    "long": ["1", 1.5, True, [], {}, 1 << 70],
    "float": ["1", True, [], {}, 10**400],
    "double": ["1", True, [], {}, 10**400],
    "timestamp": ["2026-01-01", True, [], {}, 10**400],
}


def defects(shape_name: str, value: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    """(path, wrong value) for every constraint of the shape at every place of a right `value`; MISSING removes it."""
    shape = SHAPES[shape_name]
    kind = shape["type"]
    found = [(path, wrong) for wrong in OF_WRONG_TYPE[kind]] if path else []
    if kind == "structure":
        found.append(((*path, "Unknown"), 1))
        found += [((*path, name), MISSING) for name in shape.get("required", [])]
        found += [((*path, name), None) for name in shape.get("required", [])]
        for name, member in value.items():
            found += defects(shape["members"][name]["shape"], member, (*path, name))
        return found
    if kind in ("list", "map"):
        found += _defects_of_length(shape, value, path)
        member = shape["member" if kind == "list" else "value"]["shape"]
        for key, element in enumerate(value) if kind == "list" else value.items():
            found += defects(member, element, (*path, key))
            found.append(((*path, key), None))
        return found
    if kind == "string":
        return found + _defects_of_string(shape, path)
    if "min" in shape:
        found.append((path, shape["min"] - 1))
    if "max" in shape:
        found.append((path, shape["max"] + 1))
    return found


def _defects_of_length(shape: dict[str, Any], value: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    found = []
    if shape.get("min", 0) > 0:
        found.append((path, type(value)()))
    if "max" in shape:
        many = range(shape["max"] + 1)
        example = value[0] if isinstance(value, list) else next(iter(value.values()))
        found.append((path, [example for _ in many] if isinstance(value, list) else {f"K{n}": example for n in many}))
    if shape["type"] == "map":
        found += [
            (path, {key: "value"})
            for key in ("not allowed", "0", "K" * 1025)
            if schema.constraint_violations("sagemaker", shape["key"]["shape"], key)
        ]
    return found


def _defects_of_string(shape: dict[str, Any], path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    found = []
    if shape.get("min", 0) > 0:
        found.append((path, "x" * (shape["min"] - 1)))
    if "max" in shape:
        found.append((path, "x" * (shape["max"] + 1)))
    if "enum" in shape:
        found += [(path, text) for text in ("", "Unheard Of", shape["enum"][0].swapcase(), shape["enum"][0] + " ")]
    elif "pattern" in shape:
        pattern = schema.compiled_pattern(shape["pattern"])
        found += [
            (path, text) for text in (" ", "\n", "a b", "a\n", "-a", "ü\x00", "$(x)") if not pattern.fullmatch(text)
        ]
    return found


MISSING = object()
DEFECTS = [
    (operation, path, wrong)
    for operation, request in REQUESTS.items()
    for path, wrong in defects(
        schema.service_model("sagemaker")["operations"][operation]["input"]["shape"], request, ()
    )
]


def planted(operation: str, path: tuple[Any, ...], wrong: Any) -> dict[str, Any]:
    request = copy.deepcopy(REQUESTS[operation])
    place: Any = request
    for step in path[:-1]:
        place = place[step]
    if wrong is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = wrong
    return request


def test_every_operation_has_a_request_here() -> None:
    assert set(REQUESTS) == set(OPERATIONS)
    assert len(DEFECTS) > 1000


@pytest.mark.parametrize("operation", REQUESTS)
def test_right_requests_pass(operation: str) -> None:
    assert schema.validate("sagemaker", operation, REQUESTS[operation]) == REQUESTS[operation]
    assert schema.validate_shape("sagemaker", "ListModelsInput", {"MaxResults": None}) == {}


def test_every_planted_defect_is_refused() -> None:
    accepted = []
    for operation, path, wrong in DEFECTS:
        try:
            schema.validate("sagemaker", operation, planted(operation, path, wrong))
            accepted.append((operation, path, wrong))
        except Fault as fault:
            assert fault.code in ("ValidationException", "SerializationException")
            assert fault.status == 400
    assert accepted == []


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DEFECTS))
def test_planted_defects_are_refused_over_http(server: LocalServer, defect: tuple[str, tuple[Any, ...], Any]) -> None:
    operation, path, wrong = defect
    body = json.dumps(planted(operation, path, wrong)).encode()
    status, headers, answer = server.call(operation, body)
    refused = json.loads(answer)
    assert (status, headers["content-type"]) == (400, "application/x-amz-json-1.1")
    assert refused["__type"] in ("ValidationException", "SerializationException")
    assert refused["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_gets_an_answer_of_aws(server: LocalServer, operation: str, body: bytes) -> None:
    status, headers, answer = server.call(operation, body)
    assert status in (200, 400)
    assert headers["content-type"] == "application/x-amz-json-1.1"
    json.loads(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"{",
        b'{"ModelName": "a",}',
        b'{"ModelName": NaN}',
        b'{"MaxResults": Infinity}',
        b'{"MaxResults": ' + b"9" * 5000 + b"}",
        b'{"MaxResults": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"ModelName": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"ModelName": "\xff"}',
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b"\xff\xfe",
        b"\x00",
    ],
)
def test_malformed_bodies(server: LocalServer, body: bytes) -> None:
    status, headers, answer = server.call("DescribeModel", body)
    refused = json.loads(answer)
    assert (status, refused["__type"]) == (400, "SerializationException")
    assert headers["x-amzn-errortype"] == "SerializationException"
    assert headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        (
            "DescribeModel",
            {},
            "1 validation error detected: Value null at 'modelName' failed to satisfy constraint: "
            "Member must not be null",
        ),
        (
            "CreateEndpoint",
            {"EndpointName": "a_b", "EndpointConfigName": "c" * 64},
            "2 validation errors detected: Value 'a_b' at 'endpointName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}; Value '" + "c" * 64 + "' at "
            "'endpointConfigName' failed to satisfy constraint: Member must have length less than or equal to 63",
        ),
        (
            "ListModels",
            {"MaxResults": 101, "SortOrder": "Up"},
            "2 validation errors detected: Value '101' at 'maxResults' failed to satisfy constraint: Member must have "
            "value less than or equal to 100; Value 'Up' at 'sortOrder' failed to satisfy constraint: Member must "
            "satisfy enum value set: [Ascending, Descending]",
        ),
    ],
)
def test_messages_are_worded_as_aws_words_them(operation: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(Fault) as refused:
        schema.validate("sagemaker", operation, request_)
    assert refused.value.message == message


def test_unknown_operations_are_named(server: LocalServer) -> None:
    for operation in ("CreateNotebookInstance", "ListPipelines", "CreateTransformJob"):
        status, _, answer = server.call(operation, b"{}")
        refused = json.loads(answer)
        assert (status, refused["__type"]) == (400, "UnknownOperationException")
        assert f"does not implement SageMaker.{operation}" in refused["message"]
        assert "CreateEndpoint" in refused["message"]
    for operation in ("MakeCoffee", "", "CreateModel.x", "é"):
        status, _, answer = server.call(operation.encode("ascii", "replace").decode(), b"{}")
        assert (status, json.loads(answer)["__type"]) == (400, "UnknownOperationException")


def test_every_pattern_of_the_models_is_understood() -> None:
    for service in ("sagemaker", "sagemaker-runtime"):
        for shape in schema.service_model(service)["shapes"].values():
            if "pattern" in shape:
                schema.compiled_pattern(shape["pattern"]).fullmatch("-" * 300)
