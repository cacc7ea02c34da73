"""The documents of notebook 3 and the parts that cut, ask and score."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.pretraining.language.words import is_held_out

LAB = Path(__file__).parents[2] / "lab1-llm-inference"
DOCUMENTS = LAB / "documents"


def _load(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


retrieval = _load(LAB / "retrieval.py")
matters = _load(DOCUMENTS / "matters.py")


@pytest.fixture(scope="module")
def documents():
    return retrieval.read_documents(DOCUMENTS)


@pytest.fixture(scope="module")
def questions():
    return retrieval.read_questions(DOCUMENTS)


def test_the_generator_writes_what_is_committed(tmp_path, documents):
    for script in ("generate.py", "matters.py"):
        (tmp_path / script).write_text((DOCUMENTS / script).read_text())
    subprocess.run([sys.executable, tmp_path / "generate.py"], check=True, capture_output=True)
    assert retrieval.read_documents(tmp_path) == documents
    assert (tmp_path / "questions.jsonl").read_text() == (DOCUMENTS / "questions.jsonl").read_text()


def test_people_and_towns_are_words_that_the_embedded_model_never_saw():
    names = [*matters.WOMEN, *matters.MEN, *matters.ANSWERS["town"]]
    assert len(set(names)) == len(names)
    assert [name for name in names if not is_held_out(name)] == []


def test_every_answer_stands_in_the_sentence_that_the_question_points_to(documents, questions):
    answered = [question for question in questions if question.kind != "no answer"]
    assert len(answered) >= 300
    for question in answered:
        sentence = documents[question.file][question.start : question.end]
        assert retrieval.is_right(sentence, question.answer)
        assert sentence.endswith(".")


def test_what_has_no_answer_is_told_nowhere(documents, questions):
    told = {(q.about, q.matter) for q in questions if q.kind != "no answer"}
    unanswerable = [question for question in questions if question.kind == "no answer"]
    assert len(unanswerable) >= 100
    assert not told & {(question.about, question.matter) for question in unanswerable}
    assert all(not question.stated_in(retrieval.Passage("", 0, 10, "")) for question in unanswerable)


def test_misspelt_names_stand_in_no_document(documents, questions):
    text = "".join(documents.values())
    misspelt = [question for question in questions if question.kind == "misspelt"]
    for question in misspelt:
        assert question.about in text or question.about[0].upper() + question.about[1:] in text
        assert question.about not in question.question


def test_settings_and_figures_come_from_different_questions(questions):
    uses = {
        use: {q.question for q in questions if q.use == use and q.kind != "misspelt"} for use in ("choose", "measure")
    }
    assert len(uses["choose"] & uses["measure"]) <= 2  # a fact may be drawn for two kinds, in the same words
    assert sum(q.use == "measure" and q.kind != "no answer" for q in questions) >= 200


def test_sentences_and_paragraphs_cover_the_text(documents):
    for text in documents.values():
        for cut in (retrieval.sentences, retrieval.paragraphs):
            pieces = [text[start:end] for start, end in cut(text)]
            assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(text[start:end].endswith(".") for start, end in retrieval.sentences(text))
        assert all("\n" not in text[start:end] for start, end in retrieval.paragraphs(text))


def test_a_passage_must_hold_the_whole_sentence():
    question = retrieval.Question("?", "same words", "", "", "measure", "x", "a.txt", 10, 20)
    assert question.stated_in(retrieval.Passage("a.txt", 10, 20, ""))
    assert not question.stated_in(retrieval.Passage("a.txt", 11, 40, ""))
    assert not question.stated_in(retrieval.Passage("a.txt", 0, 19, ""))
    assert not question.stated_in(retrieval.Passage("b.txt", 0, 40, ""))


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (" a baker [1]", "a baker", True),
        ("The baker", "a baker", True),
        ("He bakes", "a baker", False),
        ("Olton", "Olt", False),
        ("olton.", "Olton", True),
        ("", "Olton", False),
    ],
)
def test_an_answer_is_right_when_it_holds_the_words(answer, expected, right):
    assert retrieval.is_right(answer, expected) is right


def test_references_are_read_and_taken_off():
    assert retrieval.references("Olton [2], or Renby [13]") == [2, 13]
    assert retrieval.without_references(" Olton [2]") == "Olton"
    assert retrieval.references("Olton") == []


@given(st.integers(0, 10**6), st.text(alphabet="abcdefg", min_size=5, max_size=12))
def test_a_slip_changes_little(seed, word):
    wrong = retrieval.slip(Random(seed), word)
    assert abs(len(wrong) - len(word)) <= 1
    assert wrong[0] == word[0]


def test_short_words_keep_their_letters():
    assert retrieval.slip(Random(0), "town") == "town"


def test_a_practice_query_names_what_the_passage_is_about():
    rng = Random(1)
    for _ in range(50):
        assert len(retrieval.practice_query(rng, "Anona's pet is a goat. She comes from Renby.").split()) == 4
        shop = retrieval.practice_query(rng, "The Blue Kettle sells hats. It belongs to Jalon.").split()
        assert len(shop) == 5
    assert retrieval.practice_query(rng, "one two")


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"), [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (50, 100, 0.404, 0.596)]
)
def test_wilson_interval(hits, trials, low, high):
    p, lower, upper = retrieval.share([True] * hits + [False] * (trials - hits))
    assert (p, round(lower, 3), round(upper, 3)) == (hits / trials, low, high)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no outcomes"):
        retrieval.share([])


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"generate\.py"):
        retrieval.read_documents(tmp_path)
