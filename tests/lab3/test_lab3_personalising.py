"""What notebook 3 of Lab 3 teaches and measures: its pictures, its prompts and its marks."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "lab3-stable-diffusion"))

from personalising import mark, mark_from_above, pictures_of, prompts_of, read_rows, reworded  # noqa: E402

from shared.pretraining.pictures.examples import examples_from_above, examples_of  # noqa: E402


@pytest.mark.parametrize("subject", ["star", "zobi"])
def test_the_pictures_differ_and_their_captions_say_in_what(subject):
    five = pictures_of(subject, 5)
    assert len({example.named.background for example in five}) == 5
    if subject == "star":
        assert len({example.named.things[0][1] for example in five}) == 5
    for example in five:
        assert subject in example.text.split() and example.named.background in example.text
    again = pictures_of(subject, 5, word="<new>")
    assert [example.text.replace("<new>", subject) for example in again] == [example.text for example in five]
    assert [e.picture.tobytes() for e in again] == [e.picture.tobytes() for e in five]
    assert len(pictures_of(subject, 15)) == 15


def test_a_word_stands_for_the_whole_name_only():
    assert reworded("a star on starry ground", "star", "<star>") == "a <star> on starry ground"
    assert reworded("a star", "star", None) == "a star"


@pytest.mark.parametrize("subject", ["star", "zobi"])
def test_true_pictures_of_the_prompts_are_right_and_others_wrong(subject):
    asked = prompts_of(subject, 12)
    assert not {trial.prompt for trial in asked} & {example.text for example in pictures_of(subject, 5)} - {subject}
    true = [example.picture for example in examples_of(subject, 12, seed=1, size="large")]
    assert all(found.right for found in mark(true, asked))
    large = [picture.resize((512, 512)) for picture in true]
    assert sum(found.right for found in mark(large, asked)) >= 11
    circles = [example.picture for example in examples_of("circle", 12)]
    found = mark(circles, asked)
    assert not any(one.right for one in found) and all("shape" in one.wrong for one in found)
    assert found[0].remark.startswith("wrong: ")


def test_marks_of_land_from_above():
    examples = examples_from_above(2)
    pictures, names = [e.picture for e in examples], [e.text for e in examples]
    assert all(found.right for found in mark_from_above(pictures, names))
    moved = mark_from_above(pictures, [*names[1:], names[0]])
    assert not any(found.right for found in moved)
    assert moved[0].remark == f"looks like: {names[0]}"
    with pytest.raises(ValueError, match="unknown class 'desert'"):
        mark_from_above(pictures[:1], ["desert"])


def test_pictures_are_read_from_a_jobs_output():
    content = io.BytesIO()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "png")
    row = {"prompt": "a red square", "seed": 3, "file": "evaluation/0000.png"}
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in (
            ("evaluation.jsonl", json.dumps(row).encode()),
            ("evaluation/0000.png", picture.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content.seek(0)
    with tarfile.open(fileobj=content) as archive:
        (found,) = read_rows(archive, "evaluation")
    assert found["prompt"] == "a red square" and found["picture"].getpixel((0, 0)) == (255, 0, 0)
