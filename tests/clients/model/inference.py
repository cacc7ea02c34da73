"""What the endpoints of these tests run: it tells what it was sent, streams, fails and dies on request."""

import json
import os
import time


def model_fn(model_dir, context=None):
    print("the model is loaded", flush=True)
    return os.environ.get("GREETING", "hello")


def transform_fn(model, data, content_type, accept, context=None):
    if content_type != "application/json":
        return json.dumps({"length": len(data), "content_type": content_type, "accept": accept})
    request = json.loads(data)
    print("request", json.dumps(request), flush=True)
    if "raise" in request:
        raise ValueError(request["raise"])
    if "count" in request:
        return pieces(request), "application/jsonlines"
    return json.dumps({"greeting": model, "request": request})


def pieces(request):
    for number in range(request["count"]):
        yield json.dumps({"number": number}) + "\n"
        time.sleep(request.get("pause", 0))
    if request.get("die"):
        os._exit(1)
