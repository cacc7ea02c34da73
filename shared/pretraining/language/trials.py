"""Questions with known answers, in words, names, labels and sentence frames that the training data never has."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from shared.pretraining.language.atlas import COUNTRIES
from shared.pretraining.language.classification import TOPICS
from shared.pretraining.language.layouts import USUAL, Layout, drawn_layout
from shared.pretraining.language.opinions import review
from shared.pretraining.language.reading import NOT_GIVEN, facts_on_people, told
from shared.pretraining.language.words import invented_word

ARROW, FIELDS = USUAL[0], USUAL[1]
THIS_REVIEW_IS = Layout('Review: "{t}"\nThis review is', "\n\n")
SENTIMENT = Layout("Review: {t}\nSentiment:", "\n\n")
_NATURAL = ("positive", "negative")


@dataclass(frozen=True)
class Trial:
    """A prompt and the answer that counts as right."""

    prompt: str
    answer: str


def few_shot(
    count: int, k: int, *, layout: Layout | None = ARROW, held_out_words: bool = False, seed: int = 1
) -> list[Trial]:
    """Sentences of two topics in held-out frames with held-out labels; `k` examples of each, then the one asked for.

    `layout` None: a layout of held-out parts, drawn for each trial. `held_out_words`: the topics' words are such as no
    training document classifies.
    """
    rng = Random(f"few shot/{seed}")
    found = []
    for _ in range(count):
        form = layout or drawn_layout(rng, held_out=True)
        topics = rng.sample(list(TOPICS.values()), 2)
        labels = [invented_word(rng, held_out=True), invented_word(rng, held_out=True)]

        def text(which, topics=topics):
            return topics[which].text(rng, held_out_frames=True, held_out_words=held_out_words)

        found.append(_shots(rng, k, form, text, labels))
    return found


def flipped(count: int, k: int, *, layout: Layout = THIS_REVIEW_IS, seed: int = 2) -> list[Trial]:
    """Reviews in held-out frames; praise is labelled negative, blame positive, in the `k` examples of each class."""
    rng = Random(f"flipped/{seed}")
    labels = list(reversed(_NATURAL))
    return [
        _shots(rng, k, layout, lambda which: review(rng, which, held_out_frames=True), labels) for _ in range(count)
    ]


def sentiment(
    count: int, *, layout: Layout = THIS_REVIEW_IS, held_out_words: bool = True, seed: int = 3
) -> list[Trial]:
    """Reviews without examples whose sentiment lies in adjectives that no labelled review of the training has."""
    rng = Random(f"sentiment/{seed}")
    options = {"held_out_words": held_out_words, "held_out_frames": True, "by_word": True}
    return [Trial(layout.query(review(rng, number % 2, **options)), _NATURAL[number % 2]) for number in range(count)]


def context(
    count: int, *, given: bool = True, held_out_frames: bool = True, decline: bool = False, seed: int = 4
) -> list[Trial]:
    """A question on one of three invented people, told of in a context, or (`given` false) without it.

    `decline`: the question is on somebody of whom the context says nothing, and the prompt says what to answer then.
    """
    rng = Random(f"context/{seed}")
    found = []
    while len(found) < count:
        facts = facts_on_people(rng, 3, 2, held_out_words=True, held_out_frames=held_out_frames)
        fact = rng.choice(facts)
        question = f"Question: {fact.question(rng, held_out=held_out_frames)}\nAnswer:"
        answer = fact.value
        rest = facts
        if decline:
            rest = [other for other in facts if other.person != fact.person]
            answer = NOT_GIVEN
        if not rest:
            continue
        before = 'Answer from the context. If it does not say, answer "not given".\n' if decline else ""
        found.append(Trial(f"{before}Context: {told(rng, rest)}\n{question}" if given else question, answer))
    return found


def capitals() -> list[Trial]:
    """The capital of each country of the atlas, as a sentence and as questions."""
    layouts = (
        "The capital of {c} is",
        "Question: What is the capital of {c}?\nAnswer:",
        "Q: What is the capital of {c}?\nA:",
        "The capital city of {c} is",
        "Country: {c}\nCapital:",
    )
    return [Trial(form.format(c=country.name), country.capital) for form in layouts for country in COUNTRIES]


def _shots(rng: Random, k: int, layout: Layout, text, labels: list[str]) -> Trial:
    shots = [0, 1] * k
    rng.shuffle(shots)
    examples = "".join(piece for shot in shots for piece, _ in layout.example(text(shot), labels[shot], 1))
    asked = rng.randrange(2)
    return Trial(examples + layout.query(text(asked)), labels[asked])
