"""The upscaler's recipe, on sizes that take seconds: patches, training, resuming, export, evaluation, card."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from shared.image_quality import psnr, ssim
from shared.pretraining.checkpoints import OtherRecipe
from shared.pretraining.upscaler import __main__ as command_line
from shared.pretraining.upscaler import evaluation, export
from shared.pretraining.upscaler.data import Batches, busy_places, large_picture, smaller, write_patches
from shared.pretraining.upscaler.recipe import Recipe, WorkFolder, network
from shared.pretraining.upscaler.training import UpscalerTrainer

TINY = Recipe(
    channels=8, blocks=2, side=64, pictures=12, patches=3, patch=32, steps=30, batch=4, warmup=2, checkpoint_every=10
)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                         up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4).eval()  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = WorkFolder(tmp_path_factory.mktemp("upscaler"))
    write_patches(TINY, folder)
    return folder


def trained(work, checkpoint, recipe=TINY, until=None, restore=False):
    trainer = UpscalerTrainer(recipe, threads=2, dtype=torch.float32)
    if restore:
        trainer.restore(checkpoint)
    trainer.train(Batches(recipe, work), checkpoint, until=until)
    return trainer


def weights(trainer):
    return torch.cat([value.flatten() for value in trainer.model.state_dict().values()])


def test_training_pictures_repeat_and_differ():
    one, again, other = (large_picture(TINY, number).tobytes() for number in (1, 1, 2))
    assert one == again != other


def test_patches_are_cut_where_there_is_something_to_see():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[40:, 40:] = np.random.default_rng(0).integers(0, 255, (24, 24, 3))
    places = busy_places(picture, 16, 200, Random(1))
    assert all(top % 4 == 0 and left % 4 == 0 and top <= 48 and left <= 48 for top, left in places)
    assert np.mean([top > 24 and left > 24 for top, left in places]) > 0.4  # by chance, of all places a quarter


def test_a_batch_is_the_averaged_patch_where_nothing_was_done_to_it(work):
    clean = replace(TINY, soft=0.0, decoded=0.0)
    small, large = Batches(clean, work).batch(3)
    assert small.shape == (4, 3, 8, 8) and large.shape == (4, 3, 32, 32)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(large, 4), atol=0.6 / 255, rtol=0)
    again = Batches(clean, work).batch(3)
    assert torch.equal(small, again[0]) and torch.equal(large, again[1])
    assert not torch.equal(large, Batches(clean, work).batch(4)[1])


def test_worn_inputs_differ_and_their_targets_do_not(work):
    clean, soft = (Batches(replace(TINY, soft=share, decoded=0.0), work).batch(3) for share in (0.0, 1.0))
    assert torch.equal(clean[1], soft[1]) and (clean[0] - soft[0]).abs().mean() > 2e-3


def test_what_the_autoencoder_makes_of_the_small_pictures_is_trained_on(tmp_path, autoencoder):
    folder = WorkFolder(tmp_path)
    write_patches(TINY, folder, autoencoder)
    assert json.loads(folder.about.read_text())["decoded"] is True
    recipe = replace(TINY, soft=0.0, decoded=1.0)
    small, large = Batches(recipe, folder).batch(0)
    # An untrained autoencoder keeps nothing of the colours.
    assert (small - torch.nn.functional.avg_pool2d(large, 4)).abs().mean() > 0.1
    write_patches(TINY, folder)
    assert not folder.decoded.exists()


def test_training_lowers_the_loss_and_an_interrupted_one_ends_the_same(work, tmp_path):
    whole = trained(work, tmp_path / "whole.pt", replace(TINY, steps=20))
    trained(work, tmp_path / "parts.pt", replace(TINY, steps=20), until=7)
    parts = trained(work, tmp_path / "parts.pt", replace(TINY, steps=20), restore=True)
    assert parts.step == whole.step == 20
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-5, rtol=1e-4)
    small, large = Batches(TINY, work).batch(1000)
    before = UpscalerTrainer(TINY, dtype=torch.float32)._loss(small, large, 1.0)
    assert whole._loss(small, large, 1.0) < before


def test_a_checkpoint_of_another_recipe_is_refused(work, tmp_path):
    trained(work, tmp_path / "one.pt", until=2)
    with pytest.raises(OtherRecipe, match="muon_rate"):
        trained(work, tmp_path / "one.pt", replace(TINY, muon_rate=1.0), restore=True)


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        Recipe(patch=30)
    with pytest.raises(ValueError, match="at most 1"):
        Recipe(soft=0.7, decoded=0.6)


def test_the_commands_make_a_model_folder_with_a_card(tmp_path, monkeypatch, capsys, autoencoder):
    monkeypatch.setattr(command_line, "Recipe", lambda **chosen: replace(TINY, **chosen))
    monkeypatch.setattr(evaluation, "_SIDE", 176)
    monkeypatch.setattr(evaluation, "GROUPS", {"single": "single shapes", "abstract": "abstract pictures"})
    monkeypatch.setattr(export, "GROUPS", evaluation.GROUPS)
    autoencoder.save_pretrained(tmp_path / "diffusion" / "vae")
    out = tmp_path / "out"
    common = ["--work-dir", str(tmp_path / "work"), "--out", str(out), "--steps", "4", "--pictures", "4",
              "--channels", "8", "--blocks", "1", "--trials", "2", "--dtype", "float32"]  # fmt: skip
    with_model = [*common, "--autoencoder", str(tmp_path / "diffusion")]
    assert command_line.main(["train", *common]) == 1
    assert "run the command data first" in capsys.readouterr().err
    assert command_line.main(["data", *with_model]) == 0
    assert command_line.main(["train", "--until", "2", *common]) == 0
    assert command_line.main(["export", *common]) == 1
    assert "step 2 of 4" in capsys.readouterr().err
    assert command_line.main(["train", *common]) == 0
    for name in ("export", "evaluate", "card"):
        assert command_line.main([name, *with_model]) == 0
    card = (out / "README.md").read_text()
    assert "from the autoencoder" in card and "blurred, with noise" in card and "single shapes" in card
    assert Image.open(out / "contact_sheet.png").width > 1000
    assert command_line.main(["train", *common, "--seed", "2"]) == 1
    assert "another recipe" in capsys.readouterr().err


def test_an_untrained_network_gains_nothing_over_bicubic(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_SIDE", 64)
    monkeypatch.setattr(evaluation, "GROUPS", {"scene": "scenes"})
    export.export(network().Upscaler(8, 1), tmp_path / "plain")
    rows = evaluation.evaluate(tmp_path / "plain", trials=3)["rows"]
    assert [row["input"] for row in rows] == ["averaged down", "blurred, with noise"]
    assert all(abs(row["gain"]) < 0.5 and row["gain_low"] <= row["gain"] <= row["gain_high"] for row in rows)


def test_held_out_pictures_repeat_and_are_averaged_down():
    picture = evaluation.held_out("from above", 1)
    assert picture.tobytes() == evaluation.held_out("from above", 1).tobytes()
    assert smaller(picture).size == (128, 128)


def test_psnr_and_ssim_of_known_pictures():
    grey, lighter = (Image.new("RGB", (32, 32), (value,) * 3) for value in (100, 110))
    assert psnr(grey, grey) == float("inf") and ssim(grey, grey) == pytest.approx(1)
    assert psnr(lighter, grey) == pytest.approx(10 * np.log10(255**2 / 100))
    # Both constant: only the term of the means is left.
    assert ssim(lighter, grey) == pytest.approx((2 * 100 * 110 + 6.5025) / (100**2 + 110**2 + 6.5025))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    assert ssim(noise, grey) < 0.1 and psnr(noise, grey) < 12
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(grey, grey.resize((16, 16)))
    with pytest.raises(ValueError, match="too small"):
        ssim(grey.resize((8, 8)), grey.resize((8, 8)))
