"""Masks by calls and by the widget."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "lab3-stable-diffusion"))

from masks import MaskEditor, area, box, ellipse, inverted, joined, overlay  # noqa: E402


def test_boxes_and_ellipses_have_the_area_asked_for():
    mask = box((128, 64), 0.5, 0, 1, 0.5)
    assert mask.size == (128, 64) and mask.mode == "L" and set(np.unique(mask)) == {0, 255}
    pixels = np.asarray(mask)
    assert (pixels[:32, 64:] == 255).all() and (pixels == 255).sum() == 64 * 32
    assert area(ellipse((128, 128), 0.25, 0.25, 0.75, 0.75)) == pytest.approx(np.pi / 16, rel=0.02)
    assert area(box((100, 100), 0, 0, 1, 1)) == 1
    assert area(box((128, 128), -0.5, 0.5, 0.5, 2)) == 0.25


def test_masks_are_joined_and_inverted():
    left, right = box((64, 64), 0, 0, 0.25, 1), box((64, 64), 0.75, 0, 1, 1)
    assert area(joined(left, right)) == 0.5 and area(inverted(left)) == 0.75
    with pytest.raises(ValueError, match="one size"):
        joined(left, box((32, 32), 0, 0, 1, 1))


def test_impossible_boxes_are_refused():
    with pytest.raises(ValueError, match="no area"):
        box((64, 64), 0.5, 0, 0.5, 1)


def test_the_overlay_changes_only_what_is_masked():
    picture = Image.new("RGB", (64, 64), "red")
    mask = box((64, 64), 0, 0, 0.5, 1)
    shown = np.asarray(overlay(picture, mask), int)
    changed = np.abs(shown - np.asarray(picture, int)).max(-1) > 0
    assert (changed == (np.asarray(mask) > 0)).all()
    with pytest.raises(ValueError, match="does not fit"):
        overlay(picture, box((32, 32), 0, 0, 1, 1))


def test_the_editor_makes_the_mask_that_its_calls_make():
    editor = MaskEditor(Image.new("RGB", (128, 128), "blue"))
    assert not editor.touched
    editor.kind.value, editor.across.value, editor.down.value = "box", (0, 50), (0, 100)
    assert editor.touched
    assert area(editor.mask) == 0.5 and editor.calls == "box((128, 128), 0, 0, 0.5, 1)"
    editor.add.click()
    editor.kind.value, editor.across.value = "ellipse", (60, 90)
    assert area(editor.mask) > 0.6  # what is under the sliders belongs to it
    shown = editor._view.value
    editor.add.click()
    assert editor._view.value == shown and len(editor.pieces) == 2
    made = eval(editor.calls, {"box": box, "ellipse": ellipse, "joined": joined})
    assert made.tobytes() == editor.mask.tobytes()
    editor.restart.click()
    assert editor.calls.startswith("ellipse(") and not editor.touched and area(editor.mask) < 0.2


def test_the_editor_shows_the_picture_and_survives_closed_sliders():
    editor = MaskEditor(Image.new("RGB", (128, 128), "blue"), shown=256)
    before = editor._view.value
    assert Image.open(io.BytesIO(before)).size == (256, 256)
    for closed in ((100, 100), (0, 0)):
        editor.across.value = closed
        assert 0 < area(editor.mask) < 0.02
    assert editor._view.value != before
