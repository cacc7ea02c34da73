"""Simulated people who read letters and say which of two they would rather get, for notebook 3.

Each reader weighs what a letter says (`letters.says`) in a way of their own, and is not always sure: the chance that
they choose letter A over letter B is sigmoid(worth of A - worth of B), as Bradley and Terry have it. One reader in four
does not like to be invited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from random import Random

import numpy as np
from letters import says

# What most readers feel about each kind of remark and each fault, on the scale of the sigmoid above.
COMMON = {
    "thanks": 1.4,
    "thinks of you": 1.4,
    "invites you": 1.6,
    "promises to come": 1.2,
    "good news": 1.0,
    "bad news": -1.2,
    "not signed": -1.6,
    "broken": -0.9,
    "repeats": -0.5,
    "too long": -0.1,
}
QUIET_SHARE, QUIET_INVITES = 0.25, -1.6
# The second remark of a kind is worth less than the first; nobody is ten times as glad to be thanked ten times.
_MOST = {"thanks": 2, "thinks of you": 2, "invites you": 1, "promises to come": 1, "good news": 2}


@dataclass(frozen=True)
class Reader:
    """One person: a name, and how much each kind of remark is worth to them."""

    name: str
    weights: dict[str, float]

    @property
    def quiet(self) -> bool:
        """Whether this reader would rather not be invited."""
        return self.weights["invites you"] < 0

    def worth(self, letter: str) -> float:
        """How much this reader likes a letter; only differences mean something."""
        return sum(self.weights[kind] * min(count, _MOST.get(kind, count)) for kind, count in says(letter).items())

    def chance(self, first: str, second: str) -> float:
        """The chance, from 0 to 1, that this reader chooses `first`."""
        return 1 / (1 + exp(min(50.0, self.worth(second) - self.worth(first))))

    def chooses_first(self, first: str, second: str, rng: Random) -> bool:
        """One answer of this reader; asked again, they may answer otherwise."""
        return rng.random() < self.chance(first, second)


def panel(count: int, seed: int) -> list[Reader]:
    """`count` readers; another seed gives other people."""
    rng = Random(f"readers/{seed}")
    people = []
    for number in range(count):
        weights = {kind: weight * rng.uniform(0.5, 1.5) for kind, weight in COMMON.items()}
        if rng.random() < QUIET_SHARE:
            weights["invites you"] = QUIET_INVITES * rng.uniform(0.5, 1.5)
        people.append(Reader(f"reader {seed}-{number + 1}", weights))
    return people


def share_preferring(people: Sequence[Reader], letter: str, other: str) -> float:
    """The share of `people`, on average over their moods, who choose `letter` rather than `other`."""
    return sum(person.chance(letter, other) for person in people) / len(people)


def liking(people: Sequence[Reader], letters: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """How each of `letters` does against `others`: the mean share, from 0 to 1, who would choose it; float64 [letters].

    The mean goes over all people, their moods, and all other letters.
    """
    of_letters, of_others = (
        np.array([[person.worth(text) for text in texts] for person in people]) for texts in (letters, others)
    )
    differences = of_letters[:, :, None] - of_others[:, None, :]
    return (1 / (1 + np.exp(-differences.clip(-50, 50)))).mean(axis=(0, 2))
