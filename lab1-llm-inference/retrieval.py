"""The small parts of notebook 3 that are no lesson of their own: documents, passages and questions as data, practice
queries for an embedding, intervals of shares."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from random import Random

_SENTENCE = re.compile(r"\S[^.!?\n]*[.!?]")
_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[^\n]+)*")
_REFERENCE = re.compile(r"\[(\d+)\]")
_ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True)
class Passage:
    """A piece of a document: its characters from `start` up to `end`."""

    file: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Question:
    """A question and, where the documents answer it, the answer and the sentence that states it.

    `kind` is "same words" as the text's, "other words", "misspelt" or "no answer"; `use` is "choose" (settings are
    chosen with it) or "measure". For "no answer", `answer` and `file` are empty.
    """

    question: str
    kind: str
    about: str
    matter: str
    use: str
    answer: str = ""
    file: str = ""
    start: int = 0
    end: int = 0

    def stated_in(self, passage: Passage) -> bool:
        """Whether the passage holds the whole sentence that answers the question."""
        return bool(self.file) and self.file == passage.file and passage.start <= self.start and self.end <= passage.end


def read_documents(folder: str | Path) -> dict[str, str]:
    """The text files of `folder` by name. Raises FileNotFoundError when there is none."""
    documents = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.txt"))}
    if not documents:
        raise FileNotFoundError(f"no .txt file in {Path(folder).resolve()}; python documents/generate.py writes them")
    return documents


def read_questions(folder: str | Path) -> list[Question]:
    """The questions of `folder`/questions.jsonl."""
    lines = (Path(folder) / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence of `text`, up to and with its full stop, question or exclamation mark."""
    return [match.span() for match in _SENTENCE.finditer(text)]


def paragraphs(text: str) -> list[tuple[int, int]]:
    """(start, end) of every paragraph: lines that no empty line divides."""
    return [match.span() for match in _PARAGRAPH.finditer(text)]


def slip(rng: Random, word: str) -> str:
    """`word` with a slip of the pen, if it is long enough for one: letters swapped, one left out, or one doubled."""
    if len(word) < 5:
        return word
    at = rng.randrange(1, len(word) - 2)
    tail = rng.choice((word[at + 1] + word[at] + word[at + 2 :], word[at + 1 :], word[at] + word[at:]))
    return word[:at] + tail


def practice_query(rng: Random, passage: str) -> str:
    """What somebody might type who looks for `passage`: its first name and up to three of its words, some misspelt."""
    words = [word.strip(".,").removesuffix("'s") for word in passage.split()]
    name = [word for word in words[:4] if word[0].isupper() and word not in ("The", "People")][:2]
    query = name[: 2 if words[0] == "The" else 1] + rng.sample(words, min(3, len(words)))
    return " ".join(slip(rng, word) if rng.random() < 0.3 else word for word in query)


def is_right(answer: str, expected: str) -> bool:
    """Whether `answer` holds `expected` as whole words, whatever the case, without regard to its article."""
    for article in _ARTICLES:
        expected = expected.removeprefix(article)
    return bool(expected) and re.search(rf"\b{re.escape(expected)}\b", answer, re.IGNORECASE) is not None


def references(answer: str) -> list[int]:
    """The numbers that `answer` gives in square brackets: [1, 3] of "a baker [1] [3]"."""
    return [int(number) for number in _REFERENCE.findall(answer)]


def without_references(answer: str) -> str:
    """`answer` without its bracketed numbers."""
    return _REFERENCE.sub("", answer).strip()


def share(outcomes: Sequence[bool]) -> tuple[float, float, float]:
    """(share that is true, lower and upper end of its 95% interval by Wilson's formula). No outcomes: ValueError."""
    n = len(outcomes)
    if not n:
        raise ValueError("no outcomes to take a share of")
    p, z = sum(outcomes) / n, 1.96
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def in_words(outcomes: Sequence[bool]) -> str:
    """The share and its 95% interval as text, such as "83% (77 to 88)"."""
    p, low, high = share(outcomes)
    return f"{p:.0%} ({low * 100:.0f} to {high * 100:.0f})"
