"""A small template language for sentences, and the random choices behind all generated text.

    [a|b|c]     one of the alternatives; earlier ones are likelier (`ranked_weights`); they may nest and be empty
    {slot}      the value of `slot`
    <list>      a word of a lexicon list, earlier ones likelier
    <list:slot> the same, and remember it as {slot}; a slot that has a value already keeps it

`render` also turns "a" into "an" where the sound needs it and capitalises the first letter of each sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from random import Random
from typing import TypeVar

T = TypeVar("T")

_TOKEN = re.compile(r"[\[\]|]|\{\w+\}|<\w+(?::\w+)?>|[^\[\]|{}<>]+")
_ARTICLE = re.compile(r"\b([Aa]) (?=[\"']?([A-Za-z]+))")
_SENTENCE = re.compile(r"(^|\n|[.!?][\"]?\n|[.!?] |\. ?\" |\.\" )([\"]?)([a-z])")
_SILENT_H = ("hour", "honest", "honour")
_CONSONANT_SOUND = ("uni", "use", "usu", "eu", "one", "once")


class TemplateError(ValueError):
    """A template is malformed, or names a slot or list that does not exist; the message quotes it."""


@cache
def ranked_weights(count: int) -> list[float]:
    """Cumulative weights of `count` alternatives, proportional to 1 / (rank + 2) ** 0.8.

    Unequal on purpose, as words in real text are: a model trained on equal choices has nothing for a low temperature
    to sharpen.
    """
    return list(accumulate(1 / (rank + 2) ** 0.8 for rank in range(count)))


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of `options`; earlier ones are likelier."""
    return rng.choices(options, cum_weights=ranked_weights(len(options)))[0]


def with_articles(text: str) -> str:
    """`text` with each "a" turned into "an" before a vowel sound."""

    def article(match: re.Match[str]) -> str:
        word = match[2].lower()
        vowel = word.startswith(_SILENT_H) or (word[0] in "aeiou" and not word.startswith(_CONSONANT_SOUND))
        return f"{match[1]}n " if vowel else f"{match[1]} "

    return _ARTICLE.sub(article, text)


def with_capitals(text: str) -> str:
    """`text` with a capital at each sentence's start. What follows `?"` or `!"` may be `asked Tom` and stays."""
    return _SENTENCE.sub(lambda match: match[1] + match[2] + match[3].upper(), text)


def render(template: str, rng: Random, slots: dict[str, str], lexicon: Mapping[str, Sequence[str]]) -> str:
    """Expand `template`, with articles and capitals set right; `<list:slot>` adds to `slots`. Raises TemplateError."""
    return with_capitals(with_articles(expand(template, rng, slots, lexicon)))


def expand(template: str, rng: Random, slots: dict[str, str], lexicon: Mapping[str, Sequence[str]]) -> str:
    """As `render`, for a part of a sentence: articles and capitals are left as they are."""
    parts: list[str] = []
    _expand(_parse(template), rng, slots, lexicon, parts, template)
    return "".join(parts)


def _expand(node, rng, slots, lexicon, parts, template) -> None:
    for item in node:
        if isinstance(item, str):
            parts.append(item)
        elif item[0] == "choice":
            _expand(pick(rng, item[1]), rng, slots, lexicon, parts, template)
        elif item[0] == "slot":
            if item[1] not in slots:
                raise TemplateError(f"no value for {{{item[1]}}} in the template: {template}")
            parts.append(slots[item[1]])
        else:
            _, name, slot = item
            if slot not in slots:
                if name not in lexicon:
                    raise TemplateError(f"no list <{name}> for the template: {template}")
                word = pick(rng, lexicon[name])
                if slot is None:
                    parts.append(word)
                    continue
                slots[slot] = word
            parts.append(slots[slot])


@cache
def _parse(template: str):
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise TemplateError(f"stray bracket in the template: {template}")
    node, rest = _sequence(tokens, 0, template)
    if rest != len(tokens):
        raise TemplateError(f"unbalanced brackets in the template: {template}")
    return node


def _sequence(tokens, at, template):
    items = []
    while at < len(tokens) and tokens[at] not in ("|", "]"):
        token = tokens[at]
        if token == "[":
            options = []
            while True:
                node, at = _sequence(tokens, at + 1, template)
                options.append(node)
                if at >= len(tokens):
                    raise TemplateError(f"unbalanced brackets in the template: {template}")
                if tokens[at] == "]":
                    break
            items.append(("choice", tuple(options)))
        elif token[0] == "{":
            items.append(("slot", token[1:-1]))
        elif token[0] == "<":
            name, _, slot = token[1:-1].partition(":")
            items.append(("list", name, slot or None))
        else:
            items.append(token)
        at += 1
    return tuple(items), at
