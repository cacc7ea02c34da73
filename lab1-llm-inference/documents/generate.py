"""Write the documents and the questions on them: `python documents/generate.py`. The same seed, the same files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from matters import ANSWERS, FEAST, FEASTS, MEN, RESIDENT, SHOP, SHOPS, WOMEN, Matter

FOLDER = Path(__file__).parent
SEED = 3
FACTS_PER_RESIDENT = (2, 3, 3)
ANSWERED = {"same words": 130, "other words": 130, "misspelt": 130}
UNANSWERABLE = 100
_ALIKE = ("home", "childhood")  # who was told one might be said to know the other
CHOOSING = 30  # of each answered kind: to choose settings with; the rest is to measure with


@dataclass(frozen=True)
class Fact:
    """One sentence of a document, at the characters `start` to `end` of `file`, and what it tells."""

    about: str
    matter: Matter
    answer: str
    statement: int
    file: str
    start: int
    end: int


def answers(rng: Random, kind: str, about: str) -> str:
    """A value of this kind; a person is never a friend of himself."""
    if kind == "resident":
        return rng.choice([name for name in (*WOMEN, *MEN) if name != about])
    return rng.choice(ANSWERS[kind])


def entry(rng: Random, about: str, matters: list[Matter], file: str, start: int) -> tuple[str, list[Fact]]:
    """A paragraph on one resident, shop or feast that begins at character `start` of `file`: text and facts."""
    subject, owner = ("She", "Her") if about in WOMEN else ("He", "His") if about in MEN else ("It", "Its")
    text, facts = "", []
    for number, matter in enumerate(matters):
        statement = rng.randrange(len(matter.statements))
        answer = answers(rng, matter.kind, about)
        named = number == 0 or rng.random() < 0.5
        n, p = (about, f"{about}'s") if named else (subject, owner)
        frame = matter.statements[statement][0]
        sentence = frame.format(n=n, p=p, a=answer)
        sentence = sentence[0].upper() + sentence[1:]
        begin = start + len(text) + (1 if text else 0)
        facts.append(Fact(about, matter, answer, statement, file, begin, begin + len(sentence)))
        text += (" " if text else "") + sentence
    return text, facts


def documents(rng: Random) -> tuple[dict[str, str], list[Fact]]:
    """Every file's text, and all facts in the order in which they stand there."""
    residents = sorted((*WOMEN, *MEN))
    groups = {
        f"residents-{part[0][0]}-{part[-1][0]}.txt".lower(): [(name, RESIDENT) for name in part]
        for part in (residents[first : first + 16] for first in range(0, len(residents), 16))
    }
    groups["shops.txt"] = [(name, SHOP) for name in SHOPS]
    groups["feasts.txt"] = [(name, FEAST) for name in FEASTS]
    texts, facts = {}, []
    for file, members in groups.items():
        text = ""
        for about, known in members:
            count = rng.choice(FACTS_PER_RESIDENT) if known is RESIDENT else 3
            matters = rng.sample(known, count)
            paragraph, found = entry(rng, about, matters, file, len(text))
            text += paragraph + "\n\n"
            facts += found
        texts[file] = text.rstrip("\n") + "\n"
    return texts, facts


def misspelt(rng: Random, name: str) -> str:
    """`name` with one slip of the pen inside its longest word: two letters swapped, one left out, or one doubled."""
    word = max(name.split(), key=len)
    while True:
        at = rng.randrange(1, len(word) - 2)
        slip = rng.choice(("swap", "drop", "double"))
        if slip == "swap":
            wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        else:
            wrong = word[:at] + (word[at] * 2 if slip == "double" else "") + word[at + 1 :]
        if wrong != word:
            return name.replace(word, wrong)


def ask(rng: Random, fact: Fact, kind: str) -> dict:
    """A question on `fact`, in the "same words", in "other words", or in the same words with the name "misspelt"."""
    frames = fact.matter.other_words if kind == "other words" else (fact.matter.statements[fact.statement][1],)
    about = misspelt(rng, fact.about) if kind == "misspelt" else fact.about
    known = asdict(fact) | {"matter": fact.matter.name}
    del known["statement"]
    return {"question": rng.choice(frames).format(n=about), "kind": kind, **known}


def unanswerable(rng: Random, facts: list[Fact]) -> dict:
    """A question on a resident who is there, on a matter that no document tells of."""
    told = {(fact.about, fact.matter.name) for fact in facts}
    told |= {(about, other) for about, name in told for other in _ALIKE if name in _ALIKE}
    while True:
        about, matter = rng.choice((*WOMEN, *MEN)), rng.choice(RESIDENT)
        if (about, matter.name) not in told:
            question = rng.choice(matter.statements)[1].format(n=about)
            return {"question": question, "kind": "no answer", "about": about, "matter": matter.name}


def questions(rng: Random, facts: list[Fact]) -> list[dict]:
    """Questions of every kind."""
    found = []
    for kind, count in ANSWERED.items():
        asked = [ask(rng, fact, kind) for fact in rng.sample(facts, count)]
        found += [q | {"use": "choose" if i < CHOOSING else "measure"} for i, q in enumerate(asked)]
    while sum(q["kind"] == "no answer" for q in found) < UNANSWERABLE:
        question = unanswerable(rng, facts) | {"use": "measure"}
        if all(q["question"] != question["question"] for q in found):
            found.append(question)
    return found


def main() -> None:
    """Write the text files and questions.jsonl beside this script."""
    rng = Random(SEED)
    texts, facts = documents(rng)
    for file, text in texts.items():
        (FOLDER / file).write_text(text, encoding="utf-8")
    lines = [json.dumps(question) for question in questions(rng, facts)]
    (FOLDER / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(texts)} documents, {len(facts)} facts, {len(lines)} questions")


if __name__ == "__main__":
    main()
