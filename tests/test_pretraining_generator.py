"""The data generator of the language model: reproducible, correct English by rule, true answers, nothing held out."""

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

from shared.pretraining.language import classification, layouts, opinions, reading, trials
from shared.pretraining.language.atlas import ANIMALS, COUNTRIES
from shared.pretraining.language.classification import MANNERS, TOPICS
from shared.pretraining.language.corpus import MIXTURE, documents
from shared.pretraining.language.document import ANSWER, plain, tidy
from shared.pretraining.language.evaluation import wilson
from shared.pretraining.language.facts import facts
from shared.pretraining.language.frames import load, split
from shared.pretraining.language.lexicon import LEXICON
from shared.pretraining.language.reading import LATE_RELATIONS, NOT_GIVEN, RELATIONS
from shared.pretraining.language.stories import PLOTS, Cast, story
from shared.pretraining.language.templates import TemplateError, pick, render, with_articles, with_capitals
from shared.pretraining.language.wear import worn
from shared.pretraining.language.words import invented_name, invented_word, is_held_out

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "shared" / "pretraining" / "language"
KINDS = [kind.name for kind in MIXTURE]
LABELLED = (
    opinions.reviews,
    opinions.replies,
    classification.classification,
    classification.flipped,
    classification.naming,
)


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


@pytest.mark.parametrize("kind", ["stories", "everyday", "facts"])
def test_running_text_follows_the_rules_of_writing(kind):
    for text in texts(kind, 400):
        assert text == text.strip() and text
        assert not re.search(r"[{}\[\]<|]", text), text
        assert not re.search(r"  | [,.;!?]|\.\.|[!?]\.|,\.", text), text
        assert not re.search(r"\b[Aa] [aeio]\w|\b[Aa]n [bcdfgjklmnpqrstvwyz]", text), text
        assert text.count('"') % 2 == 0, text


@pytest.mark.parametrize("kind", ["opinions", "classification", "reading", "recall"])
def test_prompts_and_answers_have_no_slot_left_and_no_double_blank(kind):
    for text in texts(kind, 400):
        assert text == text.strip() and text
        assert not re.search(r"\{\w\d?\}|<[a-z]+:\w+>|\[\w+\|", text), text
        assert "  " not in text, text


def test_reviews_and_contexts_follow_the_rules_of_writing():
    for seed in range(400):
        rng = Random(seed)
        written = [opinions.review(rng, sentiment) for sentiment in range(3)]
        written.append(reading.told(rng, reading.facts_on_people(rng, 3, 2)))
        for text in written:
            assert not re.search(r"[{}\[\]<|]|  | [,.;!?]|\.\.|[!?]\.|,\.", text), text
            assert not re.search(r"\b[Aa] [aeio]\w|\b[Aa]n [bcdfgjklmnpqrstvwyz]", text), text
            assert text[0].isupper() and text[-1] in ".!?", text


def test_shares_of_the_mixture_add_up():
    assert sum(kind.early for kind in MIXTURE) == pytest.approx(1)
    assert sum(kind.second for kind in MIXTURE) == pytest.approx(1)
    assert sum(kind.third for kind in MIXTURE) == pytest.approx(1)
    assert sum(kind.later for kind in MIXTURE) == pytest.approx(1)
    recalls = [
        sum(plain(document).endswith("Again:") or "\nAgain: " in plain(document) for document in drawn)
        for drawn in (islice(documents(1, shares="early"), 1500), islice(documents(1), 1500))
    ]
    assert recalls[0] > recalls[1]


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


def answers(document):
    """(the text before it, the answer) for each answer of an untidied document."""
    before, found = "", []
    for text, weight in document:
        if weight == ANSWER:
            assert text.startswith(" ") and text.strip()
            found.append((before, text[1:]))
        before += text
    return found


def test_an_answer_on_a_context_stands_in_the_context():
    declined = 0
    for seed in range(400):
        document = reading.context_questions(Random(seed))
        context = next(text for text, _ in document if "not given" not in text)
        for before, answer in answers(document):
            if answer == NOT_GIVEN:
                declined += 1
                assert '"not given"' in before.split("\n")[0]
            else:
                assert answer in context, plain(document)
    assert declined > 30


def test_a_reference_names_the_passage_that_has_the_answer():
    referred = declined = 0
    for seed in range(400):
        document = reading.passages(Random(seed))
        passages = dict(re.findall(r"^\[(\d+)\] (.*)$", plain(document), re.M))
        assert list(passages) == [str(number + 1) for number in range(len(passages))]
        for before, answer in answers(document):
            if answer == NOT_GIVEN:
                declined += 1
                assert '"not given"' in before.split("\n")[0]
                continue
            value, number = re.fullmatch(r"(.*) \[(\d+)\]", answer).groups()
            question = re.findall(r"Question: (.*)\nAnswer:", before)[-1]
            assert value in passages[number], plain(document)
            assert any(word in question for word in re.findall(r"\b[A-Z]\w+", passages[number])), plain(document)
            referred += number != "1"
    assert referred > 100 and declined > 30


def test_a_question_that_must_be_declined_has_no_answer_in_the_context():
    for seed in range(200):
        rng = Random(seed)
        facts_told = reading.facts_on_people(rng, 3, 2)
        told_of = {frame.replace("{n}", fact.person) for fact in facts_told for frame in fact.relation.questions}
        assert reading._unanswerable(rng, facts_told) not in told_of


def test_a_context_that_contradicts_the_atlas_is_followed():
    for seed in range(100):
        for before, answer in answers(reading.against_memory(Random(seed))):
            country = re.findall(r"What is the capital of (.*)\?\nAnswer:", before)[-1]
            assert f"The capital of {country} is {answer}." in before


def test_extraction_is_json_of_what_the_text_says():
    parsed = fields = 0
    for seed in range(300):
        for before, answer in answers(reading.extraction(Random(seed))):
            text = before.rsplit("Text: ", 1)[1].split("\n")[0]
            if before.endswith("JSON:"):
                parsed += 1
                values = json.loads(answer)
                assert list(values)[0] == "name"
            else:
                fields += 1
                values = {"": answer}
            assert all(value in text for value in values.values()), before
    assert parsed > 100 and fields > 100


def test_recall_asks_for_what_the_list_says():
    for seed in range(200):
        for before, answer in answers(reading.recall(Random(seed))):
            key = re.split(r"\n|, |\. ", before)[-1]
            assert f"{key} {answer}" in before, before


def test_copying_copies():
    for seed in range(100):
        for before, answer in answers(reading.copying(Random(seed))):
            assert before.startswith(f"{answer}\n")


def test_the_first_example_of_a_class_is_no_answer():
    for seed in range(200):
        seen = set()
        for text, weight in classification.classification(Random(seed)):
            if weight != 1:
                assert weight == (ANSWER if text in seen else 0)
                seen.add(text)
        assert len(seen) <= 4


def test_flipped_labels_are_flipped_and_the_first_is_no_answer(monkeypatch):
    monkeypatch.setattr(opinions, "review", lambda rng, sentiment: ("praise", "blame")[sentiment])
    pairs = {tuple(labels[:2]) for labels in opinions.NATURAL_LABELS}
    for seed in range(200):
        document = classification.flipped(Random(seed))
        examples = list(zip(document[::3], document[1::3], strict=True))
        found = {}
        for number, ((item, _), (label, weight)) in enumerate(examples):
            found.setdefault("praise" if "praise" in item else "blame", label.strip())
            assert found["praise" if "praise" in item else "blame"] == label.strip()
            assert weight == (ANSWER if number else 0)
        assert any(found.get("praise", bad) == bad and found.get("blame", good) == good for good, bad in pairs)


def test_natural_labels_are_not_flipped(monkeypatch):
    monkeypatch.setattr(opinions, "review", lambda rng, sentiment, **_: ("praise", "blame", "middling")[sentiment])
    for seed in range(200):
        for before, answer in answers(opinions.reviews(Random(seed))):
            last = max(("praise", "blame", "middling"), key=before.rfind)
            column = ("praise", "blame", "middling").index(last)
            assert answer in {labels[column] for labels in opinions.NATURAL_LABELS}


def test_invented_words_are_many_and_new():
    rng = Random(1)
    found = {invented_word(rng) for _ in range(2000)}
    known = {word for names in LEXICON.values() for word in names}
    assert len(found) > 1900 and len(found & known) < 5


@given(st.integers())
def test_an_invented_word_is_held_out_when_asked_for_only(seed):
    assert not is_held_out(invented_word(Random(seed))) and not is_held_out(invented_name(Random(seed)))
    assert is_held_out(invented_word(Random(seed), held_out=True))
    assert is_held_out(invented_name(Random(seed), held_out=True))


def source_words():
    """Every word that the generator's files contain, so that any other word of a document is an invented one."""
    files = [*RECIPE.glob("*.py"), *RECIPE.glob("frames/*.txt")]
    found = {word for path in files for word in re.findall(r"[^\W\d_]+", path.read_text("utf-8").lower())}
    return found | {f"{word}s" for word in found}


@pytest.mark.parametrize("shares", ["early", "later", "second", "third"])
def test_no_invented_word_of_the_training_data_is_held_out(shares):
    known = source_words()
    invented = set()
    for document in islice(documents(8, shares=shares), 3000):
        invented |= set(re.findall(r"[^\W\d_]+", plain(document).lower())) - known
    assert len(invented) > 2000
    assert [word for word in invented if is_held_out(word)] == []


@pytest.mark.parametrize("generate", LABELLED, ids=lambda function: function.__name__)
def test_held_out_adjectives_are_in_no_labelled_document(generate):
    held_out = [re.escape(word) for _, kept_back in opinions.WORDS for word in kept_back]
    pattern = re.compile(rf"\b({'|'.join(held_out)})\b", re.I)
    assert len(held_out) > 30
    for seed in range(1000):
        found = pattern.search(plain(generate(Random(seed))))
        assert not found, found


def test_held_out_adjectives_are_met_in_unlabelled_text():
    text = "\n".join(plain(opinions.talk(Random(seed))) for seed in range(1500)).lower()
    assert all(word.lower() in text for good_or_bad in opinions.WORDS[:2] for word in good_or_bad[1])


def test_held_out_words_of_a_topic_are_never_classified():
    trained = {word for topic in TOPICS.values() for word in topic.words}
    kept_back = {word for topic in TOPICS.values() for word in topic.held_out_words}
    assert not trained & kept_back
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, kept_back))})\b", re.I)
    rng = Random(4)
    for topic in TOPICS.values():
        assert not any(pattern.search(topic.text(rng)) for _ in range(60)), topic.name


def test_a_topic_is_named_by_its_name_and_its_held_out_words_are_met_in_lists():
    for seed in range(300):
        for before, answer in answers(classification.naming(Random(seed))):
            words = TOPICS[answer].words
            assert any(word.lower() in before.lower() for word in words), before
    lists = "\n".join(plain(classification.word_lists(Random(seed))) for seed in range(2000)).lower()
    assert all(word.lower() in lists for topic in TOPICS.values() for word in topic.held_out_words)


def frame_pattern(frame):
    """A regular expression that any text rendered from `frame` matches."""
    parts = []
    for part in re.findall(r"\[[^\]]*\]|\{\w+\}|<\w+(?::\w+)?>|\ba\b|[^\[\]{}<>]", frame):
        if part[0] == "[":
            parts.append(f"(?:{'|'.join(map(re.escape, part[1:-1].split('|')))})")
        elif part[0] == "{":
            parts.append(r"[^.!?\n]{1,40}?")
        elif part[0] == "<":
            parts.append(f"(?:{'|'.join(map(re.escape, LEXICON[part[1:-1].split(':')[0]]))})")
        else:
            parts.append("an?" if part == "a" else re.escape(part))
    return re.compile("".join(parts), re.I)


def held_out_frames(name):
    lines = [line for groups in load(name).values() for group in groups for line in group]
    return [frame for frame in split(tuple(lines))[1] if "{" in frame or "<" in frame]


@pytest.mark.parametrize("name", ["topics", "manners", "opinions", "relations"])
def test_held_out_frames_are_in_no_training_document(name):
    frames = held_out_frames(name)
    assert len(frames) >= 15
    # The pattern finds what the frame makes.
    slots = {letter: "word" for letter in ("w", "x", "g", "b", "n", "a")}
    assert all(frame_pattern(frame).search(render(frame, Random(1), dict(slots), LEXICON)) for frame in frames)
    for kind in ("opinions", "classification", "reading", "recall", "worn"):
        text = "\n".join(texts(kind, 1000))
        for frame in frames:
            assert not frame_pattern(frame).search(text), frame


def test_held_out_parts_of_layouts_are_in_no_training_layout():
    rng = Random(3)
    drawn = [layouts.drawn_layout(rng) for _ in range(6000)] + [*layouts.USUAL]
    fields = {field.lower() for field in (*layouts.HELD_OUT_TEXT_FIELDS, *layouts.HELD_OUT_LABEL_FIELDS)}
    for layout in drawn:
        before, after = layout.item.split("{t}")
        assert not fields & set(re.findall(r"\w+", (before + after).lower())), layout
        assert not after.endswith(layouts.HELD_OUT_ARROWS), layout
        assert not any(closer in after for closer in layouts.HELD_OUT_CLOSERS), layout
        assert before not in {left for left, _ in layouts.HELD_OUT_WRAPPERS}, layout
    kept_back = {layouts.drawn_layout(rng, held_out=True) for _ in range(2000)}
    assert len(kept_back) > 100 and not kept_back & set(drawn)


def test_documents_are_in_training_layouts():
    text = "\n".join(texts("classification", 2000) + texts("opinions", 1000))
    fields = "|".join((*layouts.HELD_OUT_TEXT_FIELDS, *layouts.HELD_OUT_LABEL_FIELDS))
    assert not re.search(rf"^({fields})(:| =| -|>) ", text, re.M | re.I)
    assert not any(closer in text for closer in layouts.HELD_OUT_CLOSERS)


def test_topics_are_well_formed():
    assert len(TOPICS) >= 20
    common = [frame for group in load("topics")["any"] for frame in group]
    for topic in TOPICS.values():
        assert len(topic.words) >= 6 and len(topic.held_out_words) >= 2, topic.name
        assert len(topic.frames) >= 2 and topic.held_out_frames, topic.name
        assert len(set(topic.words)) == len(topic.words), topic.name
        for frame in (*topic.frames, *topic.held_out_frames, *common):
            assert frame.count("{w}") == 1, frame
    assert all(trained and kept_back for classes in MANNERS for trained, kept_back in classes)


def test_opinions_are_well_formed():
    good, bad, middling = ({*trained, *kept_back} for trained, kept_back in opinions.WORDS)
    assert not good & bad and not good & middling and not bad & middling
    for name, letter in (("praise", "g"), ("blame", "b"), ("middling", "n")):
        trained, kept_back = split(load("opinions")[f"{name} frames"][0])
        assert not set(trained) & set(kept_back)
        for frame in (*trained, *kept_back):
            assert set(re.findall(r"\{(\w+)\}", frame)) <= {"x", letter, f"{letter}2"}, frame
        assert all(f"{{{letter}}}" in frame for frame in kept_back)


def test_relations_are_well_formed():
    assert len(RELATIONS) >= 10
    for relation in (*RELATIONS.values(), *LATE_RELATIONS.values()):
        for frames in (relation.statements, relation.held_out_statements):
            assert frames and all(frame.count("{n}") == frame.count("{a}") == 1 for frame in frames), relation.name
        for frames in (relation.questions, relation.held_out_questions):
            assert frames and all("{n}" in frame and frame.endswith("?") for frame in frames), relation.name
        assert not set(relation.questions) & set(relation.held_out_questions)
        assert not set(relation.statements) & set(relation.held_out_statements)
        assert all(relation.answer(Random(seed)).strip() for seed in range(20))


@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("held_out_words", [True, False])
def test_few_shot_trials_have_k_examples_of_each_class_with_held_out_labels(k, held_out_words):
    for trial in trials.few_shot(100, k, held_out_words=held_out_words):
        *examples, asked = trial.prompt.split("\n")
        labels = [example.split(" -> ")[1] for example in examples]
        assert asked.endswith(" ->") and is_held_out(trial.answer)
        assert all(is_held_out(label) for label in labels)
        assert sorted(map(labels.count, set(labels))) == ([k, k] if k else [])
        assert k == 0 or trial.answer in labels
    assert trials.few_shot(20, k) == trials.few_shot(20, k) != trials.few_shot(20, k, seed=9)


def test_few_shot_trials_in_formats_never_trained_on_have_k_examples():
    for trial in trials.few_shot(200, 4, layout=None):
        assert len(re.findall(rf"\b{trial.answer}\b", trial.prompt)) == 4
    assert len({trial.prompt[:3] for trial in trials.few_shot(200, 4, layout=None)}) > 10


def test_trials_of_held_out_words_classify_them():
    kept_back = {word for topic in TOPICS.values() for word in topic.held_out_words}
    for trial in trials.few_shot(100, 2, held_out_words=True):
        assert all(any(word.lower() in line.lower() for word in kept_back) for line in trial.prompt.split("\n"))


@pytest.mark.parametrize("k", [0, 2])
def test_flipped_trials_are_flipped(k, monkeypatch):
    monkeypatch.setattr(trials, "review", lambda rng, sentiment, **_: ("praise", "blame")[sentiment])
    for trial in trials.flipped(60, k):
        *examples, asked = trial.prompt.split("\n\n")
        assert sorted(examples) == sorted(
            ['Review: "praise"\nThis review is negative', 'Review: "blame"\nThis review is positive'] * k
        )
        assert trial.answer == ("negative" if "praise" in asked else "positive")


def test_sentiment_trials_are_in_held_out_adjectives_without_examples():
    for trial in trials.sentiment(100):
        right = opinions.WORDS[("positive", "negative").index(trial.answer)][1]
        wrong = opinions.WORDS[("negative", "positive").index(trial.answer)][1]
        found = trial.prompt.lower()
        assert any(re.search(rf"\b{word}\b", found) for word in right), found
        assert not any(re.search(rf"\b{word}\b", found) for word in wrong), found
        assert trial.prompt.count("Review") == 1


def test_context_trials_are_on_held_out_people():
    known = source_words()
    for given_context in (True, False):
        for trial in trials.context(100, given=given_context):
            context, _, question = trial.prompt.rpartition("Question:")
            people = [word for word in re.findall(r"[^\W\d_]+", question) if word.lower() not in known]
            assert all(is_held_out(word) for word in people)
            assert (trial.answer in context) if given_context else context == ""
            assert not given_context or any(word in context for word in people) or not people
    for trial in trials.context(100, decline=True):
        context, _, question = trial.prompt.rpartition("Question:")
        people = [word for word in re.findall(r"[^\W\d_]+", question) if word.lower() not in known]
        assert trial.answer == NOT_GIVEN and '"not given"' in trial.prompt.split("\n")[0]
        told = context.split("\n")[1]
        assert not any(re.match(rf"{word}\b", told) for word in people)


def test_capitals_trials_ask_for_all():
    asked = trials.capitals()
    assert len(asked) >= 250 and {trial.answer for trial in asked} == {country.capital for country in COUNTRIES}


# Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3.
@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilsons_interval_of_known_cases(right, count, interval):
    assert wilson(right, count) == pytest.approx(interval, abs=1e-4)


@given(st.integers(1, 2000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilsons_interval_holds_the_share_is_symmetric_and_narrows(case):
    right, count = case
    low, high = wilson(right, count)
    assert 0 <= low <= right / count + 1e-9 and right / count - 1e-9 <= high <= 1
    assert wilson(count - right, count) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    narrow = wilson(4 * right, 4 * count)
    assert narrow[1] - narrow[0] < high - low


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


@pytest.mark.parametrize(
    "frame", ["{n} lives in {a}.", "[Very|Really] {g}, this {x} of <season:s>.", "{n}'s home is {a}."]
)
def test_worn_frames_keep_their_slots_and_lose_the_words_between(frame):
    slots = re.findall(r"\{\w+\}|<[^>]*>|\[[^\]]*\]", frame)
    assert worn(Random(0), frame, 0) == frame
    for seed in range(20):
        changed = worn(Random(seed), frame, 1)
        assert re.findall(r"\{\w+\}|<[^>]*>|\[[^\]]*\]", changed) == slots
        assert changed != frame and changed.endswith(".")
    assert worn(Random(1), frame) == worn(Random(1), frame)
