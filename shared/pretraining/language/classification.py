"""In-context learning: texts of two to four classes with labels that mean something in this one document only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shared.pretraining.language import opinions
from shared.pretraining.language.document import ANSWER, Document
from shared.pretraining.language.frames import Group, listed, load, split
from shared.pretraining.language.layouts import HEADERS, Layout, drawn_layout, usual_layout
from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.templates import render
from shared.pretraining.language.words import invented_name, invented_word

# Draws a text of one class.
Draw = Callable[[Random], str]


@dataclass(frozen=True)
class Topic:
    """What a class is about; of words and frames, the held-out ones are for the evaluation."""

    name: str
    words: Group
    held_out_words: Group
    frames: Group
    held_out_frames: Group

    def text(self, rng: Random, *, held_out_frames: bool = False, held_out_words: bool = False) -> str:
        """A sentence with one of the topic's words, in a frame of its own or in one that any topic has."""
        own = self.held_out_frames if held_out_frames else self.frames
        common = _ANY[held_out_frames]
        frame = rng.choice(own if rng.random() < 0.6 else common)
        word = rng.choice(self.held_out_words if held_out_words else self.words)
        return render(frame, rng, {"w": word}, LEXICON)


def _topics() -> tuple[tuple[Group, Group], dict[str, Topic]]:
    sections = load("topics")
    topics = {}
    for name, groups in sections.items():
        if name != "any":
            topics[name] = Topic(name, *split(listed(groups[0])), *split(groups[1]))
    return split(sections["any"][0]), topics


_ANY, TOPICS = _topics()
MANNERS = tuple(tuple(split(group) for group in groups) for groups in load("manners").values())
_KNOWN_LABELS = tuple(
    sorted(
        {word.split()[-1] for topic in TOPICS.values() for word in (*topic.words, *topic.held_out_words)}
        | {word for words in LEXICON.values() for word in words if " " not in word}
        | {*"ABCDEFGHXYZ123456789", *"yes no left right in out true false first second".split()}
    )
)


def classification(rng: Random) -> Document:
    """Four to twenty examples of two to four classes; the labels are drawn anew for each document."""
    classes, names = _classes(rng)
    labels = _labels(rng, names)
    layout = usual_layout(rng) if rng.random() < 0.3 else drawn_layout(rng)
    document: Document = [(f"{rng.choice(HEADERS)}\n", 1)] if rng.random() < 0.12 else []
    # A class's first example cannot be known: it is there to be read, not to be guessed.
    seen: set[int] = set()
    for _ in range(rng.choice((4, 5, 6, 7, 8, 10, 12, 14, 18))):
        chosen = rng.randrange(len(classes))
        document += layout.example(classes[chosen](rng), labels[chosen], ANSWER if chosen in seen else 0)
        seen.add(chosen)
    return document


_NAMING = (
    Layout("{t}\nSubject:", "\n\n"),
    Layout("Text: {t}\nSubject:", "\n\n"),
    Layout("{t} This is about", "\n"),
    Layout("{t} Subject:", "\n"),
)


def naming(rng: Random) -> Document:
    """Texts with the names of their topics: what the classes have in common is learned apart from reading examples."""
    layout = rng.choice(_NAMING)
    document: Document = []
    for _ in range(rng.choice((1, 2, 4, 6))):
        topic = rng.choice(list(TOPICS.values()))
        text = rng.choice(topic.words) if rng.random() < 0.35 else topic.text(rng)
        document += layout.example(text, topic.name, ANSWER)
    return document


_WORD_LISTS = (
    *("{n}: {w}.", "{w}: {n}.", "{w} belong together.", "{w} are words about {n}.", "One thinks of {n}: {w}."),
    *("Under {n} we have {w}.", "If you say {n}, I say {w}.", "{w} have to do with {n}."),
)


def word_lists(rng: Random) -> Document:
    """Words that belong together, without labels: here the held-out words are met too."""
    lines = []
    for topic in rng.sample(list(TOPICS.values()), rng.choice((1, 2, 3))):
        words = rng.sample((*topic.words, *topic.held_out_words), rng.choice((2, 3, 4)))
        words_listed = f"{', '.join(words[:-1])} and {words[-1]}"
        lines.append(rng.choice(_WORD_LISTS).format(n=topic.name, w=words_listed))
    return [("\n".join(line[0].upper() + line[1:] for line in lines), 1)]


def flipped(rng: Random) -> Document:
    """Reviews whose natural labels are exchanged: after one example the prompt, not the memory, tells the rest."""
    good, bad, _ = opinions.pick(rng, opinions.NATURAL_LABELS)
    labels = (bad, good)
    layout = usual_layout(rng) if rng.random() < 0.6 else drawn_layout(rng)
    document: Document = []
    for number in range(rng.choice((3, 4, 6, 8, 10))):
        sentiment = rng.randrange(2)
        document += layout.example(opinions.review(rng, sentiment), labels[sentiment], ANSWER if number else 0)
    return document


def _classes(rng: Random) -> tuple[list[Draw], list[str]]:
    """What the classes are, and a natural name for each."""
    kind = rng.choices(("topics", "words", "opinions", "manners"), (52, 18, 18, 12))[0]
    if kind == "opinions":
        return [_opinion(sentiment) for sentiment in range(2)], ["good", "bad"]
    if kind == "manners":
        groups = rng.choice(MANNERS)
        return [_manner(frames) for frames, _ in groups], ["first", "second", "third"][: len(groups)]
    chosen = rng.sample(list(TOPICS.values()), rng.choice((2, 2, 2, 3, 3, 4)))
    if kind == "words":
        return [lambda rng, words=topic.words: rng.choice(words) for topic in chosen], [topic.name for topic in chosen]
    return [topic.text for topic in chosen], [topic.name for topic in chosen]


def _opinion(sentiment: int) -> Draw:
    return lambda rng: opinions.review(rng, sentiment)


def _manner(frames: Group) -> Draw:
    return lambda rng: render(rng.choice(frames), rng, {}, LEXICON)


def _labels(rng: Random, names: list[str]) -> list[str]:
    kind = rng.choices(("invented", "Invented", "known", "mixed", "natural"), (32, 8, 40, 12, 8))[0]
    if kind == "natural":
        return names
    draws: dict[str, tuple[Callable[[], str], ...]] = {
        "invented": (lambda: invented_word(rng),),
        "Invented": (lambda: invented_name(rng),),
        "known": (lambda: rng.choice(_KNOWN_LABELS),),
    }
    draws["mixed"] = (*draws["invented"], *draws["known"])
    labels: list[str] = []
    while len(labels) < len(names):
        label = rng.choice(draws[kind])()
        if label not in labels:
            labels.append(label)
    return labels
