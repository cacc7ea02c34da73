"""The one request to the Hugging Face Hub that the catalogues make, over the wire: a model's files and their sizes."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def fake_hub(models, monkeypatch, cache):
    """A Hub with these `models` (id: "siblings" (name: bytes), and more of the Hub's answer), and an empty `cache`."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.split("?")[0].removeprefix("/api/models/").split("/revision/")[0]
            if name not in models:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                return
            files = [{"rfilename": file, "size": size} for file, size in models[name].get("siblings", {}).items()]
            body = {"id": name, "modelId": name, "gated": False} | models[name] | {"siblings": files}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
