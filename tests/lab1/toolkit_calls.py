"""Call Lab 1's handlers the way the Hugging Face inference toolkit does: in its order, one request at a time.

Run as a script with a model folder, it prints the answers as JSON, so that another Python can be tested.
"""

import importlib
import inspect
import json
import sys
import types
from pathlib import Path

CODE = Path(__file__).parents[2] / "lab1-llm-inference" / "code"

# How many arguments the toolkit passes, context excepted.
_ARGUMENTS = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2}


def call_as_the_toolkit_does(model_dir) -> dict:
    """Answers to a plain, a streamed and a bad request."""
    if str(CODE) not in sys.path:
        sys.path.insert(0, str(CODE))
    module = importlib.import_module("inference")
    context = types.SimpleNamespace(system_properties={"server_name": "MMS", "gpu_id": None})
    functions = {name: getattr(module, name) for name in _ARGUMENTS}
    for name, function in functions.items():
        # The toolkit passes the context to a function with one argument more, and refuses any other number.
        assert len(inspect.signature(function).parameters) == _ARGUMENTS[name] + 1
    model = functions["model_fn"](str(model_dir), context)

    def invoke(payload, *extra):
        data = functions["input_fn"](json.dumps(payload).encode(), "application/json", *extra)
        prediction = functions["predict_fn"](data, model, *extra)
        body = functions["output_fn"](prediction, "application/json", *extra)
        assert isinstance(body, str)
        return body

    request = {"inputs": "The cat", "parameters": {"max_new_tokens": 12}}
    answers = {
        "plain": json.loads(invoke(request)),
        "with context": json.loads(invoke(request, context)),
        "streamed": [json.loads(line) for line in invoke(request | {"stream": True}, context).splitlines()],
    }
    try:
        invoke({"inputs": "The cat", "parameters": {"temprature": 1}}, context)
    except Exception as error:  # The toolkit turns any exception into HTTP 400 with its text.
        answers["error"] = str(error)
    model.engine.close()
    return answers


if __name__ == "__main__":
    print(json.dumps(call_as_the_toolkit_does(sys.argv[1])))
