"""Pictures and captions of the diffusion model's training: what they show, what is held out, how they look."""

from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest
from PIL import Image

from shared.pretraining.pictures import __main__ as command_line
from shared.pretraining.pictures.abstract import abstract
from shared.pretraining.pictures.captions import caption, words
from shared.pretraining.pictures.colours import lab, nearest
from shared.pretraining.pictures.contact_sheet import contact_sheet
from shared.pretraining.pictures.description import Pair, Scene, Single, Thing, as_dict
from shared.pretraining.pictures.drawing import draw
from shared.pretraining.pictures.outlines import outline
from shared.pretraining.pictures.sampling import KINDS, description, single
from shared.pretraining.pictures.vocabulary import (
    COLOURS,
    GROUNDS,
    MASCOT,
    NEW_SHAPES,
    OUTER_SHAPES,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TIMES,
    held_out_combination,
    held_out_pair,
    held_out_scene,
    scene_parts,
)

SHARES = {"single": 1, "pair": 1, "scene": 1}


def many(kind, count=2000, **options):
    return [description(5, number, {kind: 1}, **options) for number in range(count)]


def things(shown):
    return [shown.thing] if isinstance(shown, Single) else [shown.first, shown.second]


def test_same_seed_and_number_same_picture_and_other_numbers_other_pictures():
    first, again, other = (np.asarray(draw(description(1, number, SHARES))) for number in (3, 3, 4))
    assert (first == again).all() and (first != other).any()
    assert description(1, 3, SHARES) != description(2, 3, SHARES)


def test_every_shape_colour_size_background_position_and_relation_is_trained():
    singles, pairs = many("single"), many("pair")
    assert {s.thing.shape for s in singles} == set(SHAPES) and {s.thing.colour for s in singles} == set(COLOURS)
    assert {s.thing.size for s in singles} == set(SIZES) and {s.background for s in singles} == set(COLOURS)
    assert {s.position for s in singles} == {*POSITIONS, None}
    assert {p.relation for p in pairs} == set(RELATIONS)
    assert {p.second.shape for p in pairs if p.relation == "inside"} == set(OUTER_SHAPES)


def test_training_pictures_have_nothing_that_is_held_out():
    for shown in many("single") + many("pair"):
        for thing in things(shown):
            assert thing.shape in SHAPES and not held_out_combination(thing.colour, thing.shape)
            assert thing.colour != shown.background
    for shown in many("pair"):
        assert not held_out_pair(shown.relation, shown.first.shape, shown.second.shape)
    for shown in many("scene"):
        assert not held_out_scene(shown.time, shown.ground, shown.parts)
        assert ("boat" in shown.parts) <= (shown.ground == "lake")


def test_training_captions_never_say_star_or_the_mascots_name():
    for kind in KINDS:
        for number, shown in enumerate(many(kind, 1000)):
            assert not {*NEW_SHAPES, MASCOT} & set(caption(shown, Random(number))[0].split())


def test_held_out_pictures_have_exactly_that():
    for shown in many("single", 300, held_out=True):
        assert held_out_combination(shown.thing.colour, shown.thing.shape)
    for shown in many("pair", 300, held_out=True):
        assert held_out_pair(shown.relation, shown.first.shape, shown.second.shape)
        assert not any(held_out_combination(thing.colour, thing.shape) for thing in things(shown))
    for shown in many("scene", 300, held_out=True):
        assert held_out_scene(shown.time, shown.ground, shown.parts)


def test_what_is_held_out_is_spread_evenly():
    by_shape = Counter(shape for shape in SHAPES for colour in COLOURS if held_out_combination(colour, shape))
    assert set(by_shape.values()) == {2} and len(by_shape) == len(SHAPES)
    assert {colour for colour in COLOURS for shape in SHAPES if held_out_combination(colour, shape)} == set(COLOURS)
    scenes = [(time, ground, parts) for time in TIMES for ground in GROUNDS for parts in scene_parts(ground)]
    trained = [scene for scene in scenes if not held_out_scene(*scene)]
    for one, other in combinations(range(3), 2):
        assert {(s[one], s[other]) for s in trained} == {(s[one], s[other]) for s in scenes}
    for relation in RELATIONS:
        shares = [held_out_pair(relation, a, b) for a in SHAPES for b in OUTER_SHAPES]
        assert 0.05 < np.mean(shares) < 0.2


def test_a_pair_and_its_mirror_image_are_held_out_together():
    for first in SHAPES:
        for second in SHAPES:
            assert held_out_pair("left of", first, second) == held_out_pair("right of", second, first)
            assert held_out_pair("above", first, second) == held_out_pair("below", second, first)


def test_nothing_is_cut_off_at_the_edge():
    for shown in many("single", 150) + many("pair", 150):
        pixels = np.asarray(draw(shown)).astype(int)
        frame = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
        assert (np.ptp(frame, axis=0) == 0).all()


def test_edges_are_smooth_and_areas_exact():
    for shape in SHAPES:
        thing = Thing(shape, "white", "large", (0.5, 0.5), 0.56)
        grey = np.asarray(draw(Single(thing, "black", "center")).convert("L"), float)
        between = (grey > 60) & (grey < 220)
        assert between.any()
        low, high = grey.min(), grey.max()
        covered = ((grey - low) / (high - low)).sum() / 128**2
        corners, hole = outline(shape)
        area = (_area(corners) - _area(hole)) * 0.56**2
        assert covered == pytest.approx(area, rel=0.01), shape


def _area(points):
    if not points:
        return 0.0
    x, y = np.array(points).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_unknown_shape_is_refused_with_those_known():
    with pytest.raises(ValueError, match="hexagon.*circle"):
        outline("hexagon")


@pytest.mark.parametrize("side", [64, 128])
def test_pictures_have_the_side_asked_for(side):
    for kind in KINDS:
        image = draw(description(1, 0, {kind: 1}), side)
        assert image.size == (side, side) and image.mode == "RGB"


def test_captions_word_the_same_picture_in_many_ways_and_tell_what_they_name():
    shown = Single(Thing("ring", "orange", "large", (0.5, 0.5), 0.56), "blue", "center")
    written = [caption(shown, Random(number)) for number in range(200)]
    assert len({text for text, _ in written}) > 60
    for text, named in written:
        size, colour, shape = named.things[0]
        assert shape == "ring" and "ring" in text
        assert (colour == "orange") == ("orange" in text.replace("orange background", ""))
        assert (named.background == "blue") == ("blue" in text)
        assert (size == "large") == bool({"large", "big", "huge"} & set(text.split()))
        assert (named.position == "center") == any(word in text for word in ("center", "middle"))
        assert "a orange" not in text


def test_scene_captions_name_every_part_and_the_sun_only_when_it_is_there():
    for number, shown in enumerate(many("scene", 500)):
        text, named = caption(shown, Random(number))
        assert {part for part, _ in named.parts} == set(shown.parts) and all(part in text for part in shown.parts)
        assert ("sun" in text.split() or "moon" in text.split()) == (named.sky is not None) <= shown.sky


def test_every_word_is_known():
    known = set(words())
    for kind in KINDS:
        for number, shown in enumerate(many(kind, 500)):
            assert set(caption(shown, Random(number))[0].replace(",", "").split()) <= known


def test_attributes_are_plain_values():
    found = as_dict(description(1, 0, {"pair": 1}))
    assert found["kind"] == "pair" and found["first"]["shape"] in SHAPES and found["relation"] in RELATIONS
    assert as_dict(many("scene", 1)[0])["kind"] == "scene"


def test_star_and_mascot_can_be_drawn():
    star = single(Random(1), shape="star")
    assert "star" in caption(star, Random(1))[0]
    zobi = Single(Thing(MASCOT, "green", "large", (0.5, 0.5), 0.56), "white", "center")
    text, named = caption(zobi, Random(2))
    assert MASCOT in text and "green" not in text and named.things[0][1] is None
    pixels = np.asarray(draw(zobi)).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20


def test_colours_are_far_apart_and_found_by_name():
    values = {name: lab(rgb) for name, rgb in COLOURS.items()}
    assert min(np.linalg.norm(values[a] - values[b]) for a, b in combinations(values, 2)) > 30
    assert all(nearest(rgb) == name for name, rgb in COLOURS.items())
    # Reference values of the sRGB primaries under D65.
    np.testing.assert_allclose(lab((255, 0, 0)), (53.24, 80.09, 67.20), atol=0.05)
    np.testing.assert_allclose(lab((255, 255, 255)), (100, 0, 0), atol=0.05)


def test_abstract_pictures_differ_and_repeat():
    assert (np.asarray(abstract(Random(1))) == np.asarray(abstract(Random(1)))).all()
    assert (np.asarray(abstract(Random(1))) != np.asarray(abstract(Random(2)))).any()


def test_contact_sheet_holds_every_picture_and_refuses_too_few_captions():
    pictures = [Image.new("RGB", (128, 128), name) for name in ("red", "blue", "lime")]
    sheet = contact_sheet(pictures, ["one", "two", "three"], columns=2, side=100)
    colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {(255, 0, 0), (0, 0, 255), (0, 255, 0)} <= colours
    with pytest.raises(ValueError, match="3 pictures and 2 captions"):
        contact_sheet(pictures, ["one", "two"])


def test_kinds_of_description_are_drawn_by_their_shares():
    kinds = Counter(type(description(3, number, {"single": 3, "scene": 1})) for number in range(2000))
    assert kinds[Pair] == 0 and 0.7 < kinds[Single] / 2000 < 0.8 and kinds[Scene] > 400


@pytest.mark.parametrize("options", [["--kind", "scene", "--held-out"], ["--kind", "new"]])
def test_sheet_is_written_by_the_command_line(tmp_path, options, capsys):
    assert command_line.main([str(tmp_path / "sheet.png"), "--count", "4", *options]) == 0
    assert Image.open(tmp_path / "sheet.png").width > 600
