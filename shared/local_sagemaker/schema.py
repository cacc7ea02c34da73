"""Checks requests against botocore's service models, to the depth that AWS does.

botocore's own validator looks at types and required members; AWS also refuses wrong enum values, patterns, lengths and
ranges, and so does this one. Messages are worded as AWS words them.
"""

from __future__ import annotations

import functools
import json
import math
from typing import Any, NoReturn

import botocore.loaders
import regex

from .faults import Fault, validation_exception

_LONG = 200


@functools.cache
def service_model(service: str) -> dict[str, Any]:
    """botocore's description of `service` ("sagemaker", "sagemaker-runtime"): operations and shapes."""
    return botocore.loaders.Loader().load_service_model(service, "service-2")


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises the SerializationException fault for anything else."""
    try:
        parsed = json.loads(body.decode("utf-8") or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # UnicodeDecodeError, JSONDecodeError, integers of more than 4300 digits and NaN are all ValueErrors.
        raise _serialization("The request body is not valid JSON.") from None
    if not isinstance(parsed, dict):
        raise _serialization("Start of structure or map expected: the request body must be a JSON object.")
    return parsed


def validate(service: str, operation: str, request: dict[str, Any]) -> dict[str, Any]:
    """`request` without its null members, once it fits the input shape of `operation`. Raises as `validate_shape`."""
    return validate_shape(service, service_model(service)["operations"][operation]["input"]["shape"], request)


def validate_shape(service: str, shape: str, value: dict[str, Any]) -> dict[str, Any]:
    """`value` without its null members, once it fits the structure `shape` of the service model.

    Raises the SerializationException fault for a wrong type or an unknown member, and the ValidationException fault,
    with every violation in its message, for a violated constraint.
    """
    shapes = service_model(service)["shapes"]
    validator = _Validator(shapes)
    clean = validator.structure(shapes[shape], value, "")
    validator.finish()
    return clean


def constraint_violations(service: str, shape: str, value: Any) -> list[str]:
    """The constraints of the scalar shape `shape` that `value` violates, in AWS's words."""
    return _scalar_violations(service_model(service)["shapes"][shape], value)


def violation_message(violations: list[str]) -> str:
    """AWS's sentence for a list of violations, each "Value ... at ... failed to satisfy constraint: ..."."""
    noun = "validation error" if len(violations) == 1 else "validation errors"
    return f"{len(violations)} {noun} detected: {'; '.join(violations)}"


def violation(value: Any, path: str, constraint: str) -> str:
    """One violation in AWS's words."""
    shown = "null" if value is None else f"'{_shorten(_shown(value))}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


class _Validator:
    """Walks a request beside its shape; collects violations of constraints, raises at once for wrong types."""

    def __init__(self, shapes: dict[str, Any]):
        self._shapes = shapes
        self._violations: list[str] = []

    def finish(self) -> None:
        if self._violations:
            raise validation_exception(violation_message(self._violations))

    def structure(self, shape: dict[str, Any], value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _serialization(f"{_json_type(value)} can not be converted to a structure{_at(path)}")
        members = shape.get("members", {})
        unknown = [name for name in value if name not in members]
        if unknown:
            raise _serialization(f"Unknown member '{_shorten(unknown[0])}' found{_at(path)}")
        present = {name: member for name, member in value.items() if member is not None}
        for name in shape.get("required", []):
            if name not in present:
                self._violations.append(violation(None, _join(path, name), "Member must not be null"))
        if shape.get("union") and len(present) != 1:
            self._violations.append(violation(value, path, "Exactly one member of a union must be set"))
        return {
            name: self._value(self._shapes[members[name]["shape"]], member, _join(path, name))
            for name, member in present.items()
        }

    def _value(self, shape: dict[str, Any], value: Any, path: str) -> Any:
        kind = shape["type"]
        if kind == "structure":
            return self.structure(shape, value, path)
        if kind == "list":
            return self._list(shape, value, path)
        if kind == "map":
            return self._map(shape, value, path)
        _check_scalar_type(kind, value, path)
        self._violations.extend(violation(value, path, text) for text in _scalar_violations(shape, value))
        return value

    def _list(self, shape: dict[str, Any], value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _serialization(f"{_json_type(value)} can not be converted to a list{_at(path)}")
        self._violations.extend(violation(value, path, text) for text in _length_violations(shape, len(value)))
        member = self._shapes[shape["member"]["shape"]]
        return [self._element(member, element, f"{path}.{index}.member") for index, element in enumerate(value, 1)]

    def _map(self, shape: dict[str, Any], value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _serialization(f"{_json_type(value)} can not be converted to a map{_at(path)}")
        self._violations.extend(violation(value, path, text) for text in _length_violations(shape, len(value)))
        key_shape, member = self._shapes[shape["key"]["shape"]], self._shapes[shape["value"]["shape"]]
        clean = {}
        for key, element in value.items():
            _check_scalar_type("string", key, path)
            for text in _scalar_violations(key_shape, key):
                self._violations.append(violation(value, path, f"Map keys must satisfy constraint: [{text}]"))
            clean[key] = self._element(member, element, f"{path}.{_shorten(key)}.member")
        return clean

    def _element(self, shape: dict[str, Any], value: Any, path: str) -> Any:
        if value is None:
            self._violations.append(violation(None, path, "Member must not be null"))
            return None
        return self._value(shape, value, path)


def _check_scalar_type(kind: str, value: Any, path: str) -> None:
    if kind in ("string", "blob"):
        fits = isinstance(value, str)
    elif kind == "boolean":
        fits = isinstance(value, bool)
    elif kind in ("integer", "long"):
        bits = 31 if kind == "integer" else 63
        fits = isinstance(value, int) and not isinstance(value, bool) and -(1 << bits) <= value < 1 << bits
    else:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
        fits = fits and math.isfinite(value)
    if not fits:
        raise _serialization(f"{_json_type(value)} can not be converted to a {kind}{_at(path)}")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise _serialization(f"A string holds an unpaired surrogate{_at(path)}")


def _scalar_violations(shape: dict[str, Any], value: Any) -> list[str]:
    if not isinstance(value, str):
        return _range_violations(shape, value) if shape["type"] != "boolean" else []
    violations = _length_violations(shape, len(value))
    if "enum" in shape and value not in shape["enum"]:
        violations.append(f"Member must satisfy enum value set: [{', '.join(shape['enum'])}]")
    # A value of the wrong length is not searched, so that no pattern works on more text than AWS's limit.
    elif "pattern" in shape and not violations and compiled_pattern(shape["pattern"]).fullmatch(value) is None:
        violations.append(f"Member must satisfy regular expression pattern: {shape['pattern']}")
    return violations


def _range_violations(shape: dict[str, Any], value: float) -> list[str]:
    violations = []
    if "min" in shape and value < shape["min"]:
        violations.append(f"Member must have value greater than or equal to {shape['min']}")
    if "max" in shape and value > shape["max"]:
        violations.append(f"Member must have value less than or equal to {shape['max']}")
    return violations


def _length_violations(shape: dict[str, Any], length: int) -> list[str]:
    violations = []
    if "min" in shape and length < shape["min"]:
        violations.append(f"Member must have length greater than or equal to {shape['min']}")
    if "max" in shape and length > shape["max"]:
        violations.append(f"Member must have length less than or equal to {shape['max']}")
    return violations


@functools.cache
def compiled_pattern(pattern: str) -> regex.Pattern[str]:
    r"""A pattern of the service model, which is Java's, in Python's terms.

    \d, \w and \p{Alnum} are ASCII in Java, general categories such as \p{L} are Unicode's; code points above U+FFFF
    are written there as ranges of surrogates.
    """
    unicode_categories = any(f"\\p{{{category}}}" in pattern for category in "LMNPSZ")
    pattern = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    return regex.compile(pattern, 0 if unicode_categories else regex.ASCII)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _serialization(message: str) -> Fault:
    return Fault("SerializationException", message)


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    if isinstance(value, (int, float)):
        return "NUMBER_VALUE"
    if isinstance(value, str):
        return "STRING_VALUE"
    return "START_ARRAY" if isinstance(value, list) else "START_OBJECT"


def _join(path: str, member: str) -> str:
    name = member[0].lower() + member[1:]
    return f"{path}.{name}" if path else name


def _at(path: str) -> str:
    return f" at '{path}'" if path else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shorten(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."
