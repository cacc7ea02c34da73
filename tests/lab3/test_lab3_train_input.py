"""What Lab 3's train.py refuses, and in which words; pictures of all kinds; the loss against its definition."""

import importlib
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusion_trainings import trainings_of_this_run, write_pictures
from PIL import Image
from tiny_pipelines import save_pipeline

CODE = Path(__file__).resolve().parents[2] / "lab3-stable-diffusion" / "code"


@pytest.fixture(scope="module")
def trainings():
    return trainings_of_this_run()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders with a model, pictures with captions (train), without (bare), and others that are wrong."""
    root = tmp_path_factory.mktemp("places")
    save_pipeline(root / "model")
    write_pictures(root / "train")
    write_pictures(root / "bare", captions=False)
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    for name, text in (("torn.png", None), ("page.png", b"<html>not found</html>")):
        write_pictures(root / name, count=1, captions=False)
        data = (root / name / "0.png").read_bytes()
        (root / name / "0.png").write_bytes(data[: len(data) // 2] if text is None else text)
    write_pictures(root / "bomb", count=1, captions=False)
    (root / "bomb" / "0.png").write_bytes(huge_png(12_000, 12_000))
    for name, lines in {
        "not-json": '{"file_name": "0.png", "text": "a star"}\n{"file_name": ',
        "no-name": '{"text": "a star"}',
        "gone": '{"file_name": "9.png", "text": "a star"}',
        "outside": '{"file_name": "../train/0.png", "text": "a star"}',
        "no-caption": '{"file_name": "0.png", "text": " "}',
    }.items():
        write_pictures(root / name, count=1, captions=False)
        (root / name / "metadata.jsonl").write_text(lines)
    unet = json.loads((root / "model" / "unet" / "config.json").read_text())
    index = json.loads((root / "model" / "model_index.json").read_text())
    for name, changed in (("inpainting", unet | {"in_channels": 9}), ("other-kind", unet)):
        (root / name / "unet").mkdir(parents=True)
        (root / name / "unet" / "config.json").write_text(json.dumps(changed))
        kind = {"_class_name": "FluxPipeline"} if name == "other-kind" else {}
        (root / name / "model_index.json").write_text(json.dumps(index | kind))
    (root / "archive").mkdir()
    (root / "archive" / "model.tar.gz").write_bytes(b"\x1f\x8b this is no archive")
    return root


def huge_png(width, height):
    """A small file that says it has so many pixels."""
    found = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found


def given(places, words):
    """Flags, with @NAME standing for a folder of `places`."""
    return [str(places / word[1:]) if word.startswith("@") else word for word in words.split()]


WRONG = {
    "": "there are no training pictures",
    "--train @train": "there is no model to start from",
    "--train @nowhere --model @model": "there is no file or folder",
    "--train @train/0.png --model @model": "is a file: name the folder",
    "--train @train --model @empty": "there is no model_index.json",
    "--train @train --model @archive": "model.tar.gz in the model channel cannot be unpacked",
    "--train @train --model @inpainting": "takes 9 channels, as those for inpainting do",
    "--train @train --model @other-kind": "is a FluxPipeline; this script trains StableDiffusionPipeline and",
    "--train @train --model_name_or_path no/such-model": "neither a folder nor a pipeline",
    "--train @empty --model @model": "holds no pictures",
    "--train @bare --model @model": "have no captions: put a metadata.jsonl beside them",
    "--train @torn.png --model @model --instance_prompt x": "0.png is no picture that can be read",
    "--train @page.png --model @model --instance_prompt x": "0.png is no picture that can be read",
    "--train @bomb --model @model --instance_prompt x": "12000 × 12000 pixels, more than 100,000,000",
    "--train @not-json --model @model": "metadata.jsonl, line 2 is not JSON",
    "--train @no-name --model @model": "metadata.jsonl, line 1 names no picture",
    "--train @gone --model @model": "line 1: there is no picture 9.png",
    "--train @outside --model @model": "line 1: there is no picture ../train/0.png",
    "--train @no-caption --model @model": "0.png has no caption",
    "--train @train --model @model --evaluation @empty": "should hold one .jsonl file, and holds 0",
    "--train @train --model @model --evaluation @train": "metadata.jsonl, line 1 is not like",
    "--train @train --model @model --class @bare": "by --class_prompt",
    "--train @train --model @model --resolution 33": "takes multiples of 8 pixels",
    "--train @train --model @model --resolution 8": "not a whole number from 16 to 4096",
    "--train @train --model @model --precision fp16": "needs a GPU",
    "--train @train --model @model --learning_rate nan": "is not a number above 0",
    "--train @train --model @model --rank 2.5": "'2.5' is not a whole number from 1 to 1024",
    "--train @train --model @model --resume yes": "neither true nor false",
    "--train @train --model @model --method dreambuth": "invalid choice: 'dreambuth'",
    "--train @train --model @model --lora_rank 3": "unrecognized arguments: --lora_rank 3",
    "--train @train --model @model --adapter_name ../x": "not a folder's name",
    "--train @train --model @model --validation_prompts a||b": "has an empty part",
    "--train @train --model @model --max_train_steps 3 --num_train_epochs 1": "give one of them",
    "--train @train --model @model --method dreambooth": "name the class by --class_prompt",
    "--train @train --model @model --method textual_inversion": "name it by --placeholder_token",
    "--train @train --model @model --placeholder_token <star>": "does not have the new word <star>",
    "--train @train --model @model --method full --placeholder_token star": "not with full",
    "--train @train --model @model --initializer_token cross": "name it by --placeholder_token",
    "--train @train --model @model --placeholder_token star --initializer_token zebra": "choose a word that is one",
    "--train @train --model @model --placeholder_token star --num_vectors 2": "that is one vector",
    "--train @train --model @model --learning_rate 9 --max_train_steps 90 --lr_warmup_steps 0": "has blown up",
    "--train @train --model @model --model_dir @model": "holds the base model and would overwrite it",
}


@pytest.mark.parametrize("words", WRONG, ids=lambda words: words.replace("--train @train --model @model", "...") or "-")
def test_wrong_input_is_refused_in_clear_words(trainings, places, tmp_path, words):
    flags = ["--num_validation_images", "0", *given(places, words)]
    running = trainings.start(tmp_path / "run", *flags)
    assert running.wait() == 1, running.log
    last = running.log.splitlines()[-1]
    assert last.startswith("ERROR: ") and WRONG[words] in last, running.log
    assert "Traceback" not in running.log
    assert not (tmp_path / "run" / "model").exists()


@pytest.fixture(scope="module")
def modules():
    """Modules of the script, imported as it imports them; afterwards other labs' of the same names can be."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(CODE))
    try:
        yield importlib.import_module
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(CODE)):
                del sys.modules[name]


def test_pictures_of_all_kinds_become_squares(modules, tmp_path):
    pictures = modules("training_pictures")
    wide = Image.new("RGB", (60, 30), "red")
    wide.paste("blue", (15, 0, 45, 30))
    wide.save(tmp_path / "wide.png")
    turned = Image.new("RGB", (20, 40), "green")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.webp", lossless=True)
    Image.new("L", (8, 8), 100).convert("P").save(tmp_path / "small.bmp")
    found, unused = pictures.read_pictures(tmp_path, prompts=["one", "two"], channel="train")
    assert unused == 0
    assert [(picture.path.name, picture.size, picture.caption) for picture in found] == [
        ("clear.webp", (32, 32), "one"),
        ("small.bmp", (8, 8), "two"),
        ("turned.jpg", (40, 20), "one"),
        ("wide.png", (60, 30), "two"),
    ]
    squares = {picture.path.stem: pictures.square(picture, 16) for picture in found}
    assert all(values.shape == (16, 16, 3) for values, _ in squares.values())
    assert squares["wide"][1] == (0, 8) and (squares["wide"][0][8, 3:13] == (0, 0, 255)).all()
    assert (squares["clear"][0] == 255).all()


def test_noise_levels_are_spread_over_all(modules):
    levels = modules("denoising").draw_levels(np.random.default_rng(0), 10, 1000)
    assert sorted(level // 100 for level in levels) == list(range(10))
    assert list(levels) != sorted(levels)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_the_definition(modules, tmp_path, prediction):
    """Computed anew from the noise schedule's products, for the prediction that the model's scheduler names."""
    denoising, base_pipeline = modules("denoising"), modules("base_pipeline")
    pipe = StableDiffusionPipeline.from_pretrained(save_pipeline(tmp_path, prediction=prediction))
    noise_scheduler = base_pipeline.DDPMScheduler.from_config(pipe.scheduler.config)
    base = base_pipeline.BasePipeline(
        pipe, tmp_path, "tiny", torch.device("cpu"), torch.float32, torch.float32, noise_scheduler
    )
    torch.manual_seed(1)
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    states, levels = torch.randn(3, 16, 16), torch.tensor([10, 400, 999])
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[levels][:, None, None, None]
    with torch.no_grad():
        found = denoising.losses(base, clean, noise, levels, (states,), None, None)
        weighted = denoising.losses(base, clean, noise, levels, (states,), None, 5.0)
        predicted = pipe.unet(kept.sqrt() * clean + (1 - kept).sqrt() * noise, levels, states).sample
    target = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * clean
    expected = (predicted - target).square().mean((1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ratio = (kept / (1 - kept)).flatten()
    weights = ratio.clamp(max=5) / (ratio if prediction == "epsilon" else ratio + 1)
    torch.testing.assert_close(weighted, weights * expected, rtol=1e-4, atol=1e-5)
