"""The diffusion model's recipe, on sizes that take seconds: tokenizer, data, trainings, export, evaluation, card."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from shared.pretraining.checkpoints import OtherRecipe
from shared.pretraining.diffusion import __main__ as command_line
from shared.pretraining.diffusion import card, evaluation
from shared.pretraining.diffusion.autoencoder import AutoencoderTrainer, channel_statistics, encode_all, standardise
from shared.pretraining.diffusion.data import Drawer, autoencoder_batch, captions_of, picture, write_captions
from shared.pretraining.diffusion.export import export, pipeline
from shared.pretraining.diffusion.recipe import AutoencoderRecipe, Recipe, WorkFolder
from shared.pretraining.diffusion.tokens import build_tokenizer, encode, load_tokenizer
from shared.pretraining.diffusion.training import NoiseLevels, UNetTrainer
from shared.pretraining.optimizing import Optimizers, rate_factor
from shared.pretraining.pictures.captions import words
from shared.pretraining.pictures.drawing import draw

TINY = Recipe(
    side=32, pictures=60, captions=2, tokens=24,
    autoencoder=AutoencoderRecipe(channels=(8, 8, 8), groups=4, steps=4, batch=4, warmup=1),
    text_width=16, text_layers=1, text_heads=2, unet_channels=(16, 16), unet_head=8, groups=4,
    steps=6, batch=4, warmup=1, checkpoint_every=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with tokenizer, captions, autoencoder and latents."""
    folder = WorkFolder(tmp_path_factory.mktemp("diffusion"))
    tokenizer = build_tokenizer(TINY.tokens)
    tokenizer.save_pretrained(folder.tokenizer)
    write_captions(tokenizer, TINY, folder.captions)
    trainer = AutoencoderTrainer(TINY, threads=1, dtype=torch.float32)
    model = trainer.train(folder.autoencoder)
    encode_all(model, TINY, folder.latents, dtype=torch.float32)
    return folder


def new_trainer(work, recipe=TINY):
    return UNetTrainer(recipe, load_tokenizer(work.tokenizer), threads=2, dtype=torch.float32)


def trained(work, checkpoint, recipe=TINY, until=None):
    trainer = new_trainer(work, recipe)
    trainer.train(work.latents, work.captions, checkpoint, until=until)
    return trainer


@pytest.fixture(scope="module")
def model_folder(work, tmp_path_factory):
    trainer = trained(work, work.checkpoint)
    autoencoder = AutoencoderTrainer(TINY)
    autoencoder.restore(work.autoencoder)
    standardise(autoencoder.model, np.load(work.latents))
    made = pipeline(TINY, load_tokenizer(work.tokenizer), **trainer.averaged(), autoencoder=autoencoder.model)
    return export(made, tmp_path_factory.mktemp("model") / "diffusion")


def test_every_word_of_the_captions_is_one_token_and_other_words_survive_too(work):
    tokenizer = load_tokenizer(work.tokenizer)
    for word in words():
        assert len(tokenizer(word)["input_ids"]) == 3, word
    assert (
        tokenizer.decode(tokenizer("a giraffe, Überzeugung")["input_ids"], skip_special_tokens=True).replace(" ", "")
        == "agiraffe,überzeugung"
    )


def test_texts_are_cut_and_filled_up_to_the_length(work):
    tokenizer = load_tokenizer(work.tokenizer)
    ids = encode(tokenizer, ["", "a red circle", "red " * 100])
    assert ids.shape == (3, TINY.tokens)
    assert (ids[:, 0] == tokenizer.bos_token_id).all() and (ids[:, -1] == tokenizer.eos_token_id).all()
    assert (ids[0, 1:] == tokenizer.pad_token_id).all()


def test_no_caption_of_the_training_is_cut():
    tokenizer = build_tokenizer(Recipe().tokens)
    texts = [text for number in range(300) for text in captions_of(Recipe(), number)]
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) <= Recipe().tokens


def test_data_depend_on_the_number_only_and_workers_draw_the_same():
    assert (picture(TINY, 7) == picture(TINY, 7)).all() and (picture(TINY, 7) != picture(TINY, 8)).any()
    assert captions_of(TINY, 7) == captions_of(TINY, 7)
    with Drawer(TINY, 1) as drawer:
        drawn = list(drawer.batches(autoencoder_batch, range(3)))
    for number, batch in enumerate(drawn):
        np.testing.assert_array_equal(batch, autoencoder_batch(TINY, number))


def test_autoencoder_learns_and_goes_on_from_a_checkpoint(tmp_path):
    recipe = replace(TINY, autoencoder=replace(TINY.autoencoder, steps=60, rate=0.01, abstract=0.0))
    straight = AutoencoderTrainer(recipe, threads=2, dtype=torch.float32)
    straight.train(tmp_path / "straight.pt")
    start = AutoencoderTrainer(recipe, threads=1, dtype=torch.float32)
    start.train(tmp_path / "start.pt", until=1)
    assert straight.losses[-1][1] < 0.8 * start.losses[0][1]
    first = AutoencoderTrainer(recipe, threads=2, dtype=torch.float32)
    first.train(tmp_path / "parts.pt", until=31)
    second = AutoencoderTrainer(recipe, threads=2, dtype=torch.float32)
    second.restore(tmp_path / "parts.pt")
    assert second.step == 31
    second.train(tmp_path / "parts.pt")
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_standardised_latents_have_mean_0_and_deviation_1_and_decode_to_the_same(work):
    trainer = AutoencoderTrainer(TINY)
    trainer.restore(work.autoencoder)
    latents = np.load(work.latents)
    pixels = torch.from_numpy(np.stack([picture(TINY, n) for n in range(8)])).float() / 127.5 - 1
    with torch.inference_mode():
        before = trainer.model.decode(trainer.model.encode(pixels).latent_dist.mean).sample
    standardise(trainer.model, latents)
    mean, deviation = channel_statistics(latents)
    with torch.inference_mode():
        posterior = trainer.model.encode(pixels).latent_dist
        after = trainer.model.decode(posterior.mean).sample
    torch.testing.assert_close(before, after, atol=2e-4, rtol=1e-3)
    wanted = (latents[:8] - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(posterior.mean, wanted, atol=0.01)


def test_training_learns_a_batch_by_heart(work, tmp_path):
    recipe = replace(TINY, steps=60, batch=16, caption_dropout=0.0, muon_rate=0.02, adamw_rate=0.01)
    start = trained(work, tmp_path / "start.pt", recipe, until=1)
    trainer = trained(work, tmp_path / "c.pt", recipe)
    assert trainer.losses[-1][1] < 0.8 * start.losses[0][1]


def test_interrupted_training_goes_on_as_if_it_had_not_been(work, tmp_path):
    straight = trained(work, tmp_path / "straight.pt")
    trained(work, tmp_path / "parts.pt", until=2)
    second = new_trainer(work)
    second.restore(tmp_path / "parts.pt")
    second.train(work.latents, work.captions, tmp_path / "parts.pt")
    assert second.step == TINY.steps
    for one, other in zip(straight.average, second.average, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_checkpoint_of_another_recipe_is_refused_and_named(work, tmp_path):
    trained(work, tmp_path / "c.pt", until=1)
    with pytest.raises(OtherRecipe, match="caption_dropout"):
        new_trainer(work, replace(TINY, caption_dropout=0.5)).restore(tmp_path / "c.pt")
    with pytest.raises(OtherRecipe, match="kl_weight"):
        other = replace(TINY, autoencoder=replace(TINY.autoencoder, kl_weight=1.0))
        AutoencoderTrainer(other).restore(work.autoencoder)


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="batch"):
        replace(TINY, batch=5)
    with pytest.raises(ValueError, match="side"):
        replace(TINY, side=36)
    with pytest.raises(ValueError, match="unet_channels"):
        replace(TINY, unet_channels=(16, 20))


def test_muon_steps_on_kernels_whatever_their_memory_format():
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(4, 6, 3).to(memory_format=layout)
        optimizer = Optimizers([(dict(layer.named_parameters()), 1.0)], muon_rate=0.1, adamw_rate=0.1, weight_decay=0.0)
        gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
        optimizer.step([gradient.contiguous(memory_format=layout), torch.ones(6)], 1.0)
        results.append(layer.weight.detach().clone(memory_format=torch.contiguous_format))
    torch.testing.assert_close(*results, atol=2e-2, rtol=0)
    torch.manual_seed(0)
    assert (results[0] - torch.nn.Conv2d(4, 6, 3).weight).abs().max() > 0.01


def test_muon_does_the_same_in_shards_side_by_side():
    results = []
    for shards in (1, 3):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Conv2d(6, 5, 3), torch.nn.Linear(5, 2))
        optimizer = Optimizers(
            [(dict(layers.named_parameters()), 1.0)], muon_rate=0.1, adamw_rate=0.1, weight_decay=0.1, shards=shards
        )
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                optimizer.step([torch.full_like(p, 0.5).cumsum(0) for p in layers.parameters()], 1.0, pool)
        results.append([parameter.detach() for parameter in layers.parameters()])
    assert len(optimizer.state_dict()) == 4
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_rates_rise_stay_and_fall_to_nothing():
    factors = [rate_factor(step, 100, 10, 0.4) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[10:41] == [1.0] * 31
    assert factors[100] == pytest.approx(0) and all(b <= a for a, b in zip(factors[40:], factors[41:], strict=False))


def test_noise_levels_lie_around_the_middle_and_strong_signals_count_less():
    recipe = Recipe()
    levels = NoiseLevels(recipe)
    drawn = np.concatenate([levels.draw(np.random.default_rng(seed), 64) for seed in range(50)])
    assert drawn.min() >= 0 and drawn.max() < recipe.noise_steps
    assert abs(np.median(levels.logs[drawn]) - recipe.noise_mean) < 0.25
    signal, noise, weight = levels.tables
    torch.testing.assert_close(signal**2 + noise**2, torch.ones_like(signal))
    ratio = (signal / noise) ** 2
    assert (weight[ratio < recipe.snr_limit] == 1).all() and weight[0] < 0.01


def test_caption_is_dropped_as_often_as_the_recipe_says(work):
    trainer = new_trainer(work, replace(TINY, batch=400, caption_dropout=0.25))
    pictures, texts = np.load(work.latents), np.load(work.captions)
    ids = torch.cat([part[3] for part in trainer._batch(pictures, texts)])
    share = (ids == trainer.no_caption).all(1).float().mean()
    assert 0.18 < share < 0.32


def test_exported_folder_loads_draws_and_keeps_what_else_is_in_it(model_folder, work):
    (model_folder / "README.md").write_text("card")
    painter = evaluation.Painter(model_folder, threads=1)
    export(StableDiffusionPipeline.from_pretrained(model_folder, dtype=torch.float32), model_folder)
    assert (model_folder / "README.md").read_text() == "card"
    config = json.loads((model_folder / "unet" / "config.json").read_text())
    assert config["sample_size"] == TINY.latent_side
    assert not list(model_folder.parent.glob("*.partial"))
    one, two = painter.draw(["a red circle", "a boat on a lake"], steps=3, batch=2)
    assert one.size == (TINY.side, TINY.side) and one.mode == "RGB"
    again = painter.draw(["a boat on a lake"], first_seed=1, steps=3)[0]
    assert np.abs(np.asarray(two, int) - np.asarray(again, int)).mean() <= 1


def test_exported_folder_serves_image_to_image(model_folder):
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(model_folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    start = Image.new("RGB", (TINY.side, TINY.side), "blue")
    made = pipe("a red circle", image=start, strength=0.5, num_inference_steps=4).images[0]
    assert made.size == start.size


def test_evaluation_prompts_name_what_is_held_out_and_repeat():
    for kind, held_out in evaluation.GROUPS.values():
        asked = list(evaluation.prompts(kind, held_out, 20))
        assert asked == list(evaluation.prompts(kind, held_out, 20))
        assert len({prompt.text for prompt in asked}) > 15
        assert all(colour for prompt in asked for _, colour, _ in prompt.named.things)


def test_true_pictures_score_full_marks_and_wrong_ones_none():
    asked = list(evaluation.prompts("single", True, 20))
    true = [draw(prompt.description) for prompt in asked]
    best = evaluation.score(true, asked)
    assert best["right"] == 20 and best["high"] == pytest.approx(1) and 0.8 < best["low"] < 0.9
    assert set(best["attributes"].values()) == {1.0}
    worst = evaluation.score([Image.new("RGB", (128, 128), "gray")] * 20, asked)
    assert worst["right"] == 0 and worst["low"] == 0


def test_card_tells_what_misses_its_goal(model_folder, tmp_path, monkeypatch):
    groups = [
        {
            "group": name,
            "right": 9,
            "trials": 10,
            "share": 0.9,
            "low": 0.6,
            "high": 0.98,
            "attributes": {"shape": 0.9},
            "second_lights": 0.07,
        }
        for name in evaluation.GROUPS
    ]
    kinds = {kind: {"psnr": 30.0, "right": 0.99} for kind in ("single", "pair", "scene")}
    results = {"guidance": 4.0, "steps": 20, "groups": groups, "autoencoder": kinds, "seconds": 0.3}
    run = {
        "parameters": {"UNet": 1_000_000}, "machine": "2 threads", "autoencoder_minutes": "1", "minutes": "2",
        "cpu_minutes": "4", "loss": "0.1",
    }  # fmt: skip
    text = card.write_card(model_folder, TINY, results, run).read_text()
    assert "| single shapes | 90.0% | 60.0% to 98.0% | 10 | 95% | 85% | ships |" in text
    assert "single shapes: 90.0%, the goal is 95% (ships)" in text
    assert "A second sun or moon stands in 7.0% of the scenes and 7.0% of the scenes never seen so" in text
    assert "{" not in text.partition("```")[0] and "0.30 s" in text


def test_whole_recipe_by_its_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "Recipe", lambda **given: replace(TINY, **given))
    common = ["--work-dir", str(tmp_path / "work"), "--out", str(tmp_path / "model"), "--threads", "1", "--trials", "2"]
    common += ["--steps", "2", "--autoencoder-steps", "2", "--pictures", "40", "--dtype", "float32"]
    assert command_line.main(["train", *common]) == 1
    assert "run the command data first" in capsys.readouterr().err
    assert command_line.main(["all", *common]) == 0
    assert (tmp_path / "model" / "README.md").exists() and (tmp_path / "model" / "contact_sheet.png").exists()
    assert "step,loss" in (tmp_path / "work" / "loss.csv").read_text()
    assert command_line.main(["data", *common]) == 0
    assert "of this recipe already" in capsys.readouterr().out
    other = [*common, "--steps", "5"]
    assert command_line.main(["train", *other]) == 1
    assert "another steps" in capsys.readouterr().err
