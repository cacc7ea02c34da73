"""The training data: an endless mixture of documents, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Literal, NamedTuple

from shared.pretraining.language import opinions, reading
from shared.pretraining.language.classification import classification, flipped, naming, word_lists
from shared.pretraining.language.document import Document, tidy
from shared.pretraining.language.everyday import everyday
from shared.pretraining.language.facts import facts
from shared.pretraining.language.stories import story
from shared.pretraining.language.wear import worn


class Kind(NamedTuple):
    """A kind of document: its share of all documents early in the training, later, and in its second and third round;
    its generators with weights."""

    name: str
    early: float
    later: float
    second: float
    third: float
    generators: tuple[tuple[Callable[[Random], Document], float], ...]


# Stories are the longest, so their share of the tokens is larger. Copying from the prompt is learned suddenly;
# the sooner, the more of the training is spent on what it makes possible.
MIXTURE = (
    Kind("stories", 0.10, 0.11, 0.07, 0.07, ((lambda rng: [(story(rng), 1)], 1),)),
    Kind("everyday", 0.04, 0.03, 0.02, 0.02, ((lambda rng: [(everyday(rng), 1)], 1),)),
    Kind("facts", 0.08, 0.13, 0.08, 0.06, ((facts, 1),)),
    Kind("opinions", 0.13, 0.17, 0.12, 0.08, ((opinions.reviews, 8), (opinions.talk, 5), (opinions.replies, 4))),
    Kind("classification", 0.25, 0.29, 0.21, 0.16, ((classification, 14), (flipped, 3), (naming, 5), (word_lists, 3))),
    Kind(
        "reading",
        0.20,
        0.25,
        0.25,
        0.03,
        ((reading.context_questions, 10), (reading.passages, 5), (reading.extraction, 4), (reading.against_memory, 1)),
    ),
    Kind("recall", 0.20, 0.02, 0.02, 0.01, ((reading.recall, 2), (reading.copying, 1))),
    Kind(
        "worn",
        0,
        0,
        0.23,
        0.10,
        (
            (partial(reading.context_questions, wear=worn), 10),
            (partial(reading.passages, wear=worn), 3),
            (partial(opinions.reviews, wear=worn), 5),
        ),
    ),
    Kind(
        "late",
        0,
        0,
        0,
        0.47,
        (
            (partial(reading.context_questions, late=True), 16),
            (partial(reading.context_questions, wear=worn, late=True), 7),
            (partial(reading.passages, late=True), 7),
            (partial(opinions.talk, late=True), 17),
        ),
    ),
)


Shares = Literal["early", "later", "second", "third"]
# What the shares are called in the seeds of documents: a change here changes every document, and with them the weights.
_STREAMS = {"early": "True", "later": "False", "second": "last", "third": "third"}


def documents(seed: int, kind: str | None = None, *, shares: Shares = "later") -> Iterator[Document]:
    """Documents without end, of one kind of `MIXTURE` or of all, in the shares of that part of the training.

    Each depends on its arguments and its number only. Raises ValueError for an unknown kind.
    """
    kinds = {entry.name: entry for entry in MIXTURE}
    if kind is not None and kind not in kinds:
        raise ValueError(f"no kind of document {kind!r}; there are: {', '.join(kinds)}")
    weights = [getattr(entry, shares) for entry in MIXTURE]
    number = 0
    while True:
        rng = Random(f"{seed}/{_STREAMS[shares]}/{number}")
        name = kind or rng.choices(list(kinds), weights)[0]
        generators, of_kind = zip(*kinds[name].generators, strict=True)
        yield tidy(rng.choices(generators, of_kind)[0](rng))
        number += 1
