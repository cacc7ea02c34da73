"""What the server does when it cannot write. Something in the way stands for a full disk, which tests cannot make."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from front_support import deploy, start
from starlette.requests import Request

from shared.local_sagemaker.faults import error_response, internal_failure


def test_an_endpoint_whose_log_file_and_record_cannot_be_written_runs_all_the_same(state: Path) -> None:
    server = start(state)
    (state / "logs" / "endpoints" / "silent").write_text("in the way of the folder")
    record, aside = state / "server.json", state / "aside"
    record.rename(aside)
    (record / "in the way of the file").mkdir(parents=True)
    try:
        assert deploy(server, "silent")["EndpointStatus"] == "InService"
        runtime = server.client("sagemaker-runtime")
        answer = runtime.invoke_endpoint(EndpointName="silent", ContentType="application/json", Body=b'{"stream": 500}')
        assert answer["Body"].read().count(b"\n") == 500
        sagemaker = server.client("sagemaker")
        sagemaker.delete_endpoint(EndpointName="silent")
        sagemaker.get_waiter("endpoint_deleted").wait(
            EndpointName="silent", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
    finally:
        (record / "in the way of the file").rmdir()
        record.rmdir()
        aside.rename(record)
    logs = server.client("logs")
    events = logs.filter_log_events(logGroupName="/aws/sagemaker/Endpoints/silent")["events"]
    assert "loading the model" in [event["message"] for event in events]
    complaints = [line for line in (state / "logs" / "server.log").read_text().splitlines() if "the log file" in line]
    assert len(complaints) == 1 and "endpoints/silent/" in complaints[0] and "cannot be written" in complaints[0]


def test_a_full_disk_is_named() -> None:
    fault = internal_failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert fault.status == 507
    assert "disk of the local SageMaker is full" in fault.message
    for service, content_type in (("s3", ""), ("sagemaker", "application/x-amz-json-1.1")):
        scope = {"type": "http", "method": "PUT", "headers": [(b"content-type", content_type.encode())]}
        answer = error_response(fault, service, Request(scope))
        assert answer.status_code == 507
        assert b"InsufficientStorage" in answer.body
    assert internal_failure(OSError(errno.EIO, "broken")).status == 500
