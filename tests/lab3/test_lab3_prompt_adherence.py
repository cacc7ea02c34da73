"""Marks for pictures: the judge's for our own model, CLIP's for others; the shares that come of them."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from shared.diffusion_catalogue import HUB_MODELS
from shared.pretraining.diffusion.evaluation import GROUPS, prompts
from shared.pretraining.pictures.drawing import draw

sys.path.insert(0, str(Path(__file__).parents[2] / "lab3-stable-diffusion"))

import prompt_adherence as adherence  # noqa: E402

OTHER = HUB_MODELS["stable-diffusion-1.5"]
OWN = dataclasses.replace(OTHER, scored_by="judge")


def test_true_pictures_are_right_and_others_say_what_is_wrong():
    asked = adherence.trials(OWN, 3)
    assert [trial.group for trial in asked] == [group for group in GROUPS for _ in range(3)]
    drawn = [draw(p.description) for kind, held_out in GROUPS.values() for p in prompts(kind, held_out, 3)]
    marks = adherence.marks(OWN, drawn, asked)
    assert all(mark.right and mark.remark == "right" for mark in marks)
    assert set(adherence.shares(asked, marks)) == set(GROUPS)
    wrong = adherence.marks(OWN, [Image.new("RGB", (128, 128), "gray")] * len(asked), asked)
    assert not any(mark.right for mark in wrong)
    assert "shape" in wrong[0].wrong and wrong[0].remark.startswith("wrong: ")
    assert adherence.share(wrong)[0] == 0
    assert set(adherence.times_of_day(OWN, drawn[-6:])) <= {"day", "sunset", "night"}


def test_times_of_day_are_those_that_were_drawn():
    scenes = [p for p in prompts("scene", False, 12)]
    seen = adherence.times_of_day(OWN, [draw(p.description) for p in scenes])
    assert seen == [p.description.time for p in scenes]


def test_as_many_pictures_as_trials():
    with pytest.raises(ValueError, match="1 pictures for 6 trials"):
        adherence.marks(OWN, [Image.new("RGB", (128, 128))], adherence.trials(OWN, 1))


def test_other_models_get_prompts_of_everyday_things_all_different_and_the_same_each_time():
    asked = adherence.trials(OTHER, 10)
    assert asked == adherence.trials(OTHER, 10)
    assert len({trial.prompt for trial in asked}) == 40
    assert all(trial.prompt.startswith("a photo of a") and trial.named is None for trial in asked)
    assert len(adherence.trials(OTHER, 30)) == 120


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP with random weights: what it likes means nothing, but it is always the same."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    from shared.pretraining.diffusion.tokens import build_tokenizer

    tokenizer = build_tokenizer(32)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    vision = small | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


def test_clip_marks_a_picture_right_when_no_other_prompt_of_its_group_fits_better(clip):
    asked = adherence.trials(OTHER, 4)
    pictures = [Image.new("RGB", (64, 64), (16 * number, 90, 40)) for number in range(len(asked))]
    marks = adherence.marks(OTHER, pictures, asked, clip)
    for trial, mark, picture in zip(asked, marks, pictures, strict=True):
        rivals = [other.prompt for other in asked if other.group == trial.group]
        scores = dict(zip(rivals, adherence.clip_scores([picture], rivals, clip)[0], strict=True))
        assert mark.right == (scores[trial.prompt] >= max(scores.values()))
        assert mark.remark.startswith(f"CLIP score {scores[trial.prompt]:.0f}")
    assert len(adherence.times_of_day(OTHER, pictures[:2], clip)) == 2


def test_without_clip_it_says_what_is_missing(tmp_path):
    asked = adherence.trials(OTHER, 1)
    with pytest.raises(OSError):
        adherence.marks(OTHER, [Image.new("RGB", (64, 64))] * len(asked), asked, str(tmp_path / "nothing"))
