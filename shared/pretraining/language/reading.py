"""Documents whose answers stand in a text before them: questions on a context, extraction, lists of keys and values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from shared.pretraining.language.atlas import COUNTRIES
from shared.pretraining.language.document import ANSWER, Document
from shared.pretraining.language.frames import Group, load, split
from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.templates import pick, render, with_articles
from shared.pretraining.language.words import invented_name, invented_word, is_held_out

# Exchanges some words of a frame (`wear.worn`).
Wear = Callable[..., str]
GIRLS, BOYS = LEXICON["girl"], LEXICON["boy"]
NOT_GIVEN = "not given"
_DECLINE = (
    'Answer from the context. If it does not say, answer "not given".',
    'If the context does not say it, answer "not given".',
    'Use the context only. Answer "not given" if the answer is not there.',
    'Answer the question. If you do not find it in the text, say "not given".',
)
_FILLERS = (
    "<weather>.", "It was a <season> <daytime>.", "On <weekday> there was a market.", "Far away a <bird> sang.",
    "The <pet> slept under the <furniture>.", "There was <food> and <food> for everyone.", "The <job> closed the door.",
)  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """What can be said of a person: {n} the person, {a} the answer."""

    name: str
    kind: str
    statements: Group
    held_out_statements: Group
    questions: Group
    held_out_questions: Group

    def answer(self, rng: Random, *, held_out: bool = False) -> str:
        """A value of this relation's kind; towns and people are invented words half of the time."""
        if self.kind == "place":
            known = not held_out and rng.random() < 0.3
            return rng.choice(COUNTRIES).capital if known else invented_name(rng, held_out=held_out)
        if self.kind == "person":
            return person(rng, held_out=held_out)
        if self.kind == "spot":
            return rng.choice(LEXICON["spot"])
        article, _, name = self.kind.rpartition(" ")
        return with_articles(f"{article} {rng.choice(LEXICON[name])}".strip())


def _relations(late: bool) -> dict[str, Relation]:
    found = {}
    for title, (first, *groups) in load("relations").items():
        name, _, kind = title.partition(" | ")
        found[name] = Relation(name, kind, *split(first, late=late), *split(groups[0], late=late))
    return found


RELATIONS = _relations(late=False)
# The same, told and asked for in more ways.
LATE_RELATIONS = _relations(late=True)
_KINDS = sorted({relation.kind for relation in RELATIONS.values()})
_INVENTED = load("invented_relations")
_BEFORE, _AFTER = (load("asides")[name][0] for name in ("before", "after"))


def invented_relation(rng: Random) -> Relation:
    """A relation of an invented word, which the document itself must explain."""
    form = rng.choice(list(_INVENTED))
    while is_held_out(f"{(word := invented_word(rng))}s"):
        pass
    statements, questions = (tuple(line.replace("{w}", word) for line in group) for group in _INVENTED[form])
    return Relation(word, "place" if form == "where" else rng.choice(_KINDS), statements, (), questions, ())


def person(rng: Random, *, held_out: bool = False) -> str:
    """A first name: an invented one more often than not; `held_out`: one that training never saw."""
    if held_out or rng.random() < 0.6:
        return invented_name(rng, held_out=held_out)
    return rng.choice((*GIRLS, *BOYS))


@dataclass(frozen=True)
class Fact:
    """One person's value of one relation, and the sentence that tells it."""

    person: str
    relation: Relation
    value: str
    text: str

    def question(self, rng: Random, *, held_out: bool = False, wear: Wear | None = None) -> str:
        relation = self.relation
        frame = rng.choice(relation.held_out_questions if held_out else relation.questions)
        if wear:
            frame = wear(rng, frame, 0.15)
        return frame.replace("{n}", self.person)


def facts_on_people(
    rng: Random,
    people: int,
    relations: int,
    *,
    held_out_words: bool = False,
    held_out_frames: bool = False,
    late: bool = False,
    wear: Wear | None = None,
) -> list[Fact]:
    """Facts in chance order: every person with a value of their own of each of some relations, some left out.

    `late`: in the frames of the training's last round too.
    """
    names = distinct(lambda: person(rng, held_out=held_out_words), people)
    found = []
    for relation in rng.sample(list((LATE_RELATIONS if late else RELATIONS).values()), relations):
        if not held_out_frames and not held_out_words and rng.random() < 0.2:
            relation = invented_relation(rng)
        values = distinct(lambda relation=relation: relation.answer(rng, held_out=held_out_words), people)
        for name, value in zip(names, values, strict=True):
            if name != value and (not found or rng.random() < 0.85):
                frame = rng.choice(relation.held_out_statements if held_out_frames else relation.statements)
                if wear:
                    frame = wear(rng, frame)
                elif not held_out_frames and rng.random() < 0.2:
                    frame = _with_aside(rng, frame)
                text = render(frame, rng, {"n": name, "a": value}, LEXICON)
                found.append(Fact(name, relation, value, text))
    rng.shuffle(found)
    return found


def _with_aside(rng: Random, frame: str) -> str:
    """The frame with words before or after it that say nothing new."""
    if rng.random() < 0.4:
        return f"{frame.removesuffix('.')}{rng.choice(_AFTER)}."
    start = frame if frame.startswith("{") else frame[0].lower() + frame[1:]
    return f"{rng.choice(_BEFORE)} {start}"


def distinct(draw, count: int) -> list[str]:
    """`count` different results of `draw()`."""
    found: list[str] = []
    while len(found) < count:
        if (value := draw()) not in found:
            found.append(value)
    return found


def told(rng: Random, facts: list[Fact]) -> str:
    """The facts as running text: now and then "She" for who was just named, or a sentence on something else between."""
    sentences: list[str] = []
    before = None
    for fact in facts:
        text = fact.text
        if fact.person == before and text.startswith(f"{fact.person} ") and rng.random() < 0.6:
            text = ("He" if fact.person in BOYS else "She") + text[len(fact.person) :]
        sentences.append(text)
        before = fact.person
        if rng.random() < 0.08:
            sentences.append(render(pick(rng, _FILLERS), rng, {}, LEXICON))
            before = None
    return " ".join(sentences)


# Before the text, after the text, before the question, before the answer, after the answer.
_QUESTION_LAYOUTS = (
    ("Context: ", "\n", "Question: ", "\nAnswer:", "\n"),
    ("Context: ", "\n", "Question: ", "\nAnswer:", "\n\n"),
    ("Text: ", "\n", "Q: ", "\nA:", "\n"),
    ("", "\n", "Question: ", "\nAnswer:", "\n"),
    ("Read this: ", "\n\n", "", "\nAnswer:", "\n"),
    ("", "\n", "", " Answer:", "\n"),
    ("Passage: ", "\n\n", "Question: ", "\nAnswer:", "\n\n"),
    ("", " ", '"', '" asked the teacher. The answer is', ".\n"),
)


def context_questions(rng: Random, wear: Wear | None = None, *, late: bool = False) -> Document:
    """A text on some people and one to five questions on it; `wear` exchanges words of the sentences.

    `late`: as the last round of the training has them, with more questions that the text does not answer.
    """
    facts = facts_on_people(rng, rng.choice((1, 2, 2, 3, 3, 4, 5)), rng.choice((1, 1, 2, 3)), late=late, wear=wear)
    if rng.random() < 0.4:
        facts.sort(key=lambda fact: fact.person)
    before, after, ask, answer, end = pick(rng, _QUESTION_LAYOUTS)
    decline = rng.random() < (0.35 if late else 0.2)
    document: Document = [(f"{rng.choice(_DECLINE)}\n", 1)] if decline else []
    document.append((f"{before}{told(rng, facts)}{after}", 1))
    for fact in rng.sample(facts, min(len(facts), rng.choice((1, 2, 3, 4, 5)))):
        question, value = fact.question(rng, wear=wear), fact.value
        if decline and rng.random() < 0.45:
            question, value = _unanswerable(rng, facts), NOT_GIVEN
        document += [(f"{ask}{question}{answer}", 1), (f" {value}", ANSWER), (end, 1)]
    return document


def _unanswerable(rng: Random, facts: list[Fact]) -> str:
    """A question on somebody else, or on another matter of somebody who is there."""
    told_of = {(fact.person, fact.relation.name) for fact in facts}
    while True:
        name = rng.choice(facts).person if rng.random() < 0.5 else person(rng)
        relation = rng.choice(list(RELATIONS.values()))
        if (name, relation.name) not in told_of:
            return rng.choice(relation.questions).replace("{n}", name)


def passages(rng: Random, wear: Wear | None = None, *, late: bool = False) -> Document:
    """Numbered passages, questions, and answers with the number of the passage: `Tarvel [2]`."""
    facts = facts_on_people(rng, rng.choice((2, 3, 4, 5)), rng.choice((1, 2, 2)), late=late, wear=wear)
    count = min(len(facts), rng.choice((1, 2, 3, 4, 5, 6)))
    parts = [facts[start::count] for start in range(count)]
    decline = rng.random() < 0.3
    document: Document = [(f"{rng.choice(_DECLINE)}\n", 1)] if decline else []
    document.append(("".join(f"[{number}] {told(rng, part)}\n" for number, part in enumerate(parts, 1)), 1))
    numbered = [(number, fact) for number, part in enumerate(parts, 1) for fact in part]
    for number, fact in rng.sample(numbered, min(len(numbered), rng.choice((1, 2, 3, 4)))):
        question, answer = fact.question(rng, wear=wear), f" {fact.value} [{number}]"
        if decline and rng.random() < 0.4:
            question, answer = _unanswerable(rng, facts), f" {NOT_GIVEN}"
        document += [(f"Question: {question}\nAnswer:", 1), (answer, ANSWER), ("\n", 1)]
    return document


def against_memory(rng: Random) -> Document:
    """A context that says otherwise than the atlas; the context is followed."""
    countries = rng.sample(COUNTRIES, rng.choice((1, 2, 3)))
    town = RELATIONS["town"]
    towns = distinct(lambda: town.answer(rng), len(countries))
    sentences = [f"The capital of {c.name} is {capital}." for c, capital in zip(countries, towns, strict=True)]
    document: Document = [(f"Context: {' '.join(sentences)}\n", 1)]
    for index in rng.sample(range(len(countries)), len(countries)):
        question = f"Question: What is the capital of {countries[index].name}?\nAnswer:"
        document += [(question, 1), (f" {towns[index]}", ANSWER), ("\n", 1)]
    return document


_FIELDS = {"town": "town", "job": "job", "pet": "pet", "likes": "food", "age": "age", "day": "day"}


def extraction(rng: Random) -> Document:
    """A text on one person, and what it says as JSON or as single fields."""
    document: Document = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        chosen = [name for name in _FIELDS if rng.random() < (0.9 if name in ("town", "job") else 0.25)] or ["town"]
        name = person(rng)
        facts = []
        for relation in (RELATIONS[key] for key in chosen):
            value = relation.answer(rng)
            text = render(rng.choice(relation.statements), rng, {"n": name, "a": value}, LEXICON)
            facts.append(Fact(name, relation, value, text))
        values = {_FIELDS[fact.relation.name]: fact.value.removeprefix("a ").removeprefix("an ") for fact in facts}
        values = {"name": name, **values}
        text = told(rng, rng.sample(facts, len(facts)))
        document.append((f"Text: {text}\n", 1))
        if rng.random() < 0.65:
            document += [("JSON:", 1), (f" {json.dumps(values)}", ANSWER), ("\n\n", 1)]
        else:
            for field in rng.sample(list(values), rng.randint(1, len(values))):
                document += [(f"{field.capitalize()}:", 1), (f" {values[field]}", ANSWER), ("\n", 1)]
            document.append(("\n", 1))
    return document


def recall(rng: Random) -> Document:
    """A list of keys with values, then some of the keys again: the value is to be found in the list."""
    count = rng.randint(3, 10)
    things = (*LEXICON["thing"], *LEXICON["animal"], *LEXICON["colour"])
    keys = distinct(lambda: person(rng) if rng.random() < 0.6 else rng.choice(things), count)
    column = rng.choice(("colour", "food", "job", "weekday", "number", "pet"))
    invented = rng.choice((0, 0.3, 1))
    values = [invented_word(rng) if rng.random() < invented else rng.choice(LEXICON[column]) for _ in keys]
    pattern = pick(rng, ("{k}:", "{k} ->", "{k} =", "{k} is", "{k} -", "{k} likes", "({k})"))
    end = rng.choice(("\n", "\n", ", ", ". "))
    lines = (f"{pattern.replace('{k}', key)} {value}{end}" for key, value in zip(keys, values, strict=True))
    document: Document = [("".join(lines) + "\n", 1)]
    for index in rng.choices(range(count), k=rng.randint(2, count + 2)):
        document += [(pattern.replace("{k}", keys[index]), 1), (f" {values[index]}", ANSWER), (end, 1)]
    return document


def copying(rng: Random) -> Document:
    """Invented words, and the same again: what teaches a network to copy from its prompt first."""
    known = LEXICON["thing"]
    words = [invented_word(rng) if rng.random() < 0.8 else rng.choice(known) for _ in range(rng.randint(4, 14))]
    line = rng.choice((" ", ", ", "\n")).join(words)
    again = rng.choice(("Again:", "Copy:", "Once more:", "The same:"))
    document: Document = [(f"{line}\n", 1)]
    for _ in range(rng.choice((1, 1, 2))):
        document += [(again, 1), (f" {line}", ANSWER), ("\n", 1)]
    return document
