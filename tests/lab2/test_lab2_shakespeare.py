"""The download of Tiny Shakespeare, from a server on this machine."""

import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

LAB = Path(__file__).parents[2] / "lab2-llm-finetuning"
sys.path.insert(0, str(LAB))

import tiny_shakespeare  # noqa: E402

TEXT = "".join(f"FIRST CITIZEN:\nSpeak, speak {number}.\n\n" for number in range(50)).encode()
CHECKSUM = hashlib.sha256(TEXT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/text is the text, /error a page that is none, /short breaks off, /none is not there."""

    def do_GET(self):
        self.server.asked += 1
        body = {"/text": TEXT, "/error": b"<html>log in first</html>", "/short": TEXT[:100]}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(TEXT if self.path == "/short" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = 0
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def fetch(server, cache, path="/text"):
    return tiny_shakespeare.fetch(url=server.address + path, sha256=CHECKSUM, cache=cache)


def test_downloaded_once_and_then_from_the_cache(server, tmp_path):
    first = fetch(server, tmp_path / "cache")
    assert first.read_bytes() == TEXT
    assert fetch(server, tmp_path / "cache") == first
    assert server.asked == 1


def test_a_damaged_cache_is_downloaded_anew(server, tmp_path):
    path = fetch(server, tmp_path)
    path.write_bytes(TEXT[:50])
    assert fetch(server, tmp_path).read_bytes() == TEXT
    assert server.asked == 2 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "message"), [("/error", "not Tiny Shakespeare"), ("/none", "404"), ("/short", "Could not|broke off")]
)
def test_what_is_not_the_text_is_refused_and_not_kept(server, tmp_path, path, message):
    with pytest.raises(tiny_shakespeare.TextUnavailable, match=message):
        fetch(server, tmp_path, path)
    assert list(tmp_path.iterdir()) == []


def test_no_server_names_the_way_out(tmp_path):
    with pytest.raises(tiny_shakespeare.TextUnavailable, match="data/products"):
        tiny_shakespeare.fetch(url="http://127.0.0.1:9/text", sha256=CHECKSUM, cache=tmp_path)


def test_from_a_file(tmp_path):
    path = tmp_path / "input.txt"
    with pytest.raises(tiny_shakespeare.TextUnavailable, match="no file"):
        tiny_shakespeare.fetch(path)
    path.write_bytes(TEXT)
    assert tiny_shakespeare.fetch(path, sha256=CHECKSUM) == path
    path.write_bytes(TEXT.replace(b"\n", b"\r\n"))
    with pytest.raises(tiny_shakespeare.TextUnavailable, match="line endings"):
        tiny_shakespeare.fetch(path, sha256=CHECKSUM)


def test_the_parts_are_the_whole_and_begin_with_a_speech(tmp_path):
    source = tmp_path / "input.txt"
    source.write_bytes(TEXT)
    paths = tiny_shakespeare.write_splits(source, tmp_path / "out", 0.2)
    train, validation = paths["train"].read_bytes(), paths["validation"].read_bytes()
    assert train + validation == TEXT and validation.startswith(b"FIRST CITIZEN:")
    assert 0.2 <= len(validation) / len(TEXT) < 0.25
    for share in (0, 1, -0.5, 0.99999):
        with pytest.raises(ValueError, match="cuts"):
            tiny_shakespeare.write_splits(source, tmp_path / "out", share)


def test_the_command_line(tmp_path):
    script = LAB / "tiny_shakespeare.py"
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("To be")
    command = [sys.executable, script, "--out", tmp_path / "out", "--file", wrong]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "is not Tiny Shakespeare" in result.stderr and "Traceback" not in result.stderr
