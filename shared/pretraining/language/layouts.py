"""How a text and its label are laid out in a prompt: a few usual ways, and very many drawn by chance.

What makes a model read any layout is that it has met so many. Some parts are kept for the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from shared.pretraining.language.document import Document
from shared.pretraining.language.words import invented_word


@dataclass(frozen=True)
class Layout:
    """`item` holds {t}, the text; the label follows it after `blank`; `end` closes an example."""

    item: str
    end: str
    blank: str = " "

    def example(self, text: str, label: str, weight: int) -> Document:
        """The example as pieces; `weight` is the label's."""
        return [(self.item.replace("{t}", text), 1), (f"{self.blank}{label}", weight), (self.end, 1)]

    def query(self, text: str) -> str:
        """The last line of a prompt, up to where the label is to come."""
        return self.item.replace("{t}", text)


USUAL = (
    Layout("{t} ->", "\n"),
    Layout("Text: {t}\nLabel:", "\n\n"),
    Layout("Text: {t}\nLabel:", "\n"),
    Layout("Input: {t}\nOutput:", "\n\n"),
    Layout("Review: {t}\nSentiment:", "\n\n"),
    Layout('Review: "{t}"\nThis review is', "\n\n"),
    Layout("{t} =", "\n"),
    Layout("Sentence: {t}\nClass:", "\n"),
    Layout('"{t}" ->', "\n"),
    Layout("Q: {t}\nA:", "\n"),
)
_TEXT_FIELDS = (
    "Text Input Sentence Line Example Message Note Review Item Q Phrase Words Case Statement Question Comment Source "
    "Given Data Thing Mail Post Report Task Word Opinion X In Paragraph Fragment Quote Sample Content Story Letter "
    "Record Fact Part Clue Body Title News Request Saying Answer Speech T S Observation Excerpt Piece Document Notice"
).split()
_LABEL_FIELDS = (
    "Label Output Class Answer Category Type Group Kind Tag Result Topic Sort Name Sentiment A Y Out Box Choice Number "
    "Meaning Key Rating Subject Flag Field Value Letter Word Sign Drawer Shelf Folder Basket Team Colour Symbol Grade "
    "Judgement Decision Genre Theme Reply L C Target Prediction Sense Status Position Place Token Title"
).split()
_ARROWS = (
    *(" ->", " =>", " =", ":", " -", " |", " --", " >", " ::", " ...", ",", " -->", " *"),
    *(" is", " means", " goes to", " gives", " becomes", " belongs to", " makes", " as", " so", " then", " equals"),
)
_SIGNS = "-=>:|*~+/#.@<%&"
_WRAPPERS = (
    *[("", "")] * 6,
    *(('"', '"'), ("(", ")"), ("'", "'"), ("[", "]"), ("<<", ">>"), ("{ ", " }"), ("~~", "~~")),
    *(("- ", ""), ("* ", ""), ("> ", ""), ("++ ", ""), ("# ", ""), ("= ", " ="), ("| ", " |"), ("* ", " *")),
    *(
        ("/ ", " /"),
        (": ", ""),
        ("-- ", " --"),
        ("_", "_"),
        ("[[", "]]"),
        ("(", ""),
        ("1. ", ""),
        ("% ", ""),
        ("((", "))"),
    ),
)
_CLOSERS = (
    *("This is", "The answer is", "It belongs to", "We call it", "I call this", "Its name is", "So it is", "I say"),
    *("I would call it", "It goes into", "It must be", "My answer is", "You would say", "They sort it under", "Choose"),
    *("I think it is", "The label is", "Its group is", "The right word is", "People put it with", "Take"),
    *("The class of this is", "That makes it", "We write", "Which means", "Send it to", "My guess is", "It is of kind"),
)

HELD_OUT_TEXT_FIELDS = ("Remark", "Entry", "Utterance", "Snippet")
HELD_OUT_LABEL_FIELDS = ("Verdict", "Mark", "Bucket", "Code")
HELD_OUT_ARROWS = (" ~>", " ==>", " //", " :=", " >>>")
HELD_OUT_WRAPPERS = (("<", ">"), ("{", "}"), ("~ ", ""), ("+ ", " +"))
HELD_OUT_CLOSERS = ("I would file it under", "My pick is", "Put it into")


def usual_layout(rng: Random) -> Layout:
    """One of the usual layouts."""
    return rng.choice(USUAL)


def drawn_layout(rng: Random, *, held_out: bool = False) -> Layout:
    """A layout put together by chance; `held_out`: of parts that no training document has."""
    if held_out:
        fields, labels, arrows = HELD_OUT_TEXT_FIELDS, HELD_OUT_LABEL_FIELDS, HELD_OUT_ARROWS
        wrappers, closers = HELD_OUT_WRAPPERS, HELD_OUT_CLOSERS
    else:
        fields, labels, arrows, wrappers, closers = _TEXT_FIELDS, _LABEL_FIELDS, _ARROWS, _WRAPPERS, _CLOSERS
        if rng.random() < 0.3:
            sign = " " + "".join(rng.choices(_SIGNS, k=rng.choice((1, 2, 2, 3))))
            arrows = (":" if sign in HELD_OUT_ARROWS else sign,)
    left, right = rng.choice(wrappers)
    end = rng.choice(("\n", "\n", "\n\n"))
    form = rng.choices(("arrow", "two lines", "one line", "closer"), (40, 30, 15, 15))[0]
    if form == "arrow":
        return Layout(f"{left}{{t}}{right}{rng.choice(arrows)}", end)
    if form == "closer":
        item = f"{left}{{t}}{right}{rng.choice((chr(10), ' '))}{rng.choice(closers)}"
        return Layout(item, rng.choice((end, f".{end}")))
    field, label = rng.choice(fields), rng.choice(labels)
    if not held_out and rng.random() < 0.15:
        field, label = invented_word(rng).capitalize(), invented_word(rng).capitalize()
    if rng.random() < 0.15:
        field, label = field.lower(), label.lower()
    colon = rng.choice((":", ":", ":", " =", " -", ">"))
    if form == "two lines":
        return Layout(f"{field}{colon} {left}{{t}}{right}\n{label}{colon}", end)
    return Layout(f"{field}{colon} {left}{{t}}{right}{rng.choice((' ', '; ', ' | ', ' / '))}{label}{colon}", end)


HEADERS = (
    "Sort the lines.",
    "Give each line its label.",
    "Classify the text.",
    "Find the rule and go on.",
    "Label the texts.",
    "Put each sentence into its group.",
    "Continue in the same way.",
    "Here are some examples.",
    "Which group is it?",
)
