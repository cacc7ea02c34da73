"""What is measured. Each function returns a `Table`; A and B take turns, each figure is a median over the rounds."""

import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from tests.benchmarks import load
from tests.benchmarks.endpoints import ROOT, LocalSageMaker, container_sockets
from tests.benchmarks.model import NEW_TOKENS, prompts
from tests.benchmarks.report import Table
from tests.benchmarks.serve import Server

HANDLERS = Path(__file__).with_name("handlers")
CODE = ROOT / "lab1-llm-inference" / "code"
# Requests per client and round: about equal seconds for each number of clients.
_REQUESTS = {1: 4, 8: 1, 16: 1}


def throughput(
    title: str, ours: Callable[[str], object], other: Callable[[str], object], targets: dict[int, float], rounds: int
) -> Table:
    """Tokens per second of two servers by number of clients; `targets` maps that number to the ratio wanted."""
    table = Table(title, ["clients", "tokens/s, endpoint", "tokens/s, other", "ratio", "wanted"])
    for clients, target in targets.items():
        speeds: dict[str, list[float]] = {"ours": [], "other": []}
        for turn in range(rounds):
            batch = prompts(clients * _REQUESTS[clients], seed=1000 * clients + turn)
            order = [("ours", ours), ("other", other)]
            for name, send in order if turn % 2 == 0 else reversed(order):
                speeds[name].append(NEW_TOKENS * load.requests_per_second(send, batch, clients))
        ratio = median(a / b for a, b in zip(speeds["ours"], speeds["other"], strict=True))
        table.add(
            clients, f"{median(speeds['ours']):.0f}", f"{median(speeds['other']):.0f}", f"{ratio:.2f}", f"{target}"
        )
    return table


def against_openvino(server: LocalSageMaker, weights: Path, folder: Path, rounds: int) -> Table:
    """The endpoint against OpenVINO GenAI in this process, which needs no server, in the same precision."""
    from tests.benchmarks.openvino_engine import PRECISIONS, OpenVINOEngine, convert

    table = Table(
        "Against OpenVINO GenAI's continuous batching in this process (no server, no text)",
        ["precision", "clients", "tokens/s, endpoint", "tokens/s, OpenVINO", "ratio", "wanted"],
    )
    converted = {int8: convert(weights, folder / f"openvino-{int8}", int8) for int8 in (False, True)}
    threads = int(os.environ["OMP_NUM_THREADS"])
    for precision in PRECISIONS:
        name = f"openvino-{precision}"
        server.prepare(name, weights, CODE, {"DTYPE": precision})
        server.create_endpoint(name)
        engine = OpenVINOEngine(converted[precision == "int8"], precision, threads)

        def endpoint(batch: list[str], clients: int, name=name) -> float:
            send = partial(server.generate, name, max_new_tokens=NEW_TOKENS)
            return load.requests_per_second(send, batch, clients)

        def library(batch: list[str], clients: int, engine=engine) -> float:
            start = time.perf_counter()
            for first in range(0, len(batch), clients):
                engine.generate(batch[first : first + clients])
            return len(batch) / (time.perf_counter() - start)

        for clients in (1, 8):
            speeds: list[tuple[float, float]] = []
            for turn in range(rounds + 1):
                batch = prompts(clients * _REQUESTS[clients], seed=1000 * clients + turn)
                order = (endpoint, library) if turn % 2 == 0 else (library, endpoint)
                measured = {measure: NEW_TOKENS * measure(batch, clients) for measure in order}
                speeds.append((measured[endpoint], measured[library]))
            ours, theirs = (median(column) for column in zip(*speeds[1:], strict=True))
            ratio = median(a / b for a, b in speeds[1:])
            table.add(precision, clients, f"{ours:.0f}", f"{theirs:.0f}", f"{ratio:.2f}", "0.8")
        server.sagemaker.delete_endpoint(EndpointName=name)
        del engine
    return table


def first_token(server: LocalSageMaker, name: str, naive: str, serve: Server | None, rounds: int) -> Table:
    """Milliseconds to the first token; for the naive handler, which does not stream, to the whole answer."""
    table = Table("Time to first token, median in ms", ["clients", "endpoint", "naive handler", "transformers serve"])
    for clients in (1, 8):
        seconds: list[list[float]] = [[], [], []]
        for turn in range(rounds):
            batch = prompts(max(4, clients), seed=turn)
            calls = [
                lambda prompt: server.seconds_to_first_token(name, prompt, max_new_tokens=NEW_TOKENS),
                lambda prompt: load.median_seconds(
                    lambda: server.generate(naive, prompt, max_new_tokens=NEW_TOKENS), times=1
                ),
                *([lambda prompt: serve.seconds_to_first_token(prompt, NEW_TOKENS)] if serve else []),
            ]
            for durations, call in zip(seconds, calls, strict=False):
                durations.append(load.median_result(call, batch, clients))
        table.add(clients, *(f"{1000 * median(row):.0f}" if row else "not measured" for row in seconds))
    return table


def same_tokens(server: LocalSageMaker, name: str, model_folder: Path) -> Table:
    """Whether the endpoint's greedy tokens are those of `generate`; where not, how close the two best logits are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    batch = prompts(8, seed=7)
    answers: dict[str, list[int]] = {}

    def ask(prompt: str) -> None:
        tokens = server.generate(name, prompt, max_new_tokens=NEW_TOKENS, details=True)["details"]["tokens"]
        answers[prompt] = [token["id"] for token in tokens]

    load.requests_per_second(ask, batch, clients=8)
    equal, gaps = 0, []
    for prompt in batch:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            expected = model.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0)[0]
            got = torch.cat([ids[0], torch.tensor(answers[prompt])])
            if torch.equal(got, expected):
                equal += 1
            else:
                first = int((got != expected).nonzero()[0])
                best = model(expected[None, :first]).logits[0, -1].topk(2).values
                gaps.append(float(best[0] - best[1]))
    table = Table(
        "Greedy tokens against `generate`, 8 prompts at once", ["same 64 tokens", "gap at a first difference"]
    )
    table.add(f"{equal} of {len(batch)}", ", ".join(f"{gap:.1e}" for gap in gaps) or "none (wanted: below 1e-4)")
    return table


def overhead(server: LocalSageMaker, rounds: int) -> Table:
    """What the local SageMaker adds to a call of the container itself, with a handler that only echoes."""
    before = container_sockets()
    server.prepare("echo", None, HANDLERS / "echo.py")
    server.create_endpoint("echo")
    (socket,) = container_sockets() - before
    body = b'{"inputs": "' + b"x" * 1000 + b'"}'
    url = f"{server.url}/endpoints/echo/invocations"
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    credentials = server.session.get_credentials().get_frozen_credentials()
    SigV4Auth(credentials, "sagemaker", server.session.region_name).add_auth(request)
    headers = dict(request.headers)
    results: list[list[float]] = [[], [], []]
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as container,
        httpx.Client() as front,
    ):
        json_type = {"Content-Type": "application/json"}
        calls = [
            lambda: container.post("http://container/invocations", content=body, headers=json_type).raise_for_status(),
            lambda: front.post(url, content=body, headers=headers).raise_for_status(),
            lambda: server.generate("echo", "x" * 1000),
        ]
        for call in calls:
            load.median_seconds(call, times=20)
        for _ in range(rounds):
            for durations, call in zip(results, calls, strict=True):
                durations.append(load.median_seconds(call, times=50))
    server.sagemaker.delete_endpoint(EndpointName="echo")
    direct, through, boto = (1000 * median(durations) for durations in results)
    added = 1000 * median(b - a for a, b in zip(*results[:2], strict=True))
    table = Table(
        "One small request, ms, one HTTP client with open connections",
        ["container directly", "through the endpoint", "added", "wanted", "the same by boto3"],
    )
    table.add(f"{direct:.2f}", f"{through:.2f}", f"{added:.2f}", "3 at most", f"{boto:.2f}")
    return table


def start(server: LocalSageMaker, weights: Path, what: str, rounds: int) -> Table:
    """Seconds from CreateEndpoint to InService, and what the container says that it spent them on."""
    server.prepare("start", weights, CODE)
    seconds, imports, loading = [], [], []
    for turn in range(rounds):
        name = f"start-{turn}"
        seconds.append(server.create_endpoint(name, "start"))
        line = next(line for line in server.log_lines(name) if "Imports took" in line)
        numbers = re.findall(r"(\d+\.\d+) s", line)
        imports.append(float(numbers[0]))
        loading.append(float(numbers[1]))
        server.sagemaker.delete_endpoint(EndpointName=name)
    table = Table(
        f"From CreateEndpoint to InService, seconds ({what})",
        ["in all", "of which imports of torch and transformers", "loading the model", "the rest", "wanted"],
    )
    parts = median(seconds), median(imports), median(loading)
    rest = parts[0] - parts[1] - parts[2]
    table.add(*(f"{part:.1f}" for part in (*parts, rest)), "6 at most")
    return table


def machine() -> str:
    """One line on what the figures were measured with."""
    import torch
    import transformers

    threads = torch.get_num_threads()
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{_processor()}, {threads} threads; {versions}"


def _processor() -> str:
    import platform

    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return re.search(r"model name\s*:\s*(.*)", text)[1] if "model name" in text else platform.machine()
