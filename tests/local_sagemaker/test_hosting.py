"""Deployments: real containers behind an endpoint, and what happens when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hosting_harness import PATIENCE_SECONDS, Endpoint, processes_of, wait_until, write_archive

from shared.local_sagemaker import container_client, containers
from shared.local_sagemaker.hosting import (
    ContainerUnavailable,
    InvocationTimeout,
    StreamBroken,
    UnknownVariant,
    VariantPlan,
)
from shared.local_sagemaker.isolation import NONE

CHECKOUT = Path(__file__).parents[2]
PING_FAILED = (
    "The primary container for production variant AllTraffic did not pass the ping health check. "
    "Please check CloudWatch logs for this endpoint."
)
SCRIPT = """
import os, threading, time
meeting = threading.Barrier(2)

def model_fn(model_dir):
    print("model_fn in", model_dir)
    return os.path.basename(model_dir)

def predict_fn(data, model, context):
    wish = data.get("wish")
    if wish == "die":
        os._exit(9)
    if wish == "meet":
        meeting.wait(30)
        return "met"
    if wish == "sleep":
        time.sleep(600)
    if wish == "stream":
        return chunks(data)
    if wish == "environment":
        return dict(os.environ)
    if wish == "headers":
        return context.get_all_request_header(0)
    if wish == "literal":
        return sorted(os.listdir("/opt/ml/model"))
    if wish == "large":
        return "x" * data["size"]
    if wish == "name":
        return os.environ["NAME"]
    if wish == "print":
        print("asked")
        return None
    return data["x"] * 2

def chunks(data):
    try:
        for number in range(data["count"]):
            yield {"number": number}
            if number == data.get("die_at"):
                os._exit(9)
            time.sleep(data.get("pause", 0))
    finally:
        print("generator closed")
"""
FILES = {"code/inference.py": SCRIPT, "weights.bin": b"weights"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory):
    with Endpoint(tmp_path_factory.mktemp("state"), FILES, environment={"GREETING": "hello"}) as endpoint:
        endpoint.wait_for("InService")
        yield endpoint


def plan(name: str, weight: float, **environment: str) -> VariantPlan:
    return VariantPlan(name, weight, 1, "image", {"NAME": name, **environment}, "s3://bucket/key")


def test_an_invocation(endpoint) -> None:
    invocation, body = endpoint.run(endpoint.send({"x": 21}))
    assert (invocation.status, invocation.content_type, body) == (200, "application/json", b"42")
    assert invocation.variant == "AllTraffic"
    assert invocation.model_latency_us > 0


def test_output_goes_to_the_instance_s_log_stream(endpoint) -> None:
    assert len(endpoint.streams) == 1
    assert re.fullmatch(r"AllTraffic/i-[0-9a-f]{17}", *endpoint.streams)
    assert any(line.startswith("model_fn in ") for line in endpoint.lines)


def test_a_handler_s_error_is_an_answer(endpoint) -> None:
    invocation, body = endpoint.run(endpoint.send({}))
    assert invocation.status == 400
    assert json.loads(body) == {"code": 400, "type": "InternalServerException", "message": "'x'"}
    wait_until(lambda: "KeyError: 'x'" in endpoint.text, "the traceback in the log")


def test_the_environment_is_a_container_s(endpoint, monkeypatch) -> None:
    environment = json.loads(endpoint.run(endpoint.send({"wish": "environment"}))[1])
    assert environment["GREETING"] == "hello"
    assert environment["AWS_REGION"] == environment["SAGEMAKER_REGION"] == "us-east-1"
    assert environment["SAGEMAKER_PROGRAM"] == "inference.py"
    assert environment["SM_MODEL_DIR"].endswith("/model")
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"


def test_the_server_s_secrets_stay_with_the_server(tmp_path, monkeypatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HF_TOKEN", "MY_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HOME", "/a/cache")
    with Endpoint(tmp_path, FILES) as endpoint:
        endpoint.wait_for("InService")
        environment = json.loads(endpoint.run(endpoint.send({"wish": "environment"}))[1])
    assert "secret" not in environment.values()
    assert environment["HF_HOME"] == "/a/cache"


def test_headers_reach_the_container(endpoint) -> None:
    attributes = {"X_Amzn_SageMaker_Custom_Attributes": "a=1", "X_Amzn_SageMaker_Inference_Id": "id-7"}
    headers = json.loads(endpoint.run(endpoint.send({"wish": "headers"}, **attributes))[1])
    assert headers["x-amzn-sagemaker-custom-attributes"] == "a=1"
    assert headers["x-amzn-sagemaker-inference-id"] == "id-7"
    assert headers["accept"] == "application/json"


def test_literal_opt_ml_paths_work(endpoint) -> None:
    assert json.loads(endpoint.run(endpoint.send({"wish": "literal"}))[1]) == ["code", "weights.bin"]


def test_literal_opt_ml_paths_work_without_namespaces(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(containers, "available_isolation", lambda: NONE)
    with Endpoint(tmp_path, FILES) as endpoint:
        endpoint.wait_for("InService")
        assert json.loads(endpoint.run(endpoint.send({"wish": "literal"}))[1]) == ["code", "weights.bin"]
        assert f"model_fn in {tmp_path}" in endpoint.text


def test_large_bodies_both_ways(endpoint) -> None:
    request = {"wish": "large", "size": 5_000_000, "padding": "y" * 5_000_000}
    assert len(endpoint.run(endpoint.send(request))[1]) == 5_000_002


def test_two_requests_meet_in_the_container(endpoint) -> None:
    async def both() -> list[bytes]:
        return [body for _, body in await asyncio.gather(*[endpoint.send({"wish": "meet"}) for _ in range(2)])]

    assert endpoint.run(both()) == [b'"met"', b'"met"']


def test_a_stream_comes_chunk_by_chunk(endpoint) -> None:
    async def read() -> list[bytes]:
        invocation = await endpoint.stream({"wish": "stream", "count": 3, "pause": 0.2})
        assert invocation.model_latency_us is None
        chunks = [chunk async for chunk in invocation.body]
        assert invocation.model_latency_us > 0
        return chunks

    assert endpoint.run(read()) == [b'{"number":0}\n', b'{"number":1}\n', b'{"number":2}\n']


def test_a_stream_may_be_read_as_a_whole(endpoint) -> None:
    invocation, body = endpoint.run(endpoint.send({"wish": "stream", "count": 2}))
    assert (invocation.status, body) == (200, b'{"number":0}\n{"number":1}\n')


def test_an_error_on_a_streaming_call_is_an_answer(endpoint) -> None:
    async def read() -> tuple[int, bytes]:
        invocation = await endpoint.stream({})
        return invocation.status, b"".join([chunk async for chunk in invocation.body])

    status, body = endpoint.run(read())
    assert (status, json.loads(body)["message"]) == (400, "'x'")


def test_closing_a_stream_early_closes_the_generator(endpoint) -> None:
    before = endpoint.text.count("generator closed")

    async def read() -> None:
        invocation = await endpoint.stream({"wish": "stream", "count": 10**6, "pause": 0.01})
        async for _ in invocation.body:
            break
        await invocation.body.aclose()
        assert invocation.model_latency_us > 0

    endpoint.run(read())
    wait_until(lambda: endpoint.text.count("generator closed") > before, "the generator's end")


def test_an_unknown_variant(endpoint) -> None:
    with pytest.raises(UnknownVariant):
        endpoint.run(endpoint.send({"x": 1}, variant="Other"))


def test_an_answer_that_takes_too_long(endpoint, monkeypatch) -> None:
    monkeypatch.setattr(container_client, "INVOCATION_SECONDS", 0.3)
    with pytest.raises(InvocationTimeout) as caught:
        endpoint.run(endpoint.send({"wish": "sleep"}))
    assert caught.value.variant == "AllTraffic"


def test_a_stream_that_takes_too_long(endpoint, monkeypatch) -> None:
    monkeypatch.setattr(container_client, "STREAM_SECONDS", 0.5)

    async def read() -> int:
        invocation = await endpoint.stream({"wish": "stream", "count": 10**6, "pause": 0.05})
        count = 0
        with pytest.raises(InvocationTimeout):
            async for _ in invocation.body:
                count += 1
        return count

    assert endpoint.run(read()) > 0


def test_a_container_that_dies_is_started_again(tmp_path) -> None:
    with Endpoint(tmp_path, FILES) as endpoint:
        endpoint.wait_for("InService")

        async def kill_and_use() -> bytes:
            with pytest.raises(ContainerUnavailable):
                await endpoint.send({"wish": "die"})
            while True:
                with contextlib.suppress(ContainerUnavailable):
                    return (await endpoint.send({"x": 3}))[1]
                await asyncio.sleep(0.02)

        assert endpoint.run(asyncio.wait_for(kill_and_use(), PATIENCE_SECONDS)) == b"6"
        assert "The container ended with exit status 9." in endpoint.text
        assert endpoint.statuses == [("InService", None)]


def test_a_container_that_dies_in_a_stream_breaks_it(tmp_path) -> None:
    with Endpoint(tmp_path, FILES) as endpoint:
        endpoint.wait_for("InService")

        async def read() -> list[bytes]:
            chunks = []
            invocation = await endpoint.stream({"wish": "stream", "count": 10, "pause": 0.1, "die_at": 2})
            with pytest.raises(StreamBroken) as caught:
                async for chunk in invocation.body:
                    chunks.append(chunk)
            assert isinstance(caught.value, ConnectionError)
            return chunks

        assert b"".join(endpoint.run(read())).startswith(b'{"number":0}\n{"number":1}\n')


def test_a_container_that_keeps_dying_fails_the_endpoint(tmp_path) -> None:
    script = (
        "import os, threading\n"
        "def model_fn(d):\n"
        "    threading.Timer(0.5, lambda: (print('LastError: out of luck', flush=True), os._exit(5))).start()\n"
    )
    with Endpoint(tmp_path, {"code/inference.py": script}) as endpoint:
        endpoint.wait_for("InService")
        reason = endpoint.wait_for("Failed")
        assert "ended 4 times, the last time with exit status 5" in reason
        assert reason.endswith("LastError: out of luck")
        with pytest.raises(ContainerUnavailable):
            endpoint.run(endpoint.send({"x": 1}))


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("def model_fn(d): raise OSError('weights are missing')\n", "OSError: weights are missing"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os\nprint('last words')\nos._exit(3)\n", "last words"),
    ],
)
def test_a_model_that_does_not_load_fails_the_endpoint(tmp_path, script, cause) -> None:
    with Endpoint(tmp_path, {"code/inference.py": script}) as endpoint:
        reason = endpoint.wait_for("Failed")
        assert reason.startswith(PING_FAILED)
        assert reason.endswith(cause)
        assert endpoint.statuses == [("Failed", reason)]
        assert cause in endpoint.text
        with pytest.raises(ContainerUnavailable):
            endpoint.run(endpoint.send({"x": 1}))


def test_a_container_that_never_answers_ping_fails_the_endpoint(tmp_path) -> None:
    marker = uuid.uuid4().hex
    script = "import time\ndef model_fn(d): time.sleep(600)\n"
    with Endpoint(tmp_path, {"code/inference.py": script}, environment={"M": marker}, startup_timeout=1.0) as endpoint:
        assert endpoint.wait_for("Failed") == f"{PING_FAILED} No answer to /ping within 1 seconds."
        assert processes_of(marker) == []


def test_model_data_that_does_not_exist_fails_the_endpoint(tmp_path) -> None:
    def fetch(url: str, path: Path) -> None:
        raise FileNotFoundError(url)

    with Endpoint(tmp_path, fetch=fetch) as endpoint:
        assert endpoint.wait_for("Failed") == (
            'Failed to download model data for container "container_1" from URL: "s3://bucket/model.tar.gz". Please '
            "ensure that there is an object located at the URL and that the role passed to CreateModel has permissions "
            "to download the object."
        )


def test_a_download_that_takes_too_long_fails_the_endpoint(tmp_path) -> None:
    release = threading.Event()
    with Endpoint(tmp_path, fetch=lambda url, path: release.wait(PATIENCE_SECONDS), download_timeout=0.2) as endpoint:
        assert "within 0 seconds" in endpoint.wait_for("Failed")
        release.set()


@pytest.mark.parametrize("content", [b"no archive", "../escaped"])
def test_a_bad_archive_fails_the_endpoint(tmp_path, content) -> None:
    def fetch(url: str, path: Path) -> None:
        path.write_bytes(content) if isinstance(content, bytes) else write_archive(path, {content: "x"})

    with Endpoint(tmp_path, fetch=fetch) as endpoint:
        reason = endpoint.wait_for("Failed")
        assert reason.startswith(
            'Failed to extract model data archive for container "container_1" from URL "s3://bucket/model.tar.gz". '
            "Please ensure that the object located at the URL is a valid tar.gz archive."
        )
        assert ("leads out of" in reason) == isinstance(content, str)
        assert not list(tmp_path.rglob("escaped"))


def test_a_model_without_data_needs_none(tmp_path) -> None:
    variant = VariantPlan("AllTraffic", 1.0, 1, "image", {}, None)
    with Endpoint(tmp_path, variants=[variant]) as endpoint:
        assert "Set HF_TASK" in endpoint.wait_for("Failed")


def test_variants_share_the_traffic_by_weight(tmp_path) -> None:
    variants = [plan("Blue", 1.0), plan("Green", 3.0), plan("Dark", 0.0)]
    with Endpoint(tmp_path, FILES, variants=variants) as endpoint:
        endpoint.wait_for("InService")

        async def ask(count: int, variant: str | None = None) -> Counter:
            answers = Counter()
            for _ in range(count):
                invocation, body = await endpoint.send({"wish": "name"}, variant=variant)
                assert json.loads(body) == invocation.variant
                answers[invocation.variant] += 1
            return answers

        answers = endpoint.run(ask(200))
        assert answers.keys() == {"Blue", "Green"}
        assert answers["Green"] > answers["Blue"]
        assert endpoint.run(ask(3, "Dark")) == {"Dark": 3}
        assert {stream.split("/")[0] for stream in endpoint.streams} == {"Blue", "Green", "Dark"}


def test_one_bad_variant_fails_the_endpoint_and_ends_the_others(tmp_path) -> None:
    marker = uuid.uuid4().hex
    variants = [plan("Good", 1.0, MARKER=marker), plan("Bad", 1.0, SAGEMAKER_PROGRAM="bad.py")]
    files = {**FILES, "code/bad.py": "raise SystemError('bad')\n"}
    with Endpoint(tmp_path, files, variants=variants) as endpoint:
        assert "production variant Bad did not pass" in endpoint.wait_for("Failed")
        wait_until(lambda: not processes_of(marker), "the end of the other variant")


def test_instances_take_turns(tmp_path) -> None:
    with Endpoint(tmp_path, FILES, instance_count=5) as endpoint:
        endpoint.wait_for("InService")

        async def ask() -> None:
            for _ in range(6):
                await endpoint.send({"wish": "print"})

        endpoint.run(ask())
        wait_until(lambda: endpoint.lines.count("asked") == 6, "the handlers' output")
        asked = Counter(stream for stream, line in endpoint.entries if line == "asked")
        assert sorted(asked.values()) == [3, 3]
        assert "5 instances are wanted; this machine runs 2 containers." in endpoint.text


def test_stop_leaves_nothing_and_may_be_repeated(tmp_path, monkeypatch) -> None:
    marker = uuid.uuid4().hex
    script = "import subprocess\ndef model_fn(d): subprocess.Popen(['setsid', 'sleep', '600'])\n"
    sockets, make = [], tempfile.mkdtemp  # those of this process: other servers' lie beside them

    def remembered(*args, **options) -> str:
        sockets.append(Path(make(*args, **options)))
        return str(sockets[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", remembered)
    with Endpoint(tmp_path, {"code/inference.py": script}, environment={"MARKER": marker}) as endpoint:
        endpoint.wait_for("InService")
        assert any(folder.name.startswith("sagemaker-") and folder.exists() for folder in sockets)
        assert len(processes_of(marker)) >= 3
        threads = [threading.Thread(target=endpoint.deployment.stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert processes_of(marker) == []
        assert not list(tmp_path.rglob("*/*"))
        assert not any(folder.exists() for folder in sockets)
    assert endpoint.statuses == [("InService", None)]


@pytest.mark.parametrize("phase", ["download", "load"])
def test_stop_in_the_middle_of_a_start(tmp_path, phase) -> None:
    marker = uuid.uuid4().hex
    reached, release = threading.Event(), threading.Event()

    def fetch(url: str, path: Path) -> None:
        if phase == "download":
            reached.set()
            release.wait(PATIENCE_SECONDS)
        write_archive(path, {"code/inference.py": "import time\nprint('loading')\ntime.sleep(600)\n"})

    with Endpoint(tmp_path, fetch=fetch, environment={"MARKER": marker}) as endpoint:
        if phase == "load":
            wait_until(lambda: "loading" in endpoint.lines, "the model's loading")
        else:
            reached.wait(PATIENCE_SECONDS)
        endpoint.deployment.stop()
        release.set()
        assert processes_of(marker) == []
    assert endpoint.statuses == []


def test_a_killed_server_leaves_no_process_and_no_folder(tmp_path) -> None:
    marker = uuid.uuid4().hex
    write_archive(tmp_path / "model.tar.gz", {"code/inference.py": "import subprocess\ndef model_fn(d):\n"
                  "    subprocess.Popen('setsid sleep 600 & setsid sleep 600', shell=True)\n"})  # fmt: skip
    program = f"""
import shutil, sys, threading
from pathlib import Path
from shared.local_sagemaker.hosting import Deployment, VariantPlan
archive, state = Path({str(tmp_path / "model.tar.gz")!r}), Path({str(tmp_path / "state")!r})
deployment = Deployment(
    "endpoint", [VariantPlan("AllTraffic", 1.0, 1, "image", {{"MARKER": {marker!r}}}, "s3://b/k")],
    region="us-east-1", account="123456789012", state=state, fetch=lambda url, path: shutil.copy(archive, path),
    log=lambda stream, line: None, on_status=lambda status, reason: print(status, flush=True))
deployment.start()
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=CHECKOUT) as server:
        assert server.stdout.readline() == b"InService\n"
        assert len(processes_of(marker)) >= 4
        os.kill(server.pid, signal.SIGKILL)
        server.wait(PATIENCE_SECONDS)
    wait_until(lambda: not processes_of(marker), "the end of all processes")
    wait_until(lambda: not list((tmp_path / "state/endpoints/endpoint").iterdir()), "the removal of working folders")


def wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> str:
    """A wheel of one module whose VERSION is its version; returns its bytes' path."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path.name


def test_missing_requirements_go_into_an_overlay(tmp_path) -> None:
    name = f"tiny_{uuid.uuid4().hex[:8]}"
    # The package needs numpy, which is installed here, and one that is not.
    wheels = [wheel(tmp_path, f"{name}_base", "2.0"), wheel(tmp_path, name, "1.5", ("numpy", f"{name}_base>=2"))]
    script = (
        f"import numpy, {name}, {name}_base\n"
        "def model_fn(d): return 1\n"
        f"def predict_fn(d, m): return [{name}.VERSION, {name}_base.VERSION, numpy.__file__, {name}.__file__]\n"
    )
    files = {"code/inference.py": script, **{f"code/wheels/{file}": (tmp_path / file).read_bytes() for file in wheels}}
    files["code/requirements.txt"] = f"--no-index\n--find-links wheels\n{name}==1.5  # tiny\n"
    with Endpoint(tmp_path / "state", files) as endpoint:
        endpoint.wait_for("InService")
        version, base, numpy_file, file = json.loads(endpoint.run(endpoint.send({}))[1])
        assert (version, base) == ("1.5", "2.0")
        assert str(tmp_path) in file
        import numpy

        assert numpy_file == numpy.__file__, "what is installed already is not installed again"
        assert f"for want of: {name}==1.5" in endpoint.text
        assert f"Successfully installed {name}-1.5" in endpoint.text
    assert subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode != 0


def test_satisfied_requirements_install_nothing(tmp_path) -> None:
    requirements = "# comment\nnumpy>=1.0 ; python_version >= '3.8'\nno-such-package ; python_version < '3'\n"
    with Endpoint(tmp_path, {**FILES, "code/requirements.txt": requirements}) as endpoint:
        endpoint.wait_for("InService")
        assert "All packages of code/requirements.txt are installed already." in endpoint.lines


def test_requirements_that_cannot_be_installed_fail_the_endpoint(tmp_path) -> None:
    files = {**FILES, "code/requirements.txt": "--no-index\nno-such-package==9.9\n"}
    with Endpoint(tmp_path, files) as endpoint:
        reason = endpoint.wait_for("Failed")
        assert reason.startswith(PING_FAILED)
        assert "requirements.txt could not be installed" in reason
        assert reason.endswith("ERROR: No matching distribution found for no-such-package==9.9")


def test_a_state_folder_of_a_long_path(tmp_path) -> None:
    with Endpoint(tmp_path / ("long" * 50) / "path", FILES) as endpoint:
        endpoint.wait_for("InService")
        assert endpoint.run(endpoint.send({"x": 1}))[1] == b"2"
