"""Documents about the world: capitals, animals, opposites, orders. The word asked for carries the weight."""

from __future__ import annotations

from random import Random

from shared.pretraining.language.atlas import (
    ANIMALS,
    COLOURS_OF,
    COUNTRIES,
    OPPOSITES,
    ORDERS,
    SAYINGS,
    WORK_OF,
    Animal,
    Country,
)
from shared.pretraining.language.document import ANSWER, Document
from shared.pretraining.language.templates import pick, with_articles, with_capitals

# {c} country, {k} capital, {o} continent, {l} language, {f} what it is known for. Text before the bar is the prompt.
_CAPITAL = (
    "The capital of {c} is| {k}|.",
    "Question: What is the capital of {c}?\nAnswer:| {k}|\n",
    "{c} is a country in {o}. Its capital is| {k}|.",
    "The capital city of {c} is| {k}|.",
    "Q: What is the capital of {c}?\nA:| {k}|\n",
    "Country: {c}\nCapital:| {k}|\n",
    '"What is the capital of {c}?" asked the teacher. "It is| {k}|," said the child.',
    "What is the capital of {c}? The capital of {c} is| {k}|.",
    "{k} is the capital of| {c}|.",
    "Question: Which country has the capital {k}?\nAnswer:| {c}|\n",
    "{c}:| {k}|\n",
)
_ABOUT_COUNTRY = (
    "{c} is a country in| {o}|.",
    "In {c}, people speak| {l}|.",
    "{c} is known for| {f}|.",
    "The language of {c} is| {l}|.",
    "Question: On which continent is {c}?\nAnswer:| {o}|\n",
    "Question: Which language do people speak in {c}?\nAnswer:| {l}|\n",
    "Many people in {c} speak| {l}|.",
    "{k} is a city in| {c}|.",
    "If you travel to {o}, you can visit {c}, which is known for| {f}|.",
)
_ABOUT_ANIMAL = (
    "{p} are| {ks}|.",
    "A {n} is| a {k}|.",
    "{p} live| {h}|.",
    "{p} eat| {e}|.",
    "{p}| {d}|.",
    "A {n} has| {l}| legs.",
    "A young {n} is called| a {y}|.",
    "Question: How many legs does a {n} have?\nAnswer:| {L}|\n",
    "Question: What do {p} eat?\nAnswer:| {E}|\n",
    "Question: Where do {p} live?\nAnswer:| {H}|\n",
    "Question: What is a {n}?\nAnswer:| A {k}|\n",
)


def facts(rng: Random) -> Document:
    """One of: a capital, a quiz, a country or an animal described, opposites and orders, sayings."""
    return pick(rng, (_capitals, _country, _animal, _quiz, _small_facts, _travel))(rng)


def _country_slots(country: Country) -> dict[str, str]:
    return dict(zip("ckolf", country, strict=True))


def _animal_slots(animal: Animal) -> dict[str, str]:
    name, plural, kind, legs, home, food, does, young = animal
    kinds = kind if kind == "fish" else f"{kind}s"
    return {
        "n": name, "p": plural, "k": kind, "ks": kinds, "l": legs, "h": home, "e": food, "d": does, "y": young,
        "L": legs.capitalize(), "E": food.capitalize(), "H": home.capitalize(),
    }  # fmt: skip


def _fill(template: str, slots: dict[str, str]) -> Document:
    """The template's parts; what stands between bars is the answer."""
    whole = with_capitals(with_articles(template.format(**slots)))
    return [(part, ANSWER if index % 2 else 1) for index, part in enumerate(whole.split("|"))]


def _capitals(rng: Random) -> Document:
    if rng.random() < 0.4:
        return _fill(pick(rng, _CAPITAL), _country_slots(rng.choice(COUNTRIES)))
    template = pick(rng, _CAPITAL)
    return _joined([_fill(template, _country_slots(country)) for country in rng.sample(COUNTRIES, rng.randint(2, 8))])


def _country(rng: Random) -> Document:
    slots = _country_slots(rng.choice(COUNTRIES))
    templates = [_CAPITAL[rng.choice((0, 2, 3))], *rng.sample(_ABOUT_COUNTRY, rng.randint(2, 4))]
    rng.shuffle(templates)
    return _joined([_fill(template, slots) for template in templates])


def _animal(rng: Random) -> Document:
    slots = _animal_slots(rng.choice(ANIMALS))
    return _joined([_fill(template, slots) for template in rng.sample(_ABOUT_ANIMAL[:7], rng.randint(2, 5))])


def _quiz(rng: Random) -> Document:
    """Questions and answers on mixed matters, all in one of two layouts."""
    questions: list[Document] = []
    for _ in range(rng.randint(2, 6)):
        if rng.random() < 0.6:
            templates = [t for t in (*_CAPITAL, *_ABOUT_COUNTRY) if t.startswith("Question:")]
            questions.append(_fill(rng.choice(templates), _country_slots(rng.choice(COUNTRIES))))
        else:
            questions.append(_fill(rng.choice(_ABOUT_ANIMAL[7:]), _animal_slots(rng.choice(ANIMALS))))
    if rng.random() < 0.3:
        for question in questions:
            question[0] = (question[0][0].replace("Question:", "Q:").replace("Answer:", "A:"), 1)
    return _joined(questions)


def _small_facts(rng: Random) -> Document:
    parts: list[Document] = []
    for _ in range(rng.randint(1, 5)):
        draw = rng.random()
        if draw < 0.3:
            left, right = rng.sample(pick(rng, OPPOSITES), 2)
            template = pick(
                rng, ("The opposite of {a} is| {b}|.", "{a} is the opposite of| {b}|.", "Not {a}, but| {b}|.")
            )
        elif draw < 0.45:
            left, right = pick(rng, COLOURS_OF)
            template = pick(rng, ("The colour of {a} is| {b}|.", "{a} is| {b}|."))
        elif draw < 0.6:
            left, right = pick(rng, WORK_OF)
            template = pick(rng, ("A {a}| {b}|.", "The work of a {a}: a {a}| {b}|."))
        elif draw < 0.75:
            noun, order = pick(rng, ORDERS)
            index = rng.randrange(len(order) - 1)
            left, right = order[index], order[index + 1]
            template = pick(
                rng, (f"The {noun} after {{a}} is| {{b}}|.", "After {a} comes| {b}|.", "{a} comes before| {b}|.")
            )
        else:
            parts.append([(pick(rng, SAYINGS), 1)])
            continue
        parts.append(_fill(template, {"a": left, "b": right}))
    return _joined(parts)


def _travel(rng: Random) -> Document:
    country = rng.choice(COUNTRIES)
    who = pick(rng, ("My friend", "My uncle", "My sister", "A sailor", "Our teacher", "The doctor"))
    template = pick(
        rng,
        (
            "{who} lives in {k}, the capital of| {c}|. There people speak| {l}|.",
            "{who} went to {c} by train. First {who2} saw the capital,| {k}|.",
            "{who} comes from {c} and speaks| {l}|.",
            "{who} sent me a card from {c}. On it you can see| {k}|, the capital.",
        ),
    )
    return _fill(template, {**_country_slots(country), "who": who, "who2": who[0].lower() + who[1:]})


def _joined(parts: list[Document]) -> Document:
    joined: Document = []
    for part in parts:
        if joined and not joined[-1][0].endswith("\n"):
            joined.append((" ", 1))
        joined += part
    return joined
