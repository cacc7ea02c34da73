"""The request that a client sends, checked field by field before the model sees it.

The schema is the LMI container's (`inputs`, `parameters`, `stream`), so that a notebook sends the same request to this
handler and to an LMI endpoint:
https://docs.djl.ai/docs/serving/serving/docs/lmi/user_guides/lmi_input_output_schema.html
Every error is a ValueError, which the inference toolkit answers as HTTP 400 with the message.
"""

import difflib
import json
import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. Every bound has an environment variable of the same name in capitals."""

    max_total_tokens: int = 4096
    max_client_batch_size: int = 32
    max_stop_sequences: int = 16
    max_stop_length: int = 100
    max_top_tokens_total: int = 200_000


@dataclass(frozen=True)
class GenerationParameters:
    """How to continue a prompt.

    Attributes:
        max_new_tokens: tokens to generate at most; None means 30, or fewer where the context ends before.
        do_sample: draw tokens at random instead of taking the most probable one. When a request leaves it out, it is
            true if temperature, top_k or top_p is given.
        temperature: 0 means greedy.
        top_k: 0 means all tokens.
        top_p: 1 means all tokens.
        repetition_penalty, presence_penalty, frequency_penalty: see `TokenSampler.penalize`.
        stop: strings that end the text; the text does not contain them.
        return_full_text: put the prompt before the generated text.
        seed: makes sampling reproducible; the prompt at position i of a list uses seed + i.
        details: also return finish reason, token ids and log probabilities.
        top_n_tokens: also return the most probable tokens at each position (implies details).
    """

    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    return_full_text: bool = False
    seed: int | None = None
    details: bool = False
    top_n_tokens: int = 0


@dataclass(frozen=True)
class GenerationRequest:
    """A checked request: one or more prompts, `is_list` if they came as a list.

    `adapters` names the adapter of each prompt, None for the model as it is; it is empty where no prompt has one.
    """

    prompts: tuple[str, ...]
    is_list: bool
    parameters: GenerationParameters
    stream: bool
    adapters: tuple[str | None, ...] = ()


DEFAULT_NEW_TOKENS = 30
_PARAMETERS = tuple(field.name for field in fields(GenerationParameters))
_SYNONYMS = {"stop_sequences": "stop"}
_NUMBERS = {
    # name: (smallest, largest, smallest is allowed, why)
    "temperature": (0.0, 100.0, True, "0 is greedy, 1 the model's own distribution"),
    "top_p": (0.0, 1.0, False, "1 keeps all tokens"),
    "repetition_penalty": (0.0, 100.0, False, "1 means no penalty"),
    "presence_penalty": (-2.0, 2.0, True, "0 means no penalty"),
    "frequency_penalty": (-2.0, 2.0, True, "0 means no penalty"),
}
_INTEGERS = {
    "max_new_tokens": (1, 2**31, "the number of tokens to generate"),
    "top_k": (0, 2**31, "0 keeps all tokens"),
    "seed": (0, 2**63 - 1, "the start of the random numbers"),
    "top_n_tokens": (0, 2**31, "0 returns none"),
}
_BOOLEANS = ("do_sample", "return_full_text", "details")


def parse_body(body: Any) -> Any:
    """JSON value of a request body given as bytes, str, or already decoded.

    Raises:
        ValueError: the body is not JSON in UTF-8.
    """
    if not isinstance(body, (bytes, bytearray, str)):
        return body
    if not body.strip():
        raise ValueError('The request body is empty; send JSON such as {"inputs": "Once upon a time"}.')
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"The request body is not UTF-8 text ({error}); send JSON in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise ValueError("The request body is nested too deeply.") from error


def parse_request(payload: Any, limits: Limits, known_adapters: tuple[str, ...] = ()) -> GenerationRequest:
    """Check a decoded request body; `known_adapters` are the names that it may ask for.

    Raises:
        ValueError: names the field, what is wrong with it and what is accepted.
    """
    if not isinstance(payload, dict):
        raise ValueError(f'The request body must be a JSON object with "inputs", not {_kind(payload)}.')
    _refuse_unknown(payload, ("inputs", "parameters", "stream", "adapters", "adapter"), "field")
    if "inputs" not in payload:
        raise ValueError('The field "inputs" is missing; it holds the prompt, or a list of prompts.')
    prompts, is_list = _parse_inputs(payload["inputs"], limits)
    stream = payload.get("stream", False)
    if not isinstance(stream, bool):
        raise ValueError(f'"stream" must be true or false, not {_kind(stream)}.')
    if stream and is_list:
        raise ValueError('"stream" needs a single prompt: "inputs" must be a string, not a list.')
    given = payload.get("parameters")
    parameters = _parse_parameters({} if given is None else given, limits)
    if parameters.seed is not None and parameters.seed + len(prompts) - 1 > _INTEGERS["seed"][1]:
        raise ValueError(f'"seed" is too large for a list of {len(prompts)} prompts, which use seed, seed + 1, ...')
    adapters = _parse_adapters(payload, len(prompts), is_list, known_adapters)
    return GenerationRequest(prompts, is_list, parameters, stream, adapters)


def _parse_inputs(inputs: Any, limits: Limits) -> tuple[tuple[str, ...], bool]:
    is_list = isinstance(inputs, list)
    prompts = inputs if is_list else [inputs]
    if is_list and not inputs:
        raise ValueError('"inputs" is an empty list; it needs at least one prompt.')
    if len(prompts) > limits.max_client_batch_size:
        raise ValueError(
            f'"inputs" holds {len(prompts)} prompts, more than the {limits.max_client_batch_size} that one request may '
            "hold; split it into several requests."
        )
    for index, prompt in enumerate(prompts):
        name = f'"inputs"[{index}]' if is_list else '"inputs"'
        if not isinstance(prompt, str):
            expected = "a string" if is_list else "a string or a list of strings"
            raise ValueError(f"{name} must be {expected}, not {_kind(prompt)}.")
        if not prompt:
            raise ValueError(f"{name} is an empty string; give the model at least one character to continue.")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} is not valid Unicode text: {error.reason} at position {error.start}.") from error
    return tuple(prompts), is_list


def _parse_adapters(payload: dict, count: int, is_list: bool, known: tuple[str, ...]) -> tuple[str | None, ...]:
    """The adapter of each prompt, or () where no prompt has one. "adapter" and "adapters" mean the same."""
    if payload.get("adapter") is not None and payload.get("adapters") is not None:
        raise ValueError('The request holds both "adapter" and "adapters", which mean the same; give one.')
    field = "adapter" if payload.get("adapter") is not None else "adapters"
    given = payload.get(field)
    if given is None:
        return ()
    names = given if isinstance(given, list) else [given] * count
    if len(names) != count:
        prompts = f"{count} prompts" if is_list else "one prompt"
        raise ValueError(f'"{field}" names {len(names)} adapters for {prompts}; give one name, or one for each prompt.')
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f'"{field}" must be the name of an adapter or a list of names, not {_kind(name)}.')
        if name and name not in known:
            raise ValueError(f'Unknown adapter "{name}". {_adapters_here(name, known)}')
    return tuple(name or None for name in names) if any(names) else ()


def _adapters_here(name: str, known: tuple[str, ...]) -> str:
    if not known:
        return "This endpoint has none: an adapter lies in the model archive, in the folder adapters/NAME."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    return f'{hint}This endpoint has: {", ".join(known)}; "" is the model without an adapter.'


def _parse_parameters(given: Any, limits: Limits) -> GenerationParameters:
    if not isinstance(given, dict):
        raise ValueError(f'"parameters" must be a JSON object, not {_kind(given)}.')
    for synonym, name in _SYNONYMS.items():
        if given.get(synonym) is not None and given.get(name) is not None:
            raise ValueError(f'"parameters" holds both "{name}" and "{synonym}", which mean the same; give one.')
    _refuse_unknown(given, (*_PARAMETERS, *_SYNONYMS), "parameter")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        name = _SYNONYMS.get(key, key)
        if name in _BOOLEANS:
            values[name] = _check_boolean(key, value)
        elif name in _INTEGERS:
            values[name] = _check_integer(key, value)
        elif name in _NUMBERS:
            values[name] = _check_number(key, value)
        else:
            values[name] = _check_stop(key, value, limits)
    values.setdefault("do_sample", not {"temperature", "top_k", "top_p"}.isdisjoint(values))
    if values.get("temperature") == 0:
        values["do_sample"] = False
    if values.get("top_n_tokens"):
        values["details"] = True
    return GenerationParameters(**values)


def _refuse_unknown(given: dict, known: tuple[str, ...], kind: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise ValueError(f'Unknown {kind} "{key}".{hint} Known: {", ".join(known)}.')


def _check_boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f'"{name}" must be true or false, not {_kind(value)}.')
    return value


def _check_integer(name: str, value: Any) -> int:
    low, high, meaning = _INTEGERS[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'"{name}" must be an integer ({meaning}), not {_kind(value)}.')
    if not low <= value <= high:
        raise ValueError(f'"{name}" must be at least {low} and at most {high} ({meaning}); it is {value}.')
    return value


def _check_number(name: str, value: Any) -> float:
    low, high, closed, meaning = _NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'"{name}" must be a number ({meaning}), not {_kind(value)}.')
    if not (low <= value if closed else low < value) or not value <= high or not math.isfinite(value):
        bound = "at least" if closed else "greater than"
        raise ValueError(f'"{name}" must be {bound} {low:g} and at most {high:g} ({meaning}); it is {value}.')
    return float(value)


def _check_stop(name: str, value: Any, limits: Limits) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError(f'"{name}" must be a list of strings, not {_kind(value)}.')
    if len(stops) > limits.max_stop_sequences:
        raise ValueError(f'"{name}" holds {len(stops)} strings; at most {limits.max_stop_sequences} are accepted.')
    for stop in stops:
        if not 0 < len(stop) <= limits.max_stop_length:
            raise ValueError(
                f'Each string of "{name}" must have 1 to {limits.max_stop_length} characters; one has {len(stop)}.'
            )
    return tuple(dict.fromkeys(stops))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return f"{names.get(type(value), type(value).__name__)} ({json.dumps(value)[:40]})"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"The request body holds {name}, which JSON does not allow; send a finite number.")
