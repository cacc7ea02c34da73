"""The hyperparameter ranges of a tuning job, and how grid and random search take values from them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .faults import validation_exception

_AUTO_LOGARITHMIC_FROM = 100.0
"""Scaling Auto is logarithmic for a positive range whose ends differ by at least this factor, else linear."""
_REDRAWS = 100


@dataclass(frozen=True)
class Range:
    """One hyperparameter to tune. `draw` gives a value as the training job gets it, from a random generator."""

    name: str
    draw: Callable[[random.Random], str]
    categories: tuple[str, ...] = ()
    size: float = math.inf
    """How many different values there are."""


def read_ranges(parameter_ranges: dict[str, Any], static: dict[str, str]) -> list[Range]:
    """The ranges of a request's ParameterRanges; raises the ValidationException fault for what cannot be searched."""
    ranges = [
        *(_integer(given) for given in parameter_ranges.get("IntegerParameterRanges", [])),
        *(_continuous(given) for given in parameter_ranges.get("ContinuousParameterRanges", [])),
        *(_categorical(given) for given in parameter_ranges.get("CategoricalParameterRanges", [])),
    ]
    names = [each.name for each in ranges]
    for name in names:
        if names.count(name) > 1:
            raise validation_exception(f"The hyperparameter {name} has more than one range.")
        if name in static:
            raise validation_exception(f"The hyperparameter {name} cannot be both static and tuned.")
    if not ranges:
        raise validation_exception("ParameterRanges must hold at least one range of a hyperparameter to tune.")
    return ranges


def grid(ranges: list[Range]) -> list[dict[str, str]]:
    """Every combination of categories. Raises the ValidationException fault where a range is not categorical."""
    for each in ranges:
        if not each.categories:
            raise validation_exception(
                f"The strategy Grid takes categorical ranges only, and {each.name} is not one. List its values in "
                "CategoricalParameterRanges, or use the strategy Random."
            )
    names = [each.name for each in ranges]
    return [
        dict(zip(names, values, strict=True)) for values in itertools.product(*(each.categories for each in ranges))
    ]


def draws(ranges: list[Range], count: int, seed: int | None) -> list[dict[str, str]]:
    """`count` random combinations, the same ones for the same seed; different ones as far as there are so many."""
    generator = random.Random(seed)
    size = math.prod(each.size for each in ranges)
    drawn: list[dict[str, str]] = []
    while len(drawn) < count:
        for _ in range(_REDRAWS):
            combination = {each.name: each.draw(generator) for each in ranges}
            if combination not in drawn or len(drawn) >= size:
                break
        drawn.append(combination)
    return drawn


def _categorical(given: dict[str, Any]) -> Range:
    values = tuple(dict.fromkeys(given["Values"]))
    return Range(given["Name"], lambda generator: generator.choice(values), values, len(values))


def _integer(given: dict[str, Any]) -> Range:
    low, high = _ends(given, _to_integer, "an integer")
    if given.get("ScalingType") == "ReverseLogarithmic":
        raise validation_exception(
            f"ReverseLogarithmic scaling is for continuous hyperparameters only, and {given['Name']} is an integer."
        )
    scaling = _scaling(given, low, high)

    def draw(generator: random.Random) -> str:
        if scaling == "Linear":
            return str(generator.randint(low, high))
        value = round(math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5))))
        return str(min(max(value, low), high))

    return Range(given["Name"], draw, size=high - low + 1)


def _continuous(given: dict[str, Any]) -> Range:
    low, high = _ends(given, _to_number, "a number")
    scaling = _scaling(given, low, high)

    def draw(generator: random.Random) -> str:
        if scaling == "Linear":
            value = generator.uniform(low, high)
        elif scaling == "Logarithmic":
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = 1 - math.exp(generator.uniform(math.log(1 - high), math.log(1 - low)))
        return repr(min(max(value, low), high))

    return Range(given["Name"], draw, size=1 if low == high else math.inf)


def _ends(given: dict[str, Any], convert: Callable[[str], Any], kind: str) -> tuple[Any, Any]:
    name = given["Name"]
    ends = []
    for member in ("MinValue", "MaxValue"):
        try:
            ends.append(convert(given[member]))
        except ValueError:
            raise validation_exception(
                f"{member} of hyperparameter {name} must be {kind}, not {given[member]!r}."
            ) from None
    if ends[0] > ends[1]:
        raise validation_exception(
            f"MinValue of hyperparameter {name} ({given['MinValue']}) is above its MaxValue ({given['MaxValue']})."
        )
    return ends[0], ends[1]


def _to_integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError
    return int(text)


def _to_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _scaling(given: dict[str, Any], low: float, high: float) -> str:
    scaling, name = given.get("ScalingType", "Auto"), given["Name"]
    if scaling == "Auto":
        return "Logarithmic" if low > 0 and high / low >= _AUTO_LOGARITHMIC_FROM else "Linear"
    if scaling == "Logarithmic" and low <= 0:
        raise validation_exception(f"Logarithmic scaling needs values above 0, and MinValue of {name} is {low}.")
    if scaling == "ReverseLogarithmic" and not (0 <= low and high < 1):
        raise validation_exception(
            f"ReverseLogarithmic scaling needs values from 0 to below 1, and {name} has {low} to {high}."
        )
    return scaling
