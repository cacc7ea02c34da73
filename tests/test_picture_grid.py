"""Grids of pictures: any kind of picture, one size, labels as text, an alternative text for each; the playground."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from shared import display

RED = Image.new("RGB", (128, 128), (224, 43, 43))


def encoded(picture, kind="png"):
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def images(output):
    """(alternative text, width on the page, the picture) of each image in the HTML."""
    tags = re.findall(r'<img alt="([^"]*)" width="(\d+)" src="data:image/webp;base64,([^"]+)" style', output.html)
    return [(alt, int(width), Image.open(io.BytesIO(base64.b64decode(data)))) for alt, width, data in tags]


@pytest.mark.parametrize(
    "value",
    [
        RED, np.asarray(RED), np.asarray(RED) / 255, encoded(RED), f"data:image/png;base64,{encoded(RED)}",
        base64.b64decode(encoded(RED)), {"image": encoded(RED), "seed": 3}, RED.convert("RGBA"),
    ],
    ids=["PIL", "bytes array", "float array", "base64", "data URL", "file bytes", "answer", "with alpha"],
)  # fmt: skip
def test_every_kind_of_picture_is_taken(value):
    assert display.as_picture(value).getpixel((5, 5)) == (224, 43, 43)


@pytest.mark.parametrize("value", ["no base64!", np.zeros((3, 128, 128)), np.zeros(4)])
def test_what_is_no_picture_is_refused(value):
    with pytest.raises(ValueError, match="no base64|no picture"):
        display.as_picture(value)


def test_grid_has_labels_as_text_and_an_alternative_text_for_each_picture():
    output = display.picture_grid(
        [[RED, RED], [RED, None]],
        row_labels=["guidance 1", "guidance <4>"],
        column_labels=["seed 0", "seed 1"],
        captions=[["right", "wrong: shape"], ["", ""]],
        alt="Red squares.",
        title="Same & same",
    )
    found = images(output)
    assert [alt for alt, _, _ in found] == [
        "guidance 1, seed 0, right", "guidance 1, seed 1, wrong: shape", "guidance &lt;4&gt;, seed 0",
    ]  # fmt: skip
    assert len({width for _, width, _ in found}) == 1
    assert "guidance &lt;4&gt;</th>" in output.html and "wrong: shape</div>" in output.html
    assert "Same &amp; same" in output.html and "<script" not in output.html
    assert output.text == "[3 pictures: Same & same. Red squares.]"


def test_one_row_needs_no_nesting_and_text_alone_says_what_there_is():
    output = display.picture_grid([RED, RED], column_labels=["1 step", "20 steps"])
    assert output.text == "[2 pictures: 1 step; 20 steps]"
    assert output.html.count("<tr") == 2


def test_small_pictures_are_enlarged_sharply_and_large_ones_made_smaller():
    board = np.indices((8, 8)).sum(0) % 2 * 1.0
    small = images(display.picture_grid([board], alt="a chessboard", width=128))[0]
    assert small[1] == 128 and small[2].size == (128, 128)
    pixels = np.asarray(small[2].convert("L"), float)
    assert pixels[2:14, 2:14].max() < 40 and pixels[2:14, 18:30].min() > 215
    large = images(display.picture_grid([Image.new("RGB", (1024, 512))], alt="black", width=100))[0]
    assert large[1] == 100 and large[2].size == (200, 100)


def test_pictures_of_different_sizes_to_scale():
    found = images(display.picture_grid([RED, RED.resize((256, 128))], alt="two sizes", width=200, to_scale=True))
    assert [width for _, width, _ in found] == [100, 200]


def test_drawn_pictures_stay_small_and_true():
    noise = np.random.default_rng(0).normal(0, 2, (128, 128, 3))
    drawn = Image.fromarray((np.asarray(RED.resize((128, 128)), float) + noise).clip(0, 255).astype(np.uint8))
    output = display.picture_grid([drawn], alt="red", width=128)
    assert len(output.html) < 12_000
    shown = np.asarray(images(output)[0][2], float)
    assert np.abs(shown - np.asarray(drawn, float)).mean() < 4


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"rows": []}, "at least one picture"),
        ({"rows": [RED]}, "say in alt"),
        ({"rows": [RED, RED], "column_labels": ["one"]}, "1 column_labels, but the grid has 2"),
        ({"rows": [[RED], [RED]], "row_labels": ["a", "b", "c"]}, "3 row_labels, but the grid has 2"),
        ({"rows": [[RED], [RED]], "captions": ["a"]}, "1 rows of captions"),
    ],
)
def test_grids_that_do_not_fit_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        display.picture_grid(**arguments)


def test_animation_has_all_its_pictures():
    frames = [np.full((32, 32), shade / 3) for shade in range(4)]
    output = display.animation(frames, alt="from black to white", width=64)
    picture = images(output)[0][2]
    assert picture.n_frames == 4 and picture.size == (64, 64)
    with pytest.raises(ValueError, match="alt"):
        display.animation(frames, alt=" ")


def test_playground_shows_the_picture_its_call_and_errors():
    calls = []

    def draw(prompt, **settings):
        calls.append((prompt, settings))
        if len(calls) == 2:
            raise RuntimeError("endpoint <gone>")
        return RED

    box = display.picture_playground(draw, "a <red> square", guidance_scale=3.0, seed=7)
    text, negative, *_, button, bar, result = box.children
    button.click()
    assert calls[0] == ("a <red> square", {"num_inference_steps": 20, "guidance_scale": 3.0, "seed": 7})
    assert '<img alt="a &lt;red&gt; square"' in result.value and "guidance_scale=3.0, seed=7)" in result.value
    negative.value = "night"
    button.click()
    assert calls[1][1]["negative_prompt"] == "night"
    assert "RuntimeError: endpoint &lt;gone&gt;" in result.value and not button.disabled


def test_playground_shows_progress_and_the_pictures_on_the_way():
    seen = []

    def draw(prompt, **settings):
        for step in range(1, 4):
            yield step, 3, RED if step != 2 else None
            seen.append((bar.value, bar.max, "<img" in result.value))

    *_, button, bar, result = display.picture_playground(draw, "a square").children
    button.click()
    assert seen == [(1, 3, True), (2, 3, True), (3, 3, True)] and "<img" in result.value
