"""The upscaler of Lab 3's container: the network's folder, tiles, and what it refuses; the embedded one's gain."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.image_quality import psnr
from shared.pretraining.upscaler.data import smaller
from shared.pretraining.upscaler.evaluation import GROUPS, bicubic, held_out, worn
from shared.pretraining.upscaler.export import export
from shared.pretraining.upscaler.recipe import network

MODEL = Path(__file__).parents[2] / "shared" / "models" / "upscaler"
# By its path, since sys.path has the code folders of several labs, with modules of the same names.
MODULE = network()
Upscaler, load_upscaler, upscale = MODULE.Upscaler, MODULE.load_upscaler, MODULE.upscale


@pytest.fixture(scope="module")
def random_model():
    torch.manual_seed(1)
    model = Upscaler(8, 2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def test_it_enlarges_four_times_and_untrained_it_is_bicubic():
    picture = noise(20, 12)
    large = upscale(Upscaler(8, 2), picture)
    assert large.size == (80, 48) and large.mode == "RGB"
    # Another bicubic than Pillow's: coefficient -0.75, not -0.5.
    assert psnr(large, bicubic(picture)) > 25


def test_tiles_fit_without_a_seam(random_model):
    picture = noise(61, 45)
    whole = np.asarray(upscale(random_model, picture, tile=100), int)
    tiled = np.asarray(upscale(random_model, picture, tile=16), int)
    assert whole.shape == (180, 244, 3) and np.abs(whole - tiled).max() <= 1


def test_pictures_of_other_modes_and_of_one_pixel_are_enlarged(random_model):
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert upscale(random_model, noise(9, 7).convert(mode)).size == (36, 28)
    assert upscale(random_model, noise(1, 1)).size == (4, 4)


def test_a_folder_round_trip_keeps_the_network_but_for_fp16(random_model, tmp_path):
    loaded = load_upscaler(export(random_model, tmp_path / "model"))
    assert loaded.config == {"channels": 8, "blocks": 2, "scale": 4}
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    picture = noise(16, 16)
    assert psnr(upscale(loaded, picture), upscale(random_model, picture)) > 45


def test_broken_folders_are_refused_with_the_cause(random_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_upscaler(tmp_path)
    folder = export(random_model, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"channels": 16, "blocks": 2, "scale": 4}))
    with pytest.raises(ValueError, match="cannot be loaded.*size mismatch"):
        load_upscaler(folder)
    (folder / "config.json").write_text('{"width": 1}')
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_upscaler(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_upscaler(folder)
    with pytest.raises(ValueError, match="scale 3"):
        Upscaler(scale=3)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        upscale(random_model, noise(4, 4), tile=0)


@pytest.mark.parametrize("kind", list(GROUPS))
def test_the_embedded_upscaler_is_better_than_bicubic(kind):
    model = load_upscaler(MODEL)
    gains, worn_gains = [], []
    for number in range(100, 103):
        true = held_out(kind, number)
        small = smaller(true)
        gains.append(psnr(upscale(model, small), true) - psnr(bicubic(small), true))
        small = worn(small, number)
        worn_gains.append(psnr(upscale(model, small), true) - psnr(bicubic(small), true))
    assert np.mean(gains) > 1 and np.mean(worn_gains) > 0


def test_the_embedded_upscaler_is_small():
    assert (MODEL / "model.safetensors").stat().st_size < 4e6
