"""A boto3 from before S3's default checksums, with the event stream decoder and CloudWatch protocol of its time."""

from __future__ import annotations

from pathlib import Path

from client_support import Server, run_script


def test_old_boto3(awscli_python: Path, server: Server, tmp_path: Path) -> None:
    results = run_script(awscli_python, "old_boto3", server, tmp_path)
    assert results["version"].startswith("1.35.")
    assert results["large_file_survives"]
    assert results["answer"] == {"greeting": "hello", "request": {"x": 1}}
    assert results["stream"]["content_type"] == "application/jsonlines"
    assert "".join(results["stream"]["chunks"]) == '{"number": 0}\n{"number": 1}\n{"number": 2}\n'
    assert len(results["stream"]["chunks"]) > 1
    assert "".join(results["broken_stream"]["chunks"][1:]) == '{"number": 0}\n{"number": 1}\n'
    assert results["broken_stream"]["code"] == "ModelStreamError"
    assert results["model_error"]["code"] == "ModelError"
    assert results["model_error"]["status"] == 400
    assert "no such luck" in results["model_error"]["message"]
    assert "the model is loaded" in results["log"]
    assert results["invocations"] == 4
