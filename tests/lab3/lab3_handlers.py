"""Lab 3's handlers for tests: imported beside those of the other labs, and called as the inference toolkit does.

Run as a script with a model folder, it prints the answers as JSON, so that another Python can be tested.
"""

import importlib.util
import inspect
import json
import sys
import types
from pathlib import Path

CODE = Path(__file__).parents[2] / "lab3-stable-diffusion" / "code"
sys.path.append(str(CODE))

# How many arguments the toolkit passes, context excepted.
_ARGUMENTS = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2}


def _load():
    """`inference.py` by a name of its own: the other labs' modules of that name may be loaded too."""
    name = "lab3_inference"
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, CODE / "inference.py")
        sys.modules[name] = module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    return sys.modules[name]


inference = _load()


def call_as_the_toolkit_does(model_dir) -> dict:
    """Answers to a plain, a streamed and a bad request, and the size of a PNG answer."""
    context = types.SimpleNamespace(system_properties={"server_name": "MMS", "gpu_id": None})
    functions = {name: getattr(inference, name) for name in _ARGUMENTS}
    for name, function in functions.items():
        # The toolkit passes the context to a function with one argument more, and refuses any other number.
        assert len(inspect.signature(function).parameters) == _ARGUMENTS[name] + 1
    model = functions["model_fn"](str(model_dir), context)

    def invoke(payload, *extra, accept="application/json"):
        data = functions["input_fn"](json.dumps(payload).encode(), "application/json", *extra)
        prediction = functions["predict_fn"](data, model, *extra)
        body = functions["output_fn"](prediction, accept, *extra)
        assert isinstance(body, str if accept == "application/json" else bytes)
        return body

    request = {"prompt": "a red circle", "seed": 3, "num_inference_steps": 4}
    answers = {
        "plain": json.loads(invoke(request)),
        "with context": json.loads(invoke(request, context)),
        "streamed": [json.loads(line) for line in invoke(request | {"stream": True}, context).splitlines()],
        "file": len(invoke(request, context, accept="image/png")),
    }
    try:
        invoke({"prompt": "a", "sed": 1}, context)
    except Exception as error:  # The toolkit turns any exception into HTTP 400 with its text.
        answers["error"] = str(error)
    model.engine.close()
    return answers


if __name__ == "__main__":
    print(json.dumps(call_as_the_toolkit_does(sys.argv[1])))
