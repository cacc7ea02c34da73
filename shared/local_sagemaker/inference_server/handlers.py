"""The model's functions: those of its inference script, and defaults for those that it leaves out.

Semantics of the Hugging Face inference toolkit: a function gets `context` if it takes one argument more than needed;
`transform_fn` excludes the others; whatever they raise is an error of the request. Beyond the toolkit, a function may
return a generator, or a pair (body, content type).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import content, default_model
from .context import Context

logger = logging.getLogger("sagemaker-local")

# How many arguments each function takes without `context`.
ARGUMENTS = {"model_fn": 1, "input_fn": 2, "predict_fn": 2, "output_fn": 2, "transform_fn": 4}


@dataclass(frozen=True)
class Answer:
    """What the handlers returned: `body` is bytes or an iterator of chunks."""

    body: bytes | Iterator[Any] | AsyncIterator[Any]
    content_type: str


class HandlerService:
    """A loaded model and the functions that answer requests with it; `handle` may be called from many threads."""

    def __init__(self, functions: dict[str, Callable], model: Any, system_properties: dict[str, Any]) -> None:
        self._functions = functions
        self._model = model
        self.system_properties = system_properties

    @classmethod
    def load(cls, model_folder: Path) -> HandlerService:
        """Import the inference script of `model_folder`, if any, and load the model. Raises what they raise."""
        functions = _script_functions(model_folder)
        folder = default_model.model_folder(model_folder)
        properties = {"model_dir": str(folder), "gpu_id": None, "batch_size": 1, "server_name": "sagemaker-local"}
        model_fn = functions.get("model_fn") or _with_context("model_fn", default_model.load)
        model = model_fn(str(folder), context=Context(properties))
        return cls(functions, model, properties)

    def handle(self, body: bytes, content_type: str | None, accept: str | None, context: Context) -> Answer:
        """Answer one request. Raises whatever the functions raise."""
        if not accept or accept == content.ANY:
            accept = content.JSON
        data = body.decode("utf-8") if content_type in content.DECODED_AS_TEXT else body
        transform_fn = self._functions.get("transform_fn", self._transform)
        return _answer(transform_fn(self._model, data, content_type, accept, context=context), accept)

    def _transform(self, model: Any, data: Any, content_type: str | None, accept: str, context: Context) -> Any:
        functions = self._functions
        if "input_fn" in functions:
            data = functions["input_fn"](data, content_type, context=context)
        else:
            data = default_model.decode(data, content_type)
        if "predict_fn" in functions:
            prediction = functions["predict_fn"](data, model, context=context)
        else:
            prediction = default_model.predict(data, model)
        if "output_fn" in functions:
            return functions["output_fn"](prediction, accept, context=context)
        if is_stream(prediction) or (isinstance(prediction, tuple) and prediction and is_stream(prediction[0])):
            return prediction
        return content.encode(prediction, accept)


def is_stream(value: Any) -> bool:
    """Whether a value is produced chunk by chunk: a generator or another iterator, sync or async."""
    return isinstance(value, Iterator | AsyncIterator)


def to_bytes(chunk: Any) -> bytes:
    """One chunk of a response: text as UTF-8, anything that is neither text nor bytes as a line of JSON."""
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    if isinstance(chunk, str):
        return chunk.encode("utf-8")
    return content.encode(chunk, content.JSON).encode("utf-8") + b"\n"


def _answer(result: Any, accept: str) -> Answer:
    content_type = accept
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        result, content_type = result
    if is_stream(result):
        return Answer(result, content_type)
    if not isinstance(result, str | bytes | bytearray | memoryview):
        result = content.encode(result, content.JSON)
    return Answer(to_bytes(result), content_type)


def _script_functions(model_folder: Path) -> dict[str, Callable]:
    """The handler functions of the inference script, each wrapped to be called with `context`."""
    code_folder = _code_folder(model_folder)
    sys.path.insert(0, str(code_folder))
    program = os.environ.get("SAGEMAKER_PROGRAM") or "inference.py"
    name = program.removesuffix(".py")
    if not (code_folder / f"{name}.py").is_file() and not (code_folder / name / "__init__.py").is_file():
        logger.info("No inference script at %s: the default handlers are used.", code_folder / program)
        return {}
    module = importlib.import_module(name.replace("/", "."))
    found = {function: getattr(module, function) for function in ARGUMENTS if callable(getattr(module, function, None))}
    if "transform_fn" in found and found.keys() & {"input_fn", "predict_fn", "output_fn"}:
        raise ValueError(
            f"{program}: cannot use transform_fn implementation in conjunction with input_fn, predict_fn, output_fn"
        )
    logger.info("%s: %s", program, ", ".join(found) or "defines no handler function; the default ones are used")
    return {function: _with_context(function, value) for function, value in found.items()}


def _code_folder(model_folder: Path) -> Path:
    submitted = os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "").removeprefix("file://")
    if submitted.startswith("/") and os.path.isdir(submitted):
        return Path(submitted)
    return model_folder / "code"


def _with_context(name: str, function: Callable) -> Callable:
    """`function` as a callable with keyword `context`, which it passes on only if the function takes it."""
    needed, given = ARGUMENTS[name], len(inspect.signature(function).parameters)
    if given == needed + 1:
        return lambda *arguments, context: function(*arguments, context)
    if given == needed:
        return lambda *arguments, context: function(*arguments)
    raise TypeError(f"{name} definition takes {needed} or {needed + 1} arguments but {given} were given.")
