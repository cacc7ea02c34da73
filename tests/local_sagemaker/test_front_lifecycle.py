"""The command line: start, status, env, stop, and what remains when the server dies."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from front_support import ROOT, command, deploy, start


def test_start_is_idempotent_and_detached(state: Path) -> None:
    first = start(state)
    record = first.record()
    second = start(state)
    assert second.values == first.values
    assert second.record() == record
    assert os.getsid(record["pid"]) == record["pid"]
    assert first.client("s3").list_buckets()["Buckets"][0]["Name"] == "sagemaker-us-east-1-123456789012"


def test_an_interrupted_start_leaves_no_server(state: Path) -> None:
    arguments = [sys.executable, "-m", "shared.local_sagemaker", "start", "--state", str(state)]
    for _ in range(20):
        process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while not (children := psutil.Process(process.pid).children()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
        if process.returncode != 0:
            break
        command("stop", state=state)  # on a busy machine the start can be quicker than the signal: once more
    assert message == "local SageMaker: interrupted\n"
    assert process.returncode == 130
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert command("start", state=state).stderr == ""


def test_two_starts_at_once_give_one_server(state: Path) -> None:
    arguments = [sys.executable, "-m", "shared.local_sagemaker", "start", "--state", str(state)]
    starts = [subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in starts}
    assert len(outputs) == 1
    assert [process.returncode for process in starts] == [0, 0, 0]


def test_env_prints_what_a_shell_reads(state: Path) -> None:
    server = start(state, AWS_REGION="eu-central-1")
    lines = command("env", state=state).stdout
    script = f"{lines}\n{shlex.quote(sys.executable)} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    seen = json.loads(subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert server.values.items() <= seen.items()
    assert server.values["AWS_REGION"] == "eu-central-1"
    assert "DefaultS3Bucket: sagemaker-eu-central-1-123456789012" in (state / "sagemaker-sdk.yaml").read_text()


def test_env_leads_clients_here_whatever_the_shell_is_set_up_for(state: Path) -> None:
    elsewhere = {
        "AWS_PROFILE": "work",
        "AWS_SESSION_TOKEN": "a token of the work account",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "intranet.example",
    }
    server = start(state, **elsewhere)
    lines = command("env", state=state, **elsewhere).stdout
    program = (
        "import boto3, os; print(boto3.client('sts').get_caller_identity()['Account'], "
        "len(boto3.client('s3').list_buckets()['Buckets']), len(boto3.client('sagemaker').list_models()['Models'])); "
        "print(os.environ['NO_PROXY'], os.environ['no_proxy']); "
        "print(boto3.client('s3').generate_presigned_url('get_object', {'Bucket': 'b', 'Key': 'k'}))"
    )
    seen = subprocess.run(
        ["sh", "-c", f'{lines}\n{shlex.quote(sys.executable)} -c "{program}"'],
        env=os.environ | elsewhere,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert seen[:2] == ["123456789012 1 0", "intranet.example,127.0.0.1 intranet.example,127.0.0.1"]
    assert seen[2].startswith(f"{server.values['AWS_ENDPOINT_URL']}/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&")


def test_env_and_status_say_that_no_server_runs(state: Path) -> None:
    for arguments in (("env", "--json"), ("env",), ("status",)):
        result = command(*arguments, state=state, check=False)
        assert result.returncode == 1
        assert str(state) in result.stdout + result.stderr
    assert not state.exists()


def test_the_folder_and_its_secrets_are_private(state: Path) -> None:
    server = start(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("credentials", "config", "server.json", "sagemaker-sdk.yaml"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600, name
    secret = server.values["AWS_SECRET_ACCESS_KEY"]
    assert secret not in (state / "logs" / "server.log").read_text()
    assert secret not in command("start", state=state).stdout


def test_stop_ends_everything_and_a_new_start_keeps_port_and_keys(state: Path) -> None:
    first = start(state)
    deploy(first, "left-running")
    server = psutil.Process(first.record()["pid"])
    processes = [server, *server.children(recursive=True)]
    assert len(processes) > 1
    assert "endpoint left-running: InService" in command("status", state=state).stdout
    command("stop", state=state)
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]
    assert "not running" in command("stop", state=state).stderr
    assert "stopped" in (state / "logs" / "server.log").read_text()
    second = start(state)
    assert second.values == first.values
    assert second.client("sagemaker").list_models()["Models"] == []


def test_after_a_kill_the_next_start_tells_what_was_running(state: Path) -> None:
    first = start(state)
    deploy(first, "was-there")
    pid = first.record()["pid"]
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert command("status", state=state, check=False).returncode == 1
    told = command("start", state=state)
    logs = state / "logs" / "endpoints" / "was-there"
    assert f"endpoint was-there was running; its logs: {logs}" in told.stderr
    assert "loading the model" in next(logs.rglob("*.log")).read_text()
    assert not (state / "endpoints").exists()
    assert "was-there" not in command("start", state=state).stderr


def test_a_port_in_use_is_named(state: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command("start", "--port", str(port), state=state, check=False)
    assert result.returncode == 1
    assert f"Port {port} cannot be used" in result.stderr
    assert "--port" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_remembered_port_in_use_is_replaced(state: Path) -> None:
    port = start(state).port
    command("stop", state=state)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert start(state).port != port


def test_a_running_server_does_not_change_its_port(state: Path) -> None:
    port = start(state).port
    result = command("start", "--port", str(port % 65535 + 1), state=state, check=False)
    assert result.returncode == 1
    assert f"already runs on port {port}" in result.stderr
    assert command("start", "--port", str(port), state=state).returncode == 0


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused(state: Path, port: str) -> None:
    result = command("start", f"--port={port}", state=state, check=False)
    assert result.returncode == 2
    assert "is not a port number" in result.stderr


def test_it_stops_by_itself_when_idle(state: Path) -> None:
    pid = start(state, SAGEMAKER_LOCAL_IDLE_MINUTES="0.02").record()["pid"]
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=20)
    assert command("env", state=state, check=False).returncode == 1
    assert "SAGEMAKER_LOCAL_IDLE_MINUTES" in (state / "logs" / "server.log").read_text()
    assert "ended without being stopped" not in command("start", state=state).stderr


@pytest.mark.parametrize(
    ("setting", "what"), [("IDLE_MINUTES", "minutes"), ("STOP_SECONDS", "seconds"), ("PARALLEL_JOBS", "jobs")]
)
def test_why_the_server_did_not_start_is_told(state: Path, setting: str, what: str) -> None:
    result = command("start", state=state, check=False, **{f"SAGEMAKER_LOCAL_{setting}": "soon"})
    assert result.returncode == 1
    assert f"must be a positive number of {what}, not 'soon'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = command("start", state=tmp_path / "file" / "state", check=False)
    assert result.returncode == 1
    assert "cannot be used" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    tmp_path.chmod(0o755)
    result = command("start", state=tmp_path, check=False)
    assert result.returncode == 1
    assert "holds other files" in result.stderr
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_foreground_serves_until_interrupted(state: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "shared.local_sagemaker", "start", "--foreground", "--state", str(state)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while command("env", state=state, check=False).returncode and time.monotonic() < deadline:
        time.sleep(0.1)
    assert start(state).record()["pid"] == process.pid
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "serving at" in errors and "Traceback" not in errors
    assert command("env", state=state, check=False).returncode == 1


def test_another_program_on_the_port_is_not_taken_for_the_server(state: Path) -> None:
    server = start(state)
    record = server.record()
    record["id"] = "0" * 32
    (state / "server.json").write_text(json.dumps(record))
    result = command("status", state=state, check=False)
    assert result.returncode == 1
    assert "another program answers" in result.stderr
