"""The test material of the notebook on prompting: new to the model, without a leak, and the same for the same seed."""

import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from shared.pretraining.language.words import is_held_out

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "lab1-llm-inference"))

import prompting_trials as trials  # noqa: E402

SORTING = [*trials.topic_tasks(40), *trials.review_tasks(40)]


@pytest.mark.parametrize("draw", [trials.topic_tasks, trials.review_tasks, trials.reading_tasks, trials.card_tasks])
def test_the_same_seed_draws_the_same_and_another_one_something_else(draw):
    assert draw(5) == draw(5)
    assert draw(5) != draw(5, seed=2)
    assert draw(3) == draw(5)[:3]


def test_examples_are_balanced_at_every_k_and_none_is_the_text_asked_for():
    for task in SORTING:
        for k in range(trials.MOST_SHOTS + 1):
            labels = [label for _, label in task.shots(k).examples]
            assert labels.count(task.labels[0]) == labels.count(task.labels[1]) == k
        texts = [text for text, _ in task.examples]
        assert len({*texts, task.text}) == 2 * trials.MOST_SHOTS + 1
        assert task.answer in task.labels


def test_labels_of_topics_are_invented_words_that_training_never_had():
    for task in trials.topic_tasks(40):
        assert all(map(is_held_out, task.labels))
        assert task.outside not in [text for text, _ in task.examples]


def test_both_answers_are_about_as_common_and_the_last_example_gives_none_away():
    tasks = trials.topic_tasks(400)
    first = sum(task.answer == task.labels[0] for task in tasks)
    last = sum(task.answer == task.examples[-1][1] for task in tasks)
    assert 150 < first < 250
    assert 150 < last < 250


def test_renamed_changes_labels_and_answer_alike():
    task = trials.review_tasks(1)[0]
    flipped = task.renamed({"positive": "negative", "negative": "positive"})
    assert flipped.answer != task.answer
    assert all(a != b for (_, a), (_, b) in zip(task.examples, flipped.examples, strict=True))
    assert flipped.text == task.text


@pytest.mark.parametrize("new_frames", [True, False])
def test_only_one_of_the_contexts_holds_the_answer(new_frames):
    for reading in trials.reading_tasks(60, new_frames=new_frames):
        words = reading.question.strip("?").replace("'s", "").split()[1:]
        person = next(word for word in words if word.istitle() and is_held_out(word))
        assert reading.answer in reading.context
        assert person in reading.context
        assert person in reading.on_other_matters
        assert person not in reading.about_others


def test_a_card_holds_what_is_asked_and_its_name_and_town_are_new():
    for card in trials.card_tasks(40):
        assert all(value in card.text for value in card.fields.values())
        assert is_held_out(card.fields["name"]) and is_held_out(card.fields["town"])


def test_half_of_the_customers_are_content_and_each_review_names_its_topic():
    customers = trials.customer_reviews(40)
    assert sum(customer.sentiment == trials.POSITIVE for customer in customers) == 20
    assert all(customer.topic in customer.review for customer in customers)


def test_no_text_is_one_of_the_training_data():
    """The frames are held out, so no sentence of 2,000 training documents is a text of the trials."""
    from itertools import islice

    from shared.pretraining.language.corpus import documents
    from shared.pretraining.language.document import plain

    trained = "\n".join(plain(document) for document in islice(documents(1), 2000))
    texts = [task.text for task in SORTING] + [reading.question for reading in trials.reading_tasks(40)]
    assert not [text for text in texts if text in trained]


def test_the_longest_prompt_leaves_room_for_an_answer():
    tokenizer = Tokenizer.from_file(str(ROOT / "shared" / "models" / "language" / "tokenizer.json"))
    for task in SORTING:
        shots = "".join(f'Review: "{text}"\nThis review is {label}\n\n' for text, label in task.examples)
        assert len(tokenizer.encode(f'{shots}Review: "{task.text}"\nThis review is').ids) < 490
