"""Test material for the second notebook: sentences to sort, reviews, people to ask about, all made by rule.

Everything is drawn from a seed with the generators that wrote the embedded model's training data, but with what they
keep out of it: names, towns and labels are invented words that no training document has. Sentence frames (the sentence
without the words that vary) are ones that no document has where a function says "new frames". So a right answer was
worked out from the prompt, not remembered. To other models the texts are simply new.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

_ROOT = str(Path(__file__).resolve().parents[1])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)  # the folder that holds `shared`

from shared.pretraining.language.atlas import COUNTRIES  # noqa: E402
from shared.pretraining.language.classification import TOPICS  # noqa: E402
from shared.pretraining.language.frames import load, split  # noqa: E402
from shared.pretraining.language.lexicon import LEXICON  # noqa: E402
from shared.pretraining.language.opinions import review  # noqa: E402
from shared.pretraining.language.reading import RELATIONS, Fact, distinct, facts_on_people, told  # noqa: E402
from shared.pretraining.language.templates import render  # noqa: E402
from shared.pretraining.language.words import invented_name, invented_word  # noqa: E402

MOST_SHOTS = 8
POSITIVE, NEGATIVE = "positive", "negative"
_GOOD, _BAD = 0, 1
_FRAMES_FOR_ANY_TOPIC = split(load("topics")["any"][0])[1]
_THINGS = ("soup", "hotel", "film", "bread", "train", "garden", "concert", "lamp", "chair", "museum", "cake", "bag")


@dataclass(frozen=True)
class Sorting:
    """A text that is to get one of two labels, and labelled examples: one of each class, then the next pair, and so on.

    `outside` is a text that belongs to neither class.
    """

    examples: tuple[tuple[str, str], ...]
    text: str
    answer: str
    outside: str = ""

    def shots(self, k: int) -> Sorting:
        """The same task with the first `k` examples of each class."""
        return replace(self, examples=self.examples[: 2 * k])

    def renamed(self, names: dict[str, str]) -> Sorting:
        """The same task with other labels: `names` maps each old one to the new."""
        examples = tuple((text, names[label]) for text, label in self.examples)
        return replace(self, examples=examples, answer=names[self.answer])

    @property
    def labels(self) -> tuple[str, str]:
        """The two labels, in the order in which the examples first show them."""
        first, second = dict.fromkeys(label for _, label in self.examples)
        return first, second


def topic_tasks(count: int, seed: int = 1) -> list[Sorting]:
    """Sentences on two topics in new frames, labelled by invented words. No word of a topic comes twice in a task."""
    rng = Random(f"topics/{seed}")
    topics = [topic for topic in TOPICS.values() if len(topic.words) > MOST_SHOTS]
    tasks = []
    for _ in range(count):
        *pair, third = rng.sample(topics, 3)
        texts = [_on_topic(rng, topic, MOST_SHOTS + 1) for topic in pair]
        labels = distinct(lambda: invented_word(rng, held_out=True), 2)
        tasks.append(_sorting(rng, texts, labels, _on_topic(rng, third, 1)[0]))
    return tasks


def review_tasks(count: int, seed: int = 1, *, new_frames: bool = True, new_words: bool = False) -> list[Sorting]:
    """Reviews labelled positive or negative; the opinion lies in an adjective.

    `new_words`: in adjectives that no labelled review of the training has (only other texts there do).
    """
    rng = Random(f"reviews/{seed}")
    options = {"held_out_frames": new_frames, "held_out_words": new_words, "by_word": True}
    tasks = []
    for _ in range(count):
        texts = [
            distinct(lambda which=which: review(rng, which, **options), MOST_SHOTS + 1) for which in (_GOOD, _BAD)
        ]
        tasks.append(_sorting(rng, texts, [POSITIVE, NEGATIVE], ""))
    return tasks


@dataclass(frozen=True)
class Reading:
    """A question on an invented person, and three contexts: one holds the answer, two do not.

    `about_others` says nothing of the person; `on_other_matters` says something, but not what is asked.
    """

    question: str
    answer: str
    context: str
    about_others: str
    on_other_matters: str


def reading_tasks(count: int, seed: int = 1, *, new_frames: bool = True) -> list[Reading]:
    """Questions on one of three people; `new_frames`: of the sentences and of the questions."""
    rng = Random(f"reading/{seed}")
    tasks: list[Reading] = []
    while len(tasks) < count:
        facts = facts_on_people(rng, 3, 2, held_out_words=True, held_out_frames=new_frames)
        asked = rng.choice(facts)
        about_others = [fact for fact in facts if fact.person != asked.person]
        rest = [fact for fact in facts if fact is not asked]
        if about_others and any(fact.person == asked.person for fact in rest):
            contexts = [told(rng, chosen) for chosen in (facts, about_others, rest)]
            tasks.append(Reading(asked.question(rng, held_out=new_frames), asked.value, *contexts))
    return tasks


@dataclass(frozen=True)
class Card:
    """A text on one person and what is to be found in it."""

    text: str
    fields: dict[str, str]


def card_tasks(count: int, seed: int = 1, *, new_frames: bool = False) -> list[Card]:
    """Texts that give a person's name, town and job."""
    rng = Random(f"cards/{seed}")
    cards = []
    for _ in range(count):
        name = invented_name(rng, held_out=True)
        facts = []
        for relation in (RELATIONS["town"], RELATIONS["job"]):
            value = relation.answer(rng, held_out=True)
            frames = relation.held_out_statements if new_frames else relation.statements
            text = render(rng.choice(frames), rng, {"n": name, "a": value}, LEXICON)
            facts.append(Fact(name, relation, value, text))
        town, job = (fact.value for fact in facts)
        rng.shuffle(facts)
        fields = {"name": name, "town": town, "job": job.removeprefix("a ").removeprefix("an ")}
        cards.append(Card(told(rng, facts), fields))
    return cards


@dataclass(frozen=True)
class Customer:
    """A customer's review, what it is about, and its sentiment."""

    review: str
    topic: str
    sentiment: str


def customer_reviews(count: int, seed: int = 1) -> list[Customer]:
    """Half praise, half blame, in new frames."""
    rng = Random(f"customers/{seed}")
    found = []
    for number in range(count):
        thing = rng.choice(_THINGS)
        text = review(rng, number % 2, held_out_frames=True, by_word=True, thing=thing)
        found.append(Customer(text, thing, (POSITIVE, NEGATIVE)[number % 2]))
    return found


def known_countries() -> list[tuple[str, str]]:
    """(country, capital) of the countries that the embedded model was taught; real ones, so others know them too."""
    return [(country.name, country.capital) for country in COUNTRIES]


def invented_countries(count: int, seed: int = 1) -> list[str]:
    """Names of countries that do not exist."""
    rng = Random(f"countries/{seed}")
    return distinct(lambda: invented_name(rng, held_out=True), count)


def _on_topic(rng: Random, topic, count: int) -> list[str]:
    """Sentences on one topic, each with another of its words, in held-out frames."""
    texts = []
    for word in rng.sample(topic.words, count):
        frame = rng.choice(topic.held_out_frames if rng.random() < 0.5 else _FRAMES_FOR_ANY_TOPIC)
        texts.append(render(frame, rng, {"w": word}, LEXICON))
    return texts


def _sorting(rng: Random, texts: list[list[str]], labels: list[str], outside: str) -> Sorting:
    """The last text of one of the classes is the one asked for; the others are examples, in pairs of chance order."""
    examples = []
    for pair in zip(*(of_class[:-1] for of_class in texts), strict=True):
        order = rng.sample((0, 1), 2)
        examples += [(pair[which], labels[which]) for which in order]
    asked = rng.randrange(2)
    return Sorting(tuple(examples), texts[asked][-1], labels[asked], outside)
