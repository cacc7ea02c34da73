"""The data generator of the language model: the same for the same seed, and correct English by rule."""

import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.pretraining.language.atlas import ANIMALS, COUNTRIES
from shared.pretraining.language.corpus import MIXTURE, documents
from shared.pretraining.language.document import ANSWER, plain, tidy
from shared.pretraining.language.facts import facts
from shared.pretraining.language.frames import load
from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.stories import PLOTS, Cast, story
from shared.pretraining.language.tasks import classification, context_questions, invented_word, recall
from shared.pretraining.language.templates import TemplateError, pick, render, with_articles, with_capitals

ROOT = Path(__file__).parent.parent
KINDS = [name for name, _, _ in MIXTURE]


def texts(kind, count, seed=5):
    return [plain(document) for document in islice(documents(seed, kind), count)]


def test_same_seed_same_documents_also_in_another_process():
    here = [plain(document) for document in islice(documents(3), 30)]
    code = (
        "import json; from itertools import islice; from shared.pretraining.language.corpus import documents; "
        "from shared.pretraining.language.document import plain; "
        "print(json.dumps([plain(d) for d in islice(documents(3), 30)]))"
    )
    # Another hash seed: nothing may depend on the order of a set.
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert json.loads(output.stdout) == here
    assert here != [plain(document) for document in islice(documents(4), 30)]


def test_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="poems.*stories"):
        next(documents(1, "poems"))


@pytest.mark.parametrize("kind", KINDS)
def test_documents_follow_the_rules_of_writing(kind):
    for text in texts(kind, 400):
        assert text == text.strip() and text
        assert not re.search(r"[{}\[\]<|]", text), text
        assert not re.search(r"  | [,.;!?]|\.\.|[!?]\.|,\.", text), text
        assert not re.search(r"\b[Aa] [aeio]\w|\b[Aa]n [bcdfgjklmnpqrstvwyz]", text), text
        assert text.count('"') % 2 == 0, text


@pytest.mark.parametrize("kind", ["stories", "facts"])
def test_sentences_begin_with_a_capital_and_the_text_ends_with_a_stop(kind):
    for text in texts(kind, 400):
        assert not re.search(r"[a-z]\. [a-z]", text), text
        assert text[0] in '"' or text[0].isupper(), text
        assert kind == "facts" or text[-1] in '.!?"', text


def test_stories_are_varied():
    found = texts("stories", 300)
    assert len(set(found)) == 300
    assert len({text[:60] for text in found}) > 280
    assert len({word for text in found for word in re.findall(r"\w+", text)}) > 900


def test_a_story_calls_its_people_by_name_once_they_are_known():
    cast = Cast(Random(1))
    first, second = cast["friend"], cast["M"]
    assert first.startswith("a ") or first == second
    assert not second.startswith("a ")
    assert cast["hero"].endswith(cast["name"]) and cast["hero"] == cast["name"]


def test_every_frame_of_every_plot_can_be_told():
    rng = Random(2)
    parts = load("story_parts")
    frames = [frame for plot in PLOTS for beat in plot for frame in beat]
    frames += [frame for section in ("openings", "traits", "scenery", "endings") for frame in parts[section][0]]
    for frame in frames:
        for _ in range(10):
            cast = Cast(rng)
            cast["house_tail"] = "nobody lived."
            assert "{" not in render(frame, rng, cast, LEXICON)
    assert len(frames) > 350


def test_a_story_keeps_its_hero():
    for seed in range(50):
        text = story(Random(seed))
        cast = Cast(Random(seed))
        assert cast["name"] in text


def test_facts_are_those_of_the_atlas():
    capitals = {country.capital for country in COUNTRIES}
    assert len(COUNTRIES) == len({country.name for country in COUNTRIES}) == len(capitals) >= 50
    assert len(ANIMALS) == len({animal.name for animal in ANIMALS})
    pairs = {(country.name, country.capital) for country in COUNTRIES}
    told = re.findall(
        r"The capital of ([A-Z]\w+(?: [A-Z]\w+)*) is ([A-Z]\w+(?: [A-Z]\w+)*)\.", "\n".join(texts("facts", 500))
    )
    assert told and set(told) <= pairs


def test_facts_weigh_the_answer():
    for seed in range(100):
        document = facts(Random(seed))
        answers = [text for text, weight in document if weight == ANSWER]
        assert all(text.startswith(" ") and text.strip() for text in answers)


def test_an_answer_on_a_context_stands_in_the_context():
    for seed in range(300):
        document = tidy(context_questions(Random(seed)))
        context = document[0][0]
        for text, weight in document:
            if weight == ANSWER:
                assert text.strip().rstrip(".").lower() in context.lower()


def test_recall_asks_for_what_the_list_says():
    for seed in range(100):
        table, *asked = plain(recall(Random(seed))).strip().split("\n\n")
        lines = set(table.split("\n"))
        assert lines.issuperset("\n".join(asked).split("\n"))


def test_the_first_example_of_a_class_is_no_answer():
    for seed in range(100):
        seen = set()
        for text, weight in classification(Random(seed)):
            if weight != 1:
                assert weight == (ANSWER if text in seen else 0)
                seen.add(text)


def test_invented_words_are_many_and_new():
    rng = Random(1)
    words = {invented_word(rng) for _ in range(2000)}
    known = {word for names in LEXICON.values() for word in names}
    assert len(words) > 1900 and len(words & known) < 5


def test_templates_expand_remember_and_choose():
    lexicon = {"colour": ("red", "blue")}
    slots = {"x": "apple"}
    text = render("a {x} is <colour:c>, [yes|yes]: {c}.", Random(1), slots, lexicon)
    assert text == f"An apple is {slots['c']}, yes: {slots['c']}."
    picks = [pick(Random(seed), "abcdef") for seed in range(2000)]
    assert picks.count("a") > picks.count("c") > picks.count("f") > 0


@pytest.mark.parametrize("template", ["[a|b", "a]", "{no}", "<no>", "a > b", "{a b}"])
def test_a_bad_template_is_named(template):
    with pytest.raises(TemplateError, match=re.escape(template)):
        render(template, Random(1), {}, {})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a owl and a hour", "an owl and an hour"),
        ("a European and a unicorn", "a European and a unicorn"),
        ('a "old" book', 'an "old" book'),
    ],
)
def test_articles(text, wanted):
    assert with_articles(text) == wanted


def test_capitals_spare_what_follows_a_question_in_quotes():
    assert with_capitals('"why?" asked Tom. he ran.\nshe sat.') == '"Why?" asked Tom. He ran.\nShe sat.'


@given(st.lists(st.tuples(st.text(alphabet="ab \n", max_size=5), st.integers(0, 4)), max_size=8))
def test_tidy_keeps_the_text_but_for_its_end(document):
    tidied = tidy(document)
    assert plain(tidied) == plain(document).rstrip()
    assert all(text for text, _ in tidied)
    assert all(left[1] != right[1] for left, right in zip(tidied, tidied[1:], strict=False))
