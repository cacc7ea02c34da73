"""The SageMaker Python SDK v2, whose deploy() looks every 30 seconds whether the endpoint is in service."""

from __future__ import annotations

from pathlib import Path

from client_support import BUCKET, Server, run_script, wait_until


def test_sdk_v2(sdk_v2_python: Path, server: Server, tmp_path: Path) -> None:
    results = run_script(sdk_v2_python, "sdk_v2", server, tmp_path, SAGEMAKER_SUPPRESS_V2_WARNING="1")
    assert results["version"].startswith("2.")
    assert results["session"] == {
        "bucket": BUCKET,
        "region": "us-east-1",
        "urls": [f"s3://{BUCKET}/numbers", f"s3://{BUCKET}/numbers/three"],
        "keys": ["numbers/one", "numbers/three", "numbers/two"],
        "content": "number two",
        "downloaded": ["one", "three", "two"],
    }
    assert results["status"] == "InService"
    assert {"Key": "workshop", "Value": "genai"} in results["tags"]
    for name, greeting in (("source", "hej"), ("archive", "hola")):
        seen = results[name]
        assert seen["class"] == "HuggingFacePredictor"
        assert seen["answer"] == {"greeting": greeting, "request": {"x": 1}}
        assert seen["lines"] == [{"number": 0}, {"number": 1}, {"number": 2}]
        assert seen["bytes"] == '{"number": 0}\n{"number": 1}\n'
        assert seen["table"] == {"length": 7, "content_type": "text/csv", "accept": "text/plain"}
        assert seen["error"]["code"] == "ModelError"
        assert "no such luck" in seen["error"]["message"]
    assert "does not support ServerlessConfig" in results["refused"]
    wait_until(lambda: server.client("sagemaker").list_endpoints()["Endpoints"] == [], "the endpoints are deleted")


def test_training_with_sdk_v2(sdk_v2_python: Path, server: Server, tmp_path: Path) -> None:
    results = run_script(sdk_v2_python, "sdk_v2_training", server, tmp_path, SAGEMAKER_SUPPRESS_V2_WARNING="1")
    trained = results["training"]
    assert trained["status"] == "Completed"
    assert "/huggingface-pytorch-training:2.8.0-transformers4.56.2-gpu-py312" in trained["image"]
    assert "epoch=1 eval_loss=0.75" in trained["log"]
    assert trained["model_data"] == f"s3://{BUCKET}/trained-by-v2/output/model.tar.gz"
    assert trained["metrics"] == [0.75]
    assert min(trained["seconds"]) >= 1
    assert trained["files"] == ["model.tar.gz", "output.tar.gz"]
    assert trained["output"]["host"] == "algo-1"
    assert trained["output"]["hyperparameters"] == {"epochs": 2, "learning_rate": 0.25, "name": "the model's name"}
    assert trained["attached"] == [trained["model_data"], "2"]
    assert trained["answer"] == {"model": "the model's name knows 3 rows", "request": {"x": 1}}
    assert "RuntimeError: the rows are spoiled" in results["failure"]
    tuning = results["tuning"]
    assert (tuning["status"], tuning["completed"]) == ("Completed", 4)
    assert tuning["best"] == tuning["attached"] == tuning["smallest"]
    assert {"learning_rate", "epochs", "FinalObjectiveValue"} <= set(tuning["columns"])
    wait_until(lambda: server.client("sagemaker").list_endpoints()["Endpoints"] == [], "the endpoint is deleted")
