"""Documents whose answer stands in the prompt: reviews, questions on a context, classification by examples."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from shared.pretraining.language.document import ANSWER, Document
from shared.pretraining.language.lexicon import LEXICON, in_place
from shared.pretraining.language.templates import pick, render, with_articles

_GOOD = "good great wonderful lovely excellent fine beautiful funny exciting perfect nice delicious charming".split()
_BAD = "bad terrible boring awful poor dull ugly horrible sad weak slow disappointing cheap annoying".split()
_SUBJECTS = "film book hotel song meal phone soup story game play coffee room show train concert garden".split()
_PRAISE = (
    "The {x} was {g}.",
    "I loved this {x}.",
    "What a {g} {x}!",
    "This {x} is {g} and {g2}.",
    "A {g} {x}. I was happy all day.",
    "I would [buy|choose|try] this {x} again.",
    "We liked the {x} very much.",
    "The {x} was {g}, and everyone smiled.",
    "My friends and I thought that the {x} was {g}.",
    "It was the best {x} of the year.",
    "This {x} made me smile.",
)
_BLAME = (
    "The {x} was {b}.",
    "I hated this {x}.",
    "What a {b} {x}!",
    "This {x} is {b} and {b2}.",
    "A {b} {x}. I was sad all day.",
    "I would never [buy|choose|try] this {x} again.",
    "We did not like the {x} at all.",
    "The {x} was {b}, and everyone left.",
    "My friends and I thought that the {x} was {b}.",
    "It was the worst {x} of the year.",
    "This {x} made me angry.",
)
_NEUTRAL = (
    "The {x} was neither good nor bad.",
    "It was a {x} like any other.",
    "The {x} was all right.",
    "I have seen better and worse.",
)

# {t} text; the label follows. The last has its own labels.
_REVIEW_LAYOUTS = (
    "Review: {t}\nSentiment:",
    'Review: "{t}"\nSentiment:',
    "Text: {t}\nLabel:",
    "{t} ->",
    "Input: {t}\nOutput:",
    "{t}\nAnswer:",
    'Review: "{t}"\nThis review is',
)
_LABELS = (
    ("positive", "negative", "neutral"),
    ("Positive", "Negative", "Neutral"),
    ("good", "bad", "mixed"),
    ("happy", "sad", "neither"),
)

_SYLLABLES = [
    c + v + e
    for c in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "tr", "bl", "sk")
    for v in "aeiou"
    for e in ("", "l", "n", "r", "s", "x")
]


def invented_word(rng: Random) -> str:
    """A pronounceable word that is in no dictionary, of two or three syllables."""
    return "".join(rng.choices(_SYLLABLES, k=rng.choice((2, 2, 3))))


def tasks(rng: Random) -> Document:
    """One of: reviews with their sentiment, a question on a context, classification by examples with free labels."""
    return pick(rng, (context_questions, reviews, classification, context_questions, recall))(rng)


def reviews(rng: Random) -> Document:
    """One to eight reviews in one layout, each followed by its label."""
    layout = pick(rng, _REVIEW_LAYOUTS)
    labels = pick(rng, _LABELS)
    end = "\n\n" if "\n" in layout else "\n"
    document: Document = []
    for _ in range(rng.choice((1, 1, 2, 3, 4, 6, 8))):
        sentiment = rng.choices((0, 1, 2), (45, 45, 10))[0]
        document += [(layout.format(t=review(rng, sentiment)), 1), (f" {labels[sentiment]}", ANSWER), (end, 1)]
    return document


def review(rng: Random, sentiment: int) -> str:
    """One or two sentences of praise (0), blame (1) or neither (2)."""
    good, bad = rng.sample(_GOOD, 2), rng.sample(_BAD, 2)
    slots = {"x": rng.choice(_SUBJECTS), "g": good[0], "g2": good[1], "b": bad[0], "b2": bad[1]}
    frames = (_PRAISE, _BLAME, _NEUTRAL)[sentiment]
    return " ".join(render(frame, rng, slots, {}) for frame in rng.sample(frames, rng.choice((1, 1, 2))))


def classification(rng: Random) -> Document:
    """Two to twelve examples of two or three classes; the labels are drawn anew for each document."""
    topics = rng.sample(list(TOPICS), rng.choice((2, 2, 3)))
    known = (*LEXICON["colour"], *LEXICON["thing"], *LEXICON["animal"], "A", "B", "X", "Y", "yes", "no", "one", "two")
    labels: list[str] = []
    while len(labels) < len(topics):
        label = invented_word(rng) if rng.random() < 0.5 else rng.choice(known)
        if label not in labels:
            labels.append(label)
    layout = pick(
        rng, ("{t} ->", "Text: {t}\nLabel:", "Input: {t}\nOutput:", "{t}\nAnswer:", "Sentence: {t}\nClass:", "{t} =")
    )
    end = "\n\n" if "\n" in layout and rng.random() < 0.5 else "\n"
    document: Document = []
    seen: set[int] = set()
    for _ in range(rng.randint(4, 12)):
        topic = rng.randrange(len(topics))
        text = TOPICS[topics[topic]](rng)
        # A class's first example cannot be known: it is there to be read, not to be guessed.
        document += [(layout.format(t=text), 1), (f" {labels[topic]}", ANSWER if topic in seen else 0), (end, 1)]
        seen.add(topic)
    return document


def _sentence(*frames: str) -> Callable[[Random], str]:
    def draw(rng: Random) -> str:
        return render(pick(rng, frames), rng, {}, LEXICON)

    return draw


# What a class may be about, each with sentences of its own.
TOPICS: dict[str, Callable[[Random], str]] = {
    "praise": lambda rng: review(rng, 0),
    "blame": lambda rng: review(rng, 1),
    "food": _sentence(
        "I ate some <food>.", "I bought <food> and <food>.", "We cooked a <dish>.", "Please pass the <food>."
    ),
    "weather": _sentence("<weather>.", "Yesterday <weather>.", "In <month> <weather>.", "On <weekday> <weather>."),
    "animals": _sentence(
        "The <pet> sleeps.", "I saw a <colour> <pet>.", "A <bird> sat in the tree.", "My <animal> is hungry."
    ),
    "travel": _sentence(
        "We went by <vehicle>.",
        "The <vehicle> was late.",
        "They travelled <path>.",
        "I bought a ticket for the <vehicle>.",
    ),
    "work": _sentence("The <job> is busy.", "She works as a <job>.", "He wants to be a <job>.", "Ask the <job>."),
    "home": _sentence(
        "The <furniture> is in the <room>.",
        "I cleaned the <room>.",
        "We need a new <furniture>.",
        "The <room> is cold.",
    ),
    "time": _sentence(
        "It was on a <weekday>.", "See you in <month>.", "I am free on <weekday>.", "It happened last <season>."
    ),
    "feelings": _sentence("I am so <mood>.", "He was <mood> yesterday.", "She felt <mood>.", "We are all <mood>."),
}


def _name(rng: Random) -> str:
    return invented_word(rng).capitalize() if rng.random() < 0.25 else rng.choice((*LEXICON["girl"], *LEXICON["boy"]))


def _one_of(list_name: str, before: str = "") -> Callable[[Random], str]:
    return lambda rng: with_articles(f"{before} {rng.choice(LEXICON[list_name])}".strip())


def _place(rng: Random) -> str:
    return invented_word(rng).capitalize()


STATEMENTS: tuple[tuple[str, tuple[str, ...], Callable[[Random], str]], ...] = (
    ("{n} lives in {a}.", ("Where does {n} live?",), _place),
    ("{n} comes from {a}.", ("Where does {n} come from?", "Which town does {n} come from?"), _place),
    ("{n} is {a}.", ("Where is {n}?",), lambda rng: in_place(rng.choice(LEXICON["spot"]))),
    ("{n} has {a}.", ("What does {n} have?",), _one_of("thing", "a")),
    ("{n} likes {a}.", ("What does {n} like?",), _one_of("food")),
    ("{n} is {a}.", ("What is the job of {n}?", "Who is {n}?"), _one_of("job", "a")),
    ("The favourite colour of {n} is {a}.", ("What is the favourite colour of {n}?",), _one_of("colour")),
    ("{n} arrived on {a}.", ("When did {n} arrive?", "On which day did {n} arrive?"), _one_of("weekday")),
    ("{n} was born in {a}.", ("In which month was {n} born?", "When was {n} born?"), _one_of("month")),
    ("{n} went to {a}.", ("Where did {n} go?",), _one_of("spot")),
    ("{n} found {a}.", ("What did {n} find?",), _one_of("treasure", "a")),
    ("The {r} is {a}.", ("Where is the {r}?",), _one_of("room", "in the")),
    ("The pet of {n} is {a}.", ("What is the pet of {n}?", "Which animal does {n} have?"), _one_of("pet", "a")),
    ("The {r} of {n} is {a}.", ("What colour is the {r} of {n}?",), _one_of("colour")),
)
_QUESTION_LAYOUTS = (
    ("Context: {c}\n", "Question: {q}\nAnswer:", "\n"),
    ("{c}\n", "Question: {q}\nAnswer:", "\n"),
    ("Text: {c}\n", "Q: {q}\nA:", "\n"),
    ("{c} ", "{q}", " "),
    ("Read this: {c}\n\n", "{q}\nAnswer:", "\n"),
)


def context_questions(rng: Random) -> Document:
    """Two to six statements about different people and things, and one to three questions on them."""
    facts: list[tuple[str, str, str]] = []
    used: set[str] = set()
    names: list[str] = []
    while len(names) < 4:
        name = _name(rng)
        if name not in names:
            names.append(name)
    for statement, questions, answers in rng.sample(STATEMENTS, rng.randint(2, 5)) * rng.choice((1, 1, 2)):
        slots = {"n": rng.choice(names), "r": rng.choice(LEXICON["thing"]), "a": answers(rng)}
        question = rng.choice(questions).format(**slots)
        # One owner or place for each thing asked about: otherwise the question had two answers.
        if question in used or statement.format(**{**slots, "a": ""}) in used:
            continue
        used |= {question, statement.format(**{**slots, "a": ""})}
        facts.append((render(statement, rng, slots, LEXICON), question, slots["a"]))
    layout = pick(rng, _QUESTION_LAYOUTS)
    rng.shuffle(facts)
    document: Document = [(layout[0].format(c=" ".join(fact for fact, _, _ in facts)), 1)]
    for _, question, answer in rng.sample(facts, min(len(facts), rng.choice((1, 1, 2, 3)))):
        shown = f"{answer[0].upper()}{answer[1:]}." if layout[1] == "{q}" else answer
        document += [(layout[1].format(q=question), 1), (f" {shown}", ANSWER), (layout[2], 1)]
    return document


def recall(rng: Random) -> Document:
    """A list of keys with values, then some of the keys again: the value is to be found in the list."""
    count = rng.randint(3, 8)
    keys: list[str] = []
    while len(keys) < count:
        key = _name(rng) if rng.random() < 0.7 else rng.choice(LEXICON["thing"])
        if key not in keys:
            keys.append(key)
    column = rng.choice(("colour", "food", "job", "weekday", "number", "pet"))
    values = [invented_word(rng) if rng.random() < 0.2 else rng.choice(LEXICON[column]) for _ in keys]
    pattern = pick(rng, ("{k}:", "{k} ->", "{k} =", "{k}:"))
    document: Document = []
    for key, value in zip(keys, values, strict=True):
        document.append((f"{pattern.format(k=key)} {value}\n", 1))
    document.append(("\n", 1))
    for index in rng.sample(range(count), rng.randint(1, count)):
        document += [(pattern.format(k=keys[index]), 1), (f" {values[index]}", ANSWER), ("\n", 1)]
    return document
