"""Reviews with praise and blame, talk in the same words without labels, and the answer of whoever was reviewed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shared.pretraining.language.document import ANSWER, Document
from shared.pretraining.language.frames import Group, listed, load, split
from shared.pretraining.language.layouts import Layout, drawn_layout
from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.templates import pick, render

PRAISE, BLAME, MIDDLING = range(3)

_FILE = {name: groups[0] for name, groups in load("opinions").items()}
_THINGS = listed(_FILE["things"])
# Of each sentiment: words for training, held-out words.
WORDS: tuple[tuple[Group, Group], ...] = tuple(split(listed(_FILE[name])) for name in ("good", "bad", "middling"))
_LETTERS = "gbn"
_BEFORE, _AFTER = _FILE["before any"], _FILE["after any"]


def _frames(sentiment: int, name: str) -> tuple[Group, Group]:
    own, held_out = split(_FILE[f"{name} frames"])
    shared = tuple(frame.replace("{w", "{" + _LETTERS[sentiment]) for frame in _FILE["frames for any sentiment"])
    return shared + own, held_out


_FRAMES = tuple(_frames(*entry) for entry in enumerate(("praise", "blame", "middling")))
_TALK = tuple(_FILE[f"talk of {name} things"] for name in ("good", "bad"))
_REPLIES = tuple(_FILE[f"{name} replies"] for name in ("glad", "sorry"))

NATURAL_LABELS = (
    ("positive", "negative", "neutral"),
    ("Positive", "Negative", "Neutral"),
    ("good", "bad", "mixed"),
    ("happy", "unhappy", "neither"),
)
_POSITIVE, _CAPITALS, _GOOD, _ = NATURAL_LABELS
# A usual layout has labels of its own, so that without an example one answer is the likeliest.
_NATURAL_LAYOUTS = (
    (Layout('Review: "{t}"\nThis review is', "\n\n"), _POSITIVE),
    (Layout("Review: {t}\nSentiment:", "\n\n"), _POSITIVE),
    (Layout('Review: "{t}"\nSentiment:', "\n\n"), _POSITIVE),
    (Layout("{t} ->", "\n"), _POSITIVE),
    (Layout("Review: {t}\nSentiment:", "\n"), _POSITIVE),
    (Layout("Text: {t}\nSentiment:", "\n\n"), _POSITIVE),
    (Layout("Text: {t}\nLabel:", "\n"), _CAPITALS),
    (Layout("Comment: {t}\nOpinion:", "\n"), _GOOD),
)


def review(
    rng: Random,
    sentiment: int,
    *,
    held_out_words: bool = False,
    held_out_frames: bool = False,
    by_word: bool = False,
    thing: str | None = None,
    wear: Callable[..., str] | None = None,
) -> str:
    """One or two sentences of praise, blame or neither about one thing.

    `by_word`: the sentiment lies in an adjective, not in the frame ("I hated this ...").
    """
    frames = _FRAMES[sentiment][held_out_frames]
    slot = "{" + _LETTERS[sentiment]
    if by_word:
        frames = tuple(frame for frame in frames if slot in frame)
    words = rng.sample(WORDS[sentiment][held_out_words], 2)
    slots = {"x": thing or rng.choice(_THINGS), slot[1]: words[0], f"{slot[1]}2": words[1]}
    count = 1 if by_word else rng.choice((1, 1, 1, 2))
    chosen = rng.sample(frames, min(count, len(frames)))
    if wear:
        chosen = [wear(rng, frame) if slot in frame else frame for frame in chosen]
    elif not held_out_frames:
        chosen = [_with_asides(rng, frame) for frame in chosen]
    return " ".join(render(frame, rng, slots, LEXICON) for frame in chosen)


def _with_asides(rng: Random, frame: str) -> str:
    """Now and then with words around it that say nothing of the sentiment."""
    if rng.random() < 0.15 and frame.endswith("."):
        frame = f"{frame[:-1]}{rng.choice(_AFTER)}."
    if rng.random() < 0.25:
        keep = frame.startswith(("I ", "{", "[", "<"))
        frame = f"{rng.choice(_BEFORE)} {frame if keep else frame[0].lower() + frame[1:]}"
    return frame


def reviews(rng: Random, wear: Callable[..., str] | None = None) -> Document:
    """One to six reviews in one layout, each followed by its natural label; `wear` exchanges words of the sentences."""
    layout, labels = pick(rng, _NATURAL_LAYOUTS)
    if rng.random() < 0.2:
        layout, labels = drawn_layout(rng), pick(rng, NATURAL_LABELS)
    classes = (3, (45, 45, 10)) if rng.random() < 0.4 else (2, (50, 50))
    document: Document = []
    for _ in range(rng.choice((1, 1, 2, 3, 4, 6))):
        sentiment = rng.choices(range(classes[0]), classes[1])[0]
        document += layout.example(review(rng, sentiment, wear=wear), labels[sentiment], ANSWER)
    return document


def talk(rng: Random, *, late: bool = False) -> Document:
    """A few unlabelled sentences in which words of one sentiment stand together, the held-out ones among them.

    `late`: with as many of the held-out words as of the others.
    """
    sentiment = rng.randrange(2)
    usual, held_out = WORDS[sentiment]
    words = [*(rng.sample(usual, len(held_out)) if late else usual), *held_out]
    parts = []
    for frame in rng.sample(_TALK[sentiment], rng.choice((1, 2, 2, 3))):
        letter = "gb"[sentiment]
        slots = {letter + number: word for number, word in zip(("", "2", "3"), rng.sample(words, 3), strict=True)}
        parts.append(render(frame, rng, {"x": rng.choice(_THINGS), **slots}, LEXICON))
    return [(" ".join(parts), 1)]


def replies(rng: Random) -> Document:
    """What a business does with a review: its sentiment, its topic, the reply; in all or some of these steps."""
    document: Document = []
    for _ in range(rng.choice((1, 1, 2))):
        sentiment, thing = rng.randrange(2), rng.choice(_THINGS)
        text = review(rng, sentiment, thing=thing)
        steps = [
            ("Sentiment:", NATURAL_LABELS[0][sentiment]),
            ("Topic:", thing),
            ("Reply:", render(pick(rng, _REPLIES[sentiment]), rng, {"x": thing}, LEXICON)),
        ]
        form = rng.choices(("all", "some", "no review"), (30, 45, 25))[0]
        if form == "no review":
            steps = rng.sample(steps[:2], 2) + steps[2:]
            document += [(f"{steps[0][0]} {steps[0][1]}\n{steps[1][0]} {steps[1][1]}\n", 1)]
            steps = steps[2:]
        else:
            document += [(f'Review: "{text}"\n' if rng.random() < 0.6 else f"Review: {text}\n", 1)]
            if form == "some":
                steps = [step for step in steps if rng.random() < 0.5] or steps[:1]
        for field, value in steps:
            document += [(field, 1), (f" {value}", ANSWER), ("\n", 1)]
        document.append(("\n", 1))
    return document
