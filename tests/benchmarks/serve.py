"""`transformers serve` with continuous batching, sized for this model and up to 16 clients."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

# 16 sequences of 96 tokens need 48 blocks of 32; a step reads 16 prompts of 32 tokens at once.
OPTIONS = ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]


def why_not() -> str | None:
    """Why `transformers serve` cannot run here, or None."""
    if importlib.util.find_spec("openai") is None:
        return "`transformers serve` needs the package openai: pip install openai"
    return None


class Server:
    """A running `transformers serve`."""

    def __init__(self, port: int, model: Path):
        self.url = f"http://127.0.0.1:{port}"
        self._model = str(model)
        self._client = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=64))

    def body(self, prompt: str, new_tokens: int, stream: bool = False) -> dict:
        """A chat request whose only message is the prompt."""
        messages = [{"role": "user", "content": prompt}]
        return {
            "model": self._model,
            "messages": messages,
            "max_tokens": new_tokens,
            "temperature": 0,
            "stream": stream,
        }

    def generate(self, prompt: str, new_tokens: int) -> str:
        """The text of one answer; raises if it has another number of tokens than asked for."""
        answer = self._client.post(f"{self.url}/v1/chat/completions", json=self.body(prompt, new_tokens))
        answer.raise_for_status()
        answer = answer.json()
        if answer["usage"]["completion_tokens"] != new_tokens:
            raise RuntimeError(f"transformers serve answered with {answer['usage']}")
        return answer["choices"][0]["message"]["content"]

    def seconds_to_first_token(self, prompt: str, new_tokens: int) -> float:
        """Seconds until the first piece of text of a streamed answer, which is read to its end."""
        start, seconds = time.perf_counter(), None
        body = self.body(prompt, new_tokens, stream=True)
        with self._client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if seconds is None and line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        seconds = time.perf_counter() - start
        if seconds is None:
            raise RuntimeError("transformers serve streamed no text")
        return seconds


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[Server]:
    """Start `transformers serve` on a free port; its process is gone at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), *OPTIONS]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
    try:
        server = Server(port, model)
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-2000:]}")
            try:
                httpx.get(f"{server.url}/health", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
