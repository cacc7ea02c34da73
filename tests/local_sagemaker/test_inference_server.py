"""The inference server: handlers' semantics, content types, streams, concurrency; each in a real process."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from hosting_harness import PATIENCE_SECONDS, wait_until

SERVER = Path(__file__).parents[2] / "shared/local_sagemaker/inference_server"


class Server:
    """The server's process over a model folder, and requests to it."""

    def __init__(self, folder: Path, script: str | None, environment: dict[str, str]) -> None:
        code = folder / "model" / "code"
        code.mkdir(parents=True, exist_ok=True)
        if script is not None:
            (code / "inference.py").write_text(script)
        self.folder = folder
        self._socket_folder = tempfile.TemporaryDirectory(prefix="s-", dir="/tmp")
        self.socket = os.path.join(self._socket_folder.name, "socket")
        self._output = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), self.socket],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "PYTHONUNBUFFERED": "1",
                "SAGEMAKER_BASE_DIR": str(folder),
                **environment,
            },
        )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("container", timeout=PATIENCE_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_SECONDS)
        try:
            connection.sock.connect(self.socket)
        except OSError:
            connection.close()
            raise
        return connection

    def answers_ping(self) -> bool:
        assert self.process.poll() is None, self.output
        with contextlib.suppress(OSError), contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        return False

    def post(
        self, body: object, content_type: str | None = "application/json", accept: str | None = "*/*"
    ) -> tuple[int, str, bytes]:
        headers = {"content-type": content_type, "accept": accept}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.closing(self.connect()) as connection:
            given = {name: text for name, text in headers.items() if text is not None}
            connection.request("POST", "/invocations", data, given)
            response = connection.getresponse()
            return response.status, response.headers["content-type"], response.read()

    def json(self, body: object) -> object:
        status, content_type, answer = self.post(body)
        assert (status, content_type) == (200, "application/json"), answer
        return json.loads(answer)

    def error(self, body: object, **options: object) -> str:
        status, content_type, answer = self.post(body, **options)
        error = json.loads(answer)
        assert (status, content_type, error["code"]) == (400, "application/json", 400)
        assert error["type"] == "InternalServerException"
        return error["message"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()
        self._socket_folder.cleanup()


@contextlib.contextmanager
def serving(folder: Path, script: str | None, **environment: str) -> Iterator[Server]:
    server = Server(folder, script, environment)
    try:
        wait_until(server.answers_ping, "/ping")
        yield server
    finally:
        server.close()


def refusing(folder: Path, script: str | None, **environment: str) -> str:
    """The output of a server that must not come up."""
    server = Server(folder, script, environment)
    try:
        assert server.process.wait(PATIENCE_SECONDS) == 1
        return server.output
    finally:
        server.close()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model_fn and a predict_fn whose behaviour the request chooses; defaults for the rest."""
    script = """
import sys, threading, time
meeting = threading.Barrier(2)

def model_fn(model_dir):
    print("loading", model_dir.rsplit("/", 1)[1])
    return {"factor": 3}

class Surprise(Exception):
    code = 418

def predict_fn(data, model):
    wish = data.get("wish") if isinstance(data, dict) else "type"
    if wish == "meet":
        meeting.wait(30)
        return "met"
    if wish == "raise":
        raise Surprise(data["text"])
    if wish == "exit":
        sys.exit(3)
    if wish == "nan":
        return float("nan")
    if wish == "plain types":
        import datetime, numpy
        return [numpy.float32(0.5), numpy.arange(3), datetime.datetime(2026, 1, 2)]
    if wish is None and "inputs" in data:
        return data
    if wish == "type":
        return [type(data).__name__, getattr(data, "shape", None)]
    if wish == "see":
        return data
    if wish == "array":
        import numpy
        return numpy.arange(6).reshape(2, 3)
    if wish == "records":
        return [{"a": 1, "b": "x,y"}, {"a": 2, "b": "z"}]
    if wish == "stream":
        return chunks(data)
    return data["x"] * model["factor"]

def chunks(data):
    try:
        for number in range(data["count"]):
            if number == data.get("break_at"):
                raise RuntimeError("broke off")
            yield {"number": number}
            time.sleep(data.get("pause", 0))
    finally:
        print("closed after all" if number + 1 == data["count"] else f"closed early at {number}.")
"""
    with serving(tmp_path_factory.mktemp("predictor"), script) as server:
        yield server


def test_defaults_around_predict_fn(predictor) -> None:
    assert predictor.json({"x": 2}) == 6
    assert "loading model" in predictor.output


def test_other_paths_are_not_found(predictor) -> None:
    with contextlib.closing(predictor.connect()) as connection:
        for method, path in (("GET", "/invocations"), ("POST", "/ping"), ("GET", "/models")):
            connection.request(method, path)
            response = connection.getresponse()
            assert response.status == 404
            assert json.loads(response.read())["code"] == 404


def test_no_accept_means_json(predictor) -> None:
    assert predictor.post({"x": 1}, accept=None)[:2] == (200, "application/json")


def test_an_exception_becomes_the_toolkit_s_error(predictor) -> None:
    assert predictor.error({"wish": "raise", "text": "über-long\nmessage"}) == "über-long\nmessage"
    assert predictor.error({}) == "'x'"
    assert predictor.error({"wish": "exit"}) == "SystemExit: 3"
    assert 'raise Surprise(data["text"])' in predictor.output, "the traceback is in the log"


def test_a_bad_body_is_an_error(predictor) -> None:
    assert "Expecting" in predictor.error(b"{no json")
    assert "utf-8" in predictor.error(b"\xff\xfe")


def test_an_unknown_content_type_is_an_error(predictor) -> None:
    message = "Content type application/xml is not supported by this framework."
    assert predictor.error(b"<x/>", content_type="application/xml").startswith(message)
    assert predictor.error({"x": 1}, accept="application/xml").startswith(message)
    assert predictor.error({"x": 1}, content_type=None).startswith("Content type None is not supported")


def test_what_json_cannot_hold(predictor) -> None:
    assert predictor.json({"wish": "plain types"}) == [0.5, [0, 1, 2], "2026-01-02 00:00:00"]
    assert "JSON compliant" in predictor.error({"wish": "nan"})


def test_csv_in_and_out(predictor) -> None:
    assert json.loads(predictor.post(b"inputs\nHello\nWorld\n", "text/csv")[2]) == {"inputs": ["Hello", "World"]}
    rows = json.loads(predictor.post(b"question,context\nWho?,Me.\n", "text/csv")[2])
    assert rows == {"inputs": [{"question": "Who?", "context": "Me."}]}
    status, content_type, body = predictor.post({"wish": "records"}, accept="text/csv")
    assert (status, content_type, body) == (200, "text/csv", b'a,b\r\n1,"x,y"\r\n2,z\r\n')
    assert "header" in predictor.error(b"1,2\n3,4\n", content_type="text/csv")
    assert "no rows" in predictor.error(b"inputs\n", content_type="text/csv")
    assert predictor.error({"wish": "see"}, accept="text/csv").startswith("Only a list of records")


def test_text_in_and_out(predictor) -> None:
    assert predictor.post("Grüße".encode(), "text/plain") == (200, "application/json", '{"inputs":"Grüße"}'.encode())
    assert predictor.post({"x": "ab"}, accept="text/plain") == (200, "text/plain", b"ababab")


def test_npy_in_and_out(predictor) -> None:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.zeros((2, 5)))
    assert json.loads(predictor.post(buffer.getvalue(), "application/x-npy")[2]) == ["ndarray", [2, 5]]
    status, content_type, body = predictor.post({"wish": "array"}, accept="application/x-npy")
    assert (status, content_type) == (200, "application/x-npy")
    assert numpy.load(io.BytesIO(body)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_pickle_in_an_npy_is_refused(predictor) -> None:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array([{"an": "object"}]), allow_pickle=True)
    assert "pickle" in predictor.error(buffer.getvalue(), content_type="application/x-npy").lower()


def test_requests_are_served_at_the_same_time(predictor) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(predictor.json, [{"wish": "meet"}] * 2)) == ["met", "met"]


def test_ping_answers_while_handlers_work(predictor) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(predictor.json, {"wish": "meet"})
        assert predictor.answers_ping()
        assert predictor.json({"wish": "meet"}) == waiting.result() == "met"


def test_a_generator_streams(predictor) -> None:
    with contextlib.closing(predictor.connect()) as connection:
        body = json.dumps({"wish": "stream", "count": 3, "pause": 0.05})
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.read1() == b'{"number":0}\n'
        assert response.read() == b'{"number":1}\n{"number":2}\n'
    wait_until(lambda: "closed after all" in predictor.output, "the generator's end")


def test_an_error_before_the_first_chunk_is_an_ordinary_error(predictor) -> None:
    assert predictor.error({"wish": "stream", "count": 3, "break_at": 0}) == "broke off"


def test_an_error_between_chunks_breaks_the_connection(predictor) -> None:
    with pytest.raises(http.client.IncompleteRead):
        predictor.post({"wish": "stream", "count": 3, "break_at": 2})
    assert "RuntimeError: broke off" in predictor.output


def test_a_client_that_leaves_closes_the_generator(predictor) -> None:
    before = predictor.output.count("closed early")
    with contextlib.closing(predictor.connect()) as connection:
        body = json.dumps({"wish": "stream", "count": 10**6, "pause": 0.01})
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        assert connection.getresponse().read1()
    wait_until(lambda: predictor.output.count("closed early") > before, "the generator's end")


def test_a_slow_client_holds_a_fast_generator_back(predictor) -> None:
    before = predictor.output.count("closed early")
    with contextlib.closing(predictor.connect()) as connection:
        body = json.dumps({"wish": "stream", "count": 10**9})
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        assert connection.getresponse().read1()
        assert predictor.json({"x": 1}) == 3
    wait_until(lambda: predictor.output.count("closed early") > before, "the generator's end")
    # What the socket's buffers hold, and no more.
    assert int(predictor.output.rsplit("closed early at ", 1)[1].split(".")[0]) < 10**6


def test_all_functions_overridden_with_context(tmp_path) -> None:
    script = """
def model_fn(model_dir, context):
    return {"dir": context.system_properties["model_dir"] == model_dir}

def input_fn(body, content_type, context=None):
    assert isinstance(body, bytes), type(body)
    return {"body": body.decode(), "type": content_type, "header": context.get_request_header(0, "X-Extra")}

def predict_fn(data, model, context):
    context.metrics.add_counter("calls", 1)
    return {**data, **model}

def output_fn(prediction, accept, context):
    context.set_response_status(201, "Created")
    context.set_response_header(0, "X-Answer", "yes")
    context.set_response_content_type(0, "text/overridden")
    return "|".join(f"{key}={value}" for key, value in prediction.items()) + "|" + accept
"""
    with serving(tmp_path, script) as server, contextlib.closing(server.connect()) as connection:
        headers = {"content-type": "application/odd", "accept": "text/odd", "x-extra": "here"}
        connection.request("POST", "/invocations", b"raw", headers)
        response = connection.getresponse()
        assert response.status == 201
        assert response.headers["x-answer"] == "yes"
        assert response.headers["content-type"] == "text/odd", "as in the toolkit, what was asked for"
        assert response.read() == b"body=raw|type=application/odd|header=here|dir=True|text/odd"


def test_transform_fn_does_everything(tmp_path) -> None:
    script = """
async def slowly(text):
    try:
        for letter in text:
            if letter == "!":
                raise ValueError("exclamation")
            yield letter
    finally:
        print("async closed")

def transform_fn(model, data, content_type, accept):
    if content_type == "application/json":
        return {"model": str(model), "data": data}
    return slowly(data.decode()), "text/letters"

def model_fn(model_dir):
    return "a model"
"""
    with serving(tmp_path, script) as server:
        assert server.json([1]) == {"model": "a model", "data": "[1]"}
        assert server.post(b"abc", "text/plain") == (200, "text/letters", b"abc")
        assert server.error(b"!", content_type="text/plain") == "exclamation"
        with pytest.raises(http.client.IncompleteRead):
            server.post(b"ab!", "text/plain")
        wait_until(lambda: server.output.count("async closed") == 3, "the generators' ends")


def test_transform_fn_excludes_the_others(tmp_path) -> None:
    script = "def transform_fn(m, d, c, a): pass\ndef predict_fn(d, m): pass\n"
    assert "ValueError: inference.py: cannot use transform_fn" in refusing(tmp_path, script)


def test_wrong_number_of_arguments(tmp_path) -> None:
    output = refusing(tmp_path, "def predict_fn(data): pass\n")
    assert "TypeError: predict_fn definition takes 2 or 3 arguments but 1 were given." in output


@pytest.mark.parametrize("script", ["import nowhere_to_be_found\n", "def model_fn(d): raise OSError('no weights')\n"])
def test_a_model_that_does_not_load_ends_the_server(tmp_path, script) -> None:
    output = refusing(tmp_path, script)
    assert "nowhere_to_be_found" in output or "OSError: no weights" in output
    assert "Traceback" in output


def test_sagemaker_program_names_another_script(tmp_path) -> None:
    script = "import helper\ndef model_fn(d): return 1\ndef predict_fn(d, m): return helper.VALUE\n"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/serve.py").write_text(script)
    (tmp_path / "elsewhere/helper.py").write_text("VALUE = 'from elsewhere'\n")
    environment = {"SAGEMAKER_PROGRAM": "serve.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(tmp_path / "elsewhere")}
    with serving(tmp_path, None, **environment) as server:
        assert server.json({}) == "from elsewhere"


def test_modules_of_the_model_may_have_names_of_the_server_s(tmp_path) -> None:
    code = tmp_path / "model/code"
    script = (
        "import handlers, context\ndef model_fn(d): return 1\ndef predict_fn(d, m): return handlers.N + context.N\n"
    )
    code.mkdir(parents=True)
    for name in ("handlers", "context", "application", "server", "content", "exchange"):
        (code / f"{name}.py").write_text("N = 20\n")
    with serving(tmp_path, script, PYTHONPATH=str(code)) as server:
        assert server.json({}) == 40


def test_without_script_and_task_the_reason_is_named(tmp_path) -> None:
    assert "Set HF_TASK" in refusing(tmp_path, None)


def test_sigterm_ends_the_server(tmp_path) -> None:
    with serving(tmp_path, "def model_fn(d): return 1\n") as server:
        server.process.terminate()
        assert server.process.wait(PATIENCE_SECONDS) in (0, -15)


def make_text_model(folder: Path) -> None:
    """A tiny random GPT-2 with a tokenizer of single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ")}
    tokenizer = Tokenizer(models.WordLevel({**letters, "<unk>": 27, "<end>": 28}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    config = GPT2Config(vocab_size=29, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=28, eos_token_id=28)
    GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.mark.parametrize("how", ["model folder", "HF_MODEL_ID"])
def test_a_model_without_script_is_served_by_a_pipeline(tmp_path, how) -> None:
    folder = tmp_path / "model" if how == "model folder" else tmp_path / "elsewhere"
    make_text_model(folder)
    environment = {} if how == "model folder" else {"HF_MODEL_ID": str(folder), "HF_TASK": "text-generation"}
    with serving(tmp_path, None, **environment) as server:
        request = {"inputs": "abc", "parameters": {"max_new_tokens": 4, "do_sample": False}}
        answer = server.json(request)
        assert list(answer[0]) == ["generated_text"]
        assert answer[0]["generated_text"].startswith("a")


def test_a_hub_model_that_cannot_be_had_is_named(tmp_path) -> None:
    environment = {"HF_MODEL_ID": "nobody/no-such-model", "HF_TASK": "text-generation", "HF_HUB_OFFLINE": "1"}
    assert "LocalEntryNotFoundError" in refusing(tmp_path, None, **environment)


def test_many_requests_on_few_connections(predictor) -> None:
    def talk(_: int) -> list[object]:
        answers = []
        with contextlib.closing(predictor.connect()) as connection:
            for number in range(20):
                connection.request("POST", "/invocations", json.dumps({"x": number}),
                                   {"content-type": "application/json"})  # fmt: skip
                answers.append(json.loads(connection.getresponse().read()))
        return answers

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(8))) == [[number * 3 for number in range(20)]] * 8


def test_threads_are_not_used_up_by_clients_that_left(predictor) -> None:
    before = predictor.output.count("closed early")
    for _ in range(80):
        with contextlib.closing(predictor.connect()) as connection:
            body = json.dumps({"wish": "stream", "count": 10**6, "pause": 0.01})
            connection.request("POST", "/invocations", body, {"content-type": "application/json"})
            assert connection.getresponse().read1()
    assert predictor.json({"x": 5}) == 15
    wait_until(lambda: predictor.output.count("closed early") == before + 80, "the generators' ends")
