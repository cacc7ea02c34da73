"""How notebook 2 measures edits."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "lab3-stable-diffusion"))

from editing import changed, edits, landscape, moved, removal, replacement, shows, steps_between_columns  # noqa: E402
from masks import box  # noqa: E402

from shared.pretraining.pictures.captions import words  # noqa: E402
from shared.pretraining.pictures.description import Pair, Scene, Single, Thing  # noqa: E402
from shared.pretraining.pictures.drawing import draw  # noqa: E402
from shared.pretraining.pictures.vocabulary import held_out_combination, held_out_pair, held_out_scene  # noqa: E402

OURS, HUB = SimpleNamespace(scored_by="judge"), SimpleNamespace(scored_by="CLIP score")


def wishes(model):
    found = [wish for edit in (*edits(model), replacement(model), removal(model)) for wish in (edit.before, edit.after)]
    return [*found, landscape(model)]


def drawn(wish):
    """A true picture of a wish."""
    named = wish.named
    if named.kind == "single":
        ((size, colour, shape),) = named.things
        return draw(Single(Thing(shape, colour, size, (0.5, 0.5), 0.56), named.background, "center"))
    if named.kind == "pair":
        (_, one, first), (_, other, second) = named.things
        left, right = Thing(first, one, "medium", (0.27, 0.5), 0.37), Thing(second, other, "medium", (0.73, 0.5), 0.37)
        return draw(Pair(left, right, named.relation, named.background))
    return draw(
        Scene(
            named.time,
            named.ground,
            ("house", "tree"),
            ("red", None),
            (0.28, 0.72),
            (1.0, 1.0),
            False,
            (0.5, 0.2),
            0.64,
            0.3,
        )  # fmt: skip
    )


def test_a_wish_is_shown_by_its_own_true_picture_and_by_no_other():
    all_wishes = {wish.prompt: wish for wish in wishes(OURS)}
    for text, wish in all_wishes.items():
        assert [other for other in all_wishes if shows(OURS, drawn(all_wishes[other]), wish)] == [text]


def test_the_embedded_model_has_been_trained_on_all_that_is_wished():
    for wish in wishes(OURS):
        assert set(wish.prompt.split()) <= set(words())
        named = wish.named
        if named.kind == "scene":
            assert not held_out_scene(named.time, named.ground, tuple(part for part, _ in named.parts))
        assert not any(held_out_combination(colour, shape) for _, colour, shape in named.things)
        if named.kind == "pair":
            assert not held_out_pair(named.relation, *(shape for _, _, shape in named.things))


def test_other_models_get_wishes_that_clip_can_mark():
    assert all(wish.named is None for wish in wishes(HUB))
    assert all(edit.before.prompt != edit.after.prompt for edit in (*edits(HUB), replacement(HUB), removal(HUB)))


def test_what_moved_and_what_changed_is_counted():
    before = Image.new("RGB", (64, 32), (10, 20, 30))
    after = before.copy()
    after.paste((20, 20, 30), (0, 0, 16, 32))
    assert moved(before, before) == 0 and moved(before, after) == pytest.approx(10 / 3 / 4)
    assert changed(before, after, box((64, 32), 0, 0, 0.5, 1)) == (16 * 32, 32 * 32)
    assert changed(before, after, box((64, 32), 0.5, 0, 1, 1)) == (0, 32 * 32)
    with pytest.raises(ValueError, match="cannot be compared"):
        moved(before, after.resize((32, 32)))
    with pytest.raises(ValueError, match="does not fit"):
        changed(before, after, box((32, 32), 0, 0, 1, 1))


def test_the_watermark_of_large_pictures_is_no_change():
    path = Path(__file__).parents[2] / "lab3-stable-diffusion" / "code" / "watermark.py"
    watermark = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("watermark", path))
    spec.loader.exec_module(watermark)
    large = Image.effect_noise((256, 256), 60).convert("RGB")
    marked, everything = watermark.add_watermark(large), box((256, 256), 0, 0, 1, 1)
    assert moved(large, marked) > 0 and changed(large, marked, everything)[0] == 0
    marked.paste((0, 0, 0), (0, 0, 16, 16))
    assert changed(large, marked, everything)[0] > 200


def test_a_seam_is_where_columns_differ():
    picture = Image.new("RGB", (32, 8), "black")
    picture.paste((30, 30, 30), (20, 0, 32, 8))
    steps = steps_between_columns(picture)
    assert steps.shape == (31,) and np.flatnonzero(steps).tolist() == [19] and steps[19] == 30
