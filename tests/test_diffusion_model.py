"""The embedded diffusion model as it is committed: complete, as its card says, and able to draw what it is told."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from shared.pretraining.diffusion.card import GOALS
from shared.pretraining.diffusion.evaluation import GROUPS, Painter, prompts, reconstruction, score
from shared.pretraining.diffusion.recipe import Recipe
from shared.pretraining.pictures.captions import words

FOLDER = Path(__file__).parent.parent / "shared" / "models" / "diffusion"
WORDS = (
    "circle square triangle diamond cross ring heart moon house tree mountain boat sun day sunset night grass lake "
    "desert snow red green blue yellow orange purple pink cyan white black gray small large star zobi"
)
PROMPT = "a large red ring on a blue background"


@pytest.fixture(scope="module")
def painter():
    return Painter(FOLDER)


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def weights():
    return sorted(FOLDER.glob("*/*.safetensors"))


def test_folder_is_complete_and_small():
    wanted = {
        "README.md", "contact_sheet.png", "generation_defaults.json", "model_index.json",
        "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    }  # fmt: skip
    assert {path.name for path in FOLDER.iterdir()} == wanted
    assert sum(path.stat().st_size for path in weights()) <= 20_000_000


def test_weights_are_those_of_the_card(card, painter):
    for path in weights():
        row = f"| `{path.relative_to(FOLDER)}` | {path.stat().st_size / 1e6:.1f} |"
        assert f"{row} `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in card
    for name, network in (("UNet", painter.pipe.unet), ("autoencoder", painter.pipe.vae)):
        assert f"| {name} | {sum(p.numel() for p in network.parameters()) / 1e6:.2f} |" in card


def test_card_has_its_parts_and_measured_every_group(card):
    for part in ("Data and recipe", "What is held out", "Evaluation", "A look at the sheet", "Limits"):
        assert f"\n## {part}\n" in card
    assert "Not yet written" not in card and "CPU-minutes" in card
    rows = re.findall(r"^\| (.+) \| ([\d.]+)% \| ([\d.]+)% to ([\d.]+)% \| (\d+) \|", card, re.M)
    assert [row[0] for row in rows] == list(GROUPS)
    for group, share, low, high, count in rows:
        assert float(low) <= float(share) <= float(high) and int(count) >= 300
        assert float(share) / 100 >= GOALS[group].least, group


def test_parts_are_those_of_stable_diffusion(painter):
    pipe, recipe = painter.pipe, Recipe()
    parts = pipe.tokenizer, pipe.text_encoder, pipe.vae, pipe.unet, pipe.scheduler
    kinds = CLIPTokenizer, CLIPTextModel, AutoencoderKL, UNet2DConditionModel, DPMSolverMultistepScheduler
    assert all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=True))
    assert pipe.unet.config.sample_size * recipe.factor == recipe.side == 128
    defaults = json.loads((FOLDER / "generation_defaults.json").read_text())
    assert defaults.keys() >= {"guidance_scale", "num_inference_steps"}


def test_every_word_is_one_token(painter):
    for word in {*WORDS.split(), *words()}:
        assert len(painter.pipe.tokenizer(word).input_ids) == 3, word


# Few prompts, and bars far enough below the card's figures that chance does not decide.
@pytest.mark.parametrize(("group", "least"), list(zip(GROUPS, (0.7, 0.6, 0.5, 0.25, 0.75, 0.75), strict=True)))
def test_draws_what_the_prompt_says(painter, group, least):
    asked = list(prompts(*GROUPS[group], 24))
    drawn = painter.draw([prompt.text for prompt in asked], first_seed=77_000)
    assert score(drawn, asked)["share"] >= least


def test_autoencoder_keeps_edges_and_what_they_show(painter):
    for found in reconstruction(painter.pipe.vae, 20).values():
        assert found["psnr"] > 33 and found["right"] >= 0.8


def test_same_seed_same_picture_and_another_seed_another(painter):
    first, second = painter.draw([PROMPT, PROMPT], first_seed=1)
    (again,) = painter.draw([PROMPT], first_seed=1)
    assert np.abs(np.asarray(first, int) - np.asarray(again, int)).mean() <= 1
    assert np.abs(np.asarray(first, int) - np.asarray(second, int)).mean() > 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loads_and_draws_in_smaller_dtypes(dtype):
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipe(PROMPT, num_inference_steps=10, guidance_scale=2.0, generator=generator).images[0]
    assert picture.size == (128, 128) and np.asarray(picture).std() > 10
    red, _, blue = np.asarray(picture, int)[0, 0]
    assert blue > red + 50


def test_librarys_other_pipelines_take_it():
    start = Image.new("RGB", (128, 128), (30, 80, 220))
    generator = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 10, "guidance_scale": 2.0, "generator": generator}
    change = StableDiffusionImg2ImgPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    changed = change(PROMPT, image=start, strength=0.9, **settings).images[0]
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (32, 32, 96, 96))
    paint = StableDiffusionInpaintPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    painted = paint(PROMPT, image=start, mask_image=mask, strength=1.0, **settings).images[0]
    for picture in (changed, painted):
        assert picture.size == (128, 128) and np.asarray(picture).std() > 10
