"""The training data: an endless mixture of documents, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from shared.pretraining.language.document import Document, tidy
from shared.pretraining.language.everyday import everyday
from shared.pretraining.language.facts import facts
from shared.pretraining.language.stories import story
from shared.pretraining.language.tasks import tasks

# Kind of document, share of the documents, generator. Stories are the longest, so their share of the tokens is larger.
MIXTURE: tuple[tuple[str, float, Callable[[Random], Document]], ...] = (
    ("stories", 0.36, lambda rng: [(story(rng), 1)]),
    ("facts", 0.26, facts),
    ("tasks", 0.27, tasks),
    ("everyday", 0.11, lambda rng: [(everyday(rng), 1)]),
)


def documents(seed: int, kind: str | None = None) -> Iterator[Document]:
    """Documents without end, of one kind of `MIXTURE` or of all. Each depends on the seed and its number only.

    Raises ValueError for an unknown kind.
    """
    kinds = {name: generate for name, _, generate in MIXTURE}
    if kind is not None and kind not in kinds:
        raise ValueError(f"no kind of document {kind!r}; there are: {', '.join(kinds)}")
    shares = [share for _, share, _ in MIXTURE]
    number = 0
    while True:
        rng = Random(f"{seed}/{number}")
        name = kind or rng.choices(list(kinds), shares)[0]
        yield tidy(kinds[name](rng))
        number += 1
