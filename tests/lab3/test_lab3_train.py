"""Lab 3's train.py: small but real trainings, what they write, and how they go on after a kill."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusion_trainings import CAPTIONS, trainings_of_this_run, write_pictures
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_pipelines import save_pipeline

from tests.training_runs import metrics

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "lab3-stable-diffusion" / "code"
SMALL = ("--train_batch_size", 4, "--logging_steps", 2, "--num_inference_steps", 2, "--guidance_scale", 3)
SMALL += ("--precision", "fp32")
SILENT = (*SMALL, "--num_validation_images", 0)
LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def trainings():
    return trainings_of_this_run()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("base") / "model", dtype=torch.float16)


@pytest.fixture(scope="module")
def xl_base(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("xl") / "model", xl=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "train")


@pytest.fixture(scope="module")
def flags(base, pictures):
    return ("--model", base, "--train", pictures)


@pytest.fixture(scope="module")
def lora(trainings, flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    learned = ("--rank", 4, "--lora_alpha", 16, "--adapter_name", "star", "--learning_rate", 2e-2)
    trainings.run(folder, *flags, *SMALL, *learned, "--max_train_steps", 8, "--checkpointing_steps", 3)
    return folder


def drawn(folder, step, number=0):
    """A sample picture of a step, as numbers."""
    return read(sorted((folder / "data" / "samples" / f"step-{step:06d}").iterdir())[number])


def read(path):
    """A picture's file, as numbers."""
    return np.asarray(Image.open(path), np.int16)


def draws_again(pipe, picture, number=0, prompt=None, most=1.5):
    """Whether a pipeline draws what the training drew last. fp16 weights of the result may round a little."""
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype=torch.float32)
    again = pipe(
        prompt or CAPTIONS[number], width=32, height=32, num_inference_steps=2, guidance_scale=3,
        generator=torch.Generator().manual_seed(42 + number),
    ).images[0]  # fmt: skip
    return np.abs(np.asarray(again, np.int16) - picture).mean() < most


def same_files(folder, base, but=()):
    """Whether all of the base's files, but for some folders, are byte for byte in `folder`."""
    files = [path for path in base.rglob("*") if path.is_file() and path.relative_to(base).parts[0] not in but]
    return files and all(path.read_bytes() == (folder / path.relative_to(base)).read_bytes() for path in files)


def test_lora_says_what_it_does(lora):
    found, log = metrics(lora), lora.with_suffix(".log").read_text()
    assert [row["step"] for row in found["history"]] == [1, 2, 4, 6, 8]
    assert found["training"]["steps"] == 8 and found["training"]["epochs"] == 8
    assert found["training"]["resumed_from_step"] is None and not found["training"]["interrupted"]
    assert found["hyperparameters"]["resolution"] == 32 and found["hyperparameters"]["train_text_encoder"] is True
    assert found["data"]["train"] == {"pictures": 4, "captions": list(CAPTIONS), "unused_files": 0}
    for name in ("train_loss", "learning_rate", "grad_norm", "train_samples_per_second"):
        assert len(re.findall(rf" {name}=([0-9.eE+-]+)", log)) == 5, name
    assert "Data: 4 pictures, 32 × 32 pixels" in log and "the UNet predicts v" in log
    assert "Warning" not in log and "it/s" not in log


def test_lora_leaves_the_base_as_it_is_and_deploys_with_it(lora, base):
    model = lora / "model"
    assert same_files(model, base)
    weights = load_file(model / "lora" / "star" / LORA)
    assert any(name.startswith("unet.") for name in weights)
    assert any(name.startswith("text_encoder.") for name in weights)
    assert sum(value.numel() for value in weights.values()) == metrics(lora)["training"]["trainable_parameters"]
    assert all(value.dtype == torch.float16 for value in weights.values())
    assert metrics(lora)["training"]["bytes_saved"] == (model / "lora" / "star" / LORA).stat().st_size
    assert "lora/star/" in (model / "README.md").read_text()
    assert not list((model / "code").glob("train*.py"))


def test_diffusers_draws_with_the_adapters_what_the_training_drew(lora):
    """The alpha is in the file: without it the adapters would count a quarter."""
    pipe = StableDiffusionPipeline.from_pretrained(lora / "model")
    assert not draws_again(pipe, drawn(lora, 8))
    pipe.load_lora_weights(lora / "model" / "lora" / "star")
    assert draws_again(pipe, drawn(lora, 8)) and draws_again(pipe, drawn(lora, 8, 2), 2)


_SERVE = """
import base64, io, json, sys
sys.path = [path for path in sys.path if "site-packages" in path or path.startswith(sys.base_prefix)]
sys.path.insert(0, sys.argv[1] + "/code")
import inference
served = inference.model_fn(sys.argv[1])
request = inference.input_fn(sys.argv[2].encode(), "application/json")
print(inference.output_fn(inference.predict_fn(request, served), "application/json"))
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("train", "fine_tuning", "saved_pipeline")))))
"""


def test_the_saved_folder_answers_with_nothing_else_of_the_lab(lora, tmp_path):
    """In a process that finds modules in the folder's code/ and in the installed packages only."""
    model = tmp_path / "elsewhere"
    shutil.copytree(lora / "model", model)
    request = json.dumps({"prompt": CAPTIONS[0], "seed": 42})  # the settings of the samples are in the folder
    command = [sys.executable, "-I", "-c", _SERVE, str(model), request]
    environment = {**os.environ, "DTYPE": "float32", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=model, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer, modules = done.stdout.splitlines()[-2:]
    answer = json.loads(answer)
    assert answer["settings"]["num_inference_steps"] == 2 and answer["settings"]["guidance_scale"] == 3
    picture = read(io.BytesIO(base64.b64decode(answer["images"][0]["image"])))
    assert np.abs(picture - drawn(lora, 8)).mean() < 1.5, "the only LoRA is used without being named"
    assert json.loads(modules) == []


def test_samples_of_the_way_are_listed(lora):
    rows = [json.loads(line) for line in (lora / "data" / "samples.jsonl").read_text().splitlines()]
    assert rows == metrics(lora)["samples"]
    assert sorted({row["step"] for row in rows}) == [0, 2, 4, 6, 8]
    assert [row["prompt"] for row in rows[:3]] == list(CAPTIONS[:3])
    for row in rows:
        assert Image.open(lora / "data" / row["file"]).size == (32, 32)
    assert (drawn(lora, 0) != drawn(lora, 8)).any()


def test_a_killed_training_goes_on_to_the_same_result(trainings, flags, lora, tmp_path):
    """Killed after its second checkpoint; what it was writing last is half a file."""
    folder = tmp_path / "run"
    learned = ("--rank", 4, "--lora_alpha", 16, "--adapter_name", "star", "--learning_rate", 2e-2)
    arguments = (*flags, *SMALL, *learned, "--max_train_steps", 8, "--checkpointing_steps", 3)
    running = trainings.start(folder, *arguments)
    whole = folder / "checkpoints" / "checkpoint-6" / "whole.json"
    while not whole.is_file():
        time.sleep(0.005)
    os.kill(running.process, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    torn = folder / "checkpoints" / "checkpoint-7"
    shutil.copytree(whole.parent, torn)
    (torn / "state.pt").write_bytes((torn / "state.pt").read_bytes()[:-1])
    shutil.rmtree(folder / "model", ignore_errors=True)
    found = trainings.run(folder, *arguments)
    assert found["training"]["resumed_from_step"] == 6
    assert [row["step"] for row in found["history"]] == [1, 2, 4, 6, 8]
    assert sorted({row["step"] for row in found["samples"]}) == [0, 2, 4, 6, 8]
    assert not torn.exists()
    again, before = (load_file(run / "model" / "lora" / "star" / LORA) for run in (folder, lora))
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in again)
    refused = trainings.refuse(folder, *arguments, "--seed", 7)
    assert "checkpoint of another run (seed was 42, is 7)" in refused and "--resume false" in refused


def test_a_stopped_training_saves_what_it_has(trainings, flags, tmp_path):
    folder = tmp_path / "run"
    running = trainings.start(folder, *flags, *SILENT, "--max_train_steps", 100_000)
    while "step=2 " not in running.log:
        time.sleep(0.005)
    os.kill(running.process, signal.SIGTERM)
    assert running.wait() == 143, running.log
    found = metrics(folder)["training"]
    assert found["interrupted"] and 2 <= found["steps"] < 100_000
    assert (folder / "model" / "lora" / "tuned" / LORA).is_file()
    assert (folder / "checkpoints" / f"checkpoint-{found['steps']}" / "whole.json").is_file()


@pytest.fixture(scope="module")
def dreambooth(trainings, base, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dreambooth") / "run"
    prompts = ("--instance_prompt", "a zobi", "--class_prompt", "a circle | a blue ring", "--num_class_images", 6)
    trainings.run(
        folder, "--model", base, "--train", pictures, *SMALL, "--method", "dreambooth", *prompts,
        "--max_train_steps", 3, "--learning_rate", 1e-3,
    )  # fmt: skip
    return folder


def test_dreambooth_trains_all_weights_and_keeps_a_class(dreambooth, base):
    found = metrics(dreambooth)
    assert found["data"]["class"] == {"pictures": 6, "drawn": True}
    assert found["data"]["train"]["captions"] == ["a zobi"]
    assert all(row["prior_loss"] > 0 for row in found["history"])
    kept = dreambooth / "data" / "class_pictures"
    texts = [json.loads(line)["text"] for line in (kept / "metadata.jsonl").read_text().splitlines()]
    assert texts == ["a circle", "a blue ring"] * 3 and len(list(kept.glob("*.png"))) == 6
    model = dreambooth / "model"
    assert same_files(model, base, but=("unet", "text_encoder"))
    assert not (model / "lora").exists()
    for name, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        new, old = (load_file(folder / name / f"{file}.safetensors") for folder in (model, base))
        assert new.keys() == old.keys() and all(new[key].dtype == old[key].dtype for key in new)
        assert any(not torch.equal(new[key], old[key]) for key in new)
    assert draws_again(StableDiffusionPipeline.from_pretrained(model), drawn(dreambooth, 3), prompt="a zobi")


def test_class_pictures_and_prompts_to_draw_may_come_by_channels(trainings, flags, base, tmp_path):
    given = write_pictures(tmp_path / "class", count=3)
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "a red star"}\n{"prompt": "a circle", "more": 1}\n')
    steps = ("--max_train_steps", 1, "--prior_loss_weight", 0.5, "--evaluation", asked, "--evaluate_before", "true")
    found = trainings.run(tmp_path / "run", *flags, *SILENT, "--class", given, *steps)
    assert found["data"]["class"] == {"pictures": 3, "drawn": False}
    rows = [json.loads(line) for line in (tmp_path / "run" / "data" / "evaluation.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["seed"]) for row in rows] == [("a red star", 42), ("a circle", 43)]
    assert Image.open(tmp_path / "run" / "data" / rows[1]["file"]).size == (32, 32)
    pipe = StableDiffusionPipeline.from_pretrained(base)
    assert draws_again(pipe, read(tmp_path / "run" / "data" / "evaluation_before" / "0001.png"), 1, "a circle")
    assert not (tmp_path / "run" / "data" / "class_pictures").exists()


@pytest.fixture(scope="module")
def word(trainings, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("word") / "run"
    pictures = write_pictures(folder.parent / "pictures", captions=False)
    trainings.run(
        folder, "--model", base, "--train", pictures, *SMALL, "--method", "textual_inversion", "--adapter_name", "star",
        "--placeholder_token", "<star>", "--initializer_token", "cross", "--num_vectors", 2, "--max_train_steps", 4,
        "--validation_prompts", "a red <star> | a circle",
    )  # fmt: skip
    return folder


def test_textual_inversion_learns_vectors_and_nothing_else(word, base):
    model = word / "model"
    assert same_files(model, base)
    path = model / "embeddings" / "star" / "learned_embeds.safetensors"
    learned = load_file(path)
    assert list(learned) == ["<star>"] and learned["<star>"].shape == (2, 16)
    with safe_open(path, "pt") as file:
        assert file.metadata()["token"] == "<star>"
    assert metrics(word)["training"]["trainable_parameters"] == 32
    pipe = StableDiffusionPipeline.from_pretrained(model)
    start = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer.convert_tokens_to_ids("cross</w>")]
    assert not torch.allclose(learned["<star>"][0], start.float(), atol=1e-3)
    captions = metrics(word)["data"]["train"]["captions"]
    assert captions == ["a picture of <star>", "a drawing of <star>", "an image of <star>"]
    pipe.load_textual_inversion(path)
    assert draws_again(pipe, drawn(word, 4), prompt="a red <star>")


def test_a_known_word_can_be_learned_anew_and_beside_adapters(trainings, flags, base, tmp_path):
    """The word is one token of the model: its own vector is where it begins."""
    arguments = ("--placeholder_token", "star", "--max_train_steps", 2, "--learning_rate", 1e-3)
    trainings.run(tmp_path / "run", *flags, *SILENT, *arguments)
    adapter = tmp_path / "run" / "model" / "lora" / "tuned"
    assert {path.name for path in adapter.iterdir()} == {LORA, "learned_embeds.safetensors"}
    pipe = StableDiffusionPipeline.from_pretrained(base)
    before = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer.convert_tokens_to_ids("star</w>")]
    after = load_file(adapter / "learned_embeds.safetensors")["star"]
    assert after.shape == (1, 16)
    assert 0 < (after[0] - before.float()).abs().max() < 0.01


def test_full_fine_tuning_with_everything_on(trainings, flags, base, tmp_path):
    folder = tmp_path / "run"
    options = ("--random_flip", "true", "--caption_dropout", 0.3, "--gradient_accumulation_steps", 2, "--snr_gamma", 5)
    options += ("--gradient_checkpointing", "true", "--precision", "bf16", "--learning_rate", 1e-2)
    options += ("--num_train_epochs", 10, "--lr_scheduler", "constant", "--validation_prompts", CAPTIONS[0])
    found = trainings.run(folder, *flags, *SMALL, "--method", "full", *options)
    assert found["training"]["steps"] == 5 and found["training"]["precision"] == "bf16"
    assert found["hyperparameters"]["use_ema"] is True
    assert found["history"][-1]["learning_rate"] == pytest.approx(1e-2)
    assert same_files(folder / "model", base, but=("unet", "text_encoder"))
    # The averaged weights are those that drew the last samples, and those that are saved.
    assert draws_again(StableDiffusionPipeline.from_pretrained(folder / "model"), drawn(folder, 5), most=4)
    assert not draws_again(StableDiffusionPipeline.from_pretrained(base), drawn(folder, 5), most=8)


@pytest.mark.parametrize("method", ["lora", "textual_inversion"])
def test_xl(trainings, xl_base, pictures, tmp_path, method):
    folder = tmp_path / "run"
    new = () if method == "lora" else ("--placeholder_token", "<new>", "--instance_prompt", "a <new>")
    rate = ("--learning_rate", 0.05, "--max_train_steps", 3)
    trainings.run(folder, "--model", xl_base, "--train", pictures, *SMALL, "--method", method, *new, *rate)
    model = folder / "model"
    assert same_files(model, xl_base)
    pipe = StableDiffusionXLPipeline.from_pretrained(model)
    if method == "lora":
        assert metrics(folder)["hyperparameters"]["train_text_encoder"] is False
        assert not draws_again(pipe, drawn(folder, 3))
        pipe.load_lora_weights(model / "lora" / "tuned")
        assert draws_again(pipe, drawn(folder, 3))
        return
    learned = load_file(model / "embeddings" / "tuned" / "learned_embeds.safetensors")
    assert {name: value.shape for name, value in learned.items()} == {"clip_l": (1, 16), "clip_g": (1, 16)}
    pipe.load_textual_inversion(learned["clip_l"], token="<new>", text_encoder=pipe.text_encoder)
    tokenizer = pipe.tokenizer_2
    pipe.load_textual_inversion(learned["clip_g"], token="<new>", text_encoder=pipe.text_encoder_2, tokenizer=tokenizer)
    assert draws_again(pipe, drawn(folder, 3), prompt="a <new>")


def test_as_a_training_job(trainings, lora, pictures, tmp_path):
    """Channels and folders by SageMaker's environment; a model.tar.gz in the model channel. Its adapters stay in."""
    job = tmp_path / "ml"
    for folder in ("model", "output/data", "input/data/model", "checkpoints"):
        (job / folder).mkdir(parents=True)
    with tarfile.open(job / "input/data/model/model.tar.gz", "w:gz") as archive:
        archive.add(lora / "model", arcname=".")
    environment = {
        "SM_CHANNEL_TRAIN": str(pictures),
        "SM_CHANNEL_MODEL": str(job / "input/data/model"),
        "SM_MODEL_DIR": str(job / "model"),
        "SM_OUTPUT_DATA_DIR": str(job / "output/data"),
        "SM_OUTPUT_DIR": str(job / "output"),
    }
    running = trainings.start(
        job, *SILENT, "--adapter_name", "second", "--max_train_steps", 2, "--checkpointing_steps", 1, **environment
    )
    assert running.wait() == 0, running.log
    assert {path.name for path in (job / "model" / "lora").iterdir()} == {"star", "second"}
    assert (job / "checkpoints" / "checkpoint-1" / "whole.json").is_file()
    assert not (job / "output" / "failure").exists()
    refused = trainings.refuse(job, "--method", "textual_inversion", **environment)
    assert (job / "output" / "failure").read_text() == refused
    assert "name it by --placeholder_token" in refused


def test_a_result_is_not_mixed_with_an_earlier_one(trainings, flags, tmp_path):
    """An adapter that was trained for other weights would be wrong beside these."""
    folder, steps = tmp_path / "run", ("--max_train_steps", 1, "--resume", "false")
    trainings.run(folder, *flags, *SILENT, *steps)
    assert (folder / "model" / "lora" / "tuned").is_dir()
    trainings.run(folder, *flags, *SILENT, *steps, "--method", "full")
    assert not (folder / "model" / "lora").exists()
    assert (folder / "model" / "model_index.json").is_file()


def test_it_says_what_there_is():
    command = [sys.executable, str(CODE / "train.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for flag in ("--method", "--placeholder_token", "--class_prompt", "--snr_gamma", "--checkpoint_dir"):
        assert flag in done.stdout


def test_failures_are_told_as_in_lab_2():
    other = ROOT / "lab2-llm-finetuning" / "code" / "training_failure.py"
    assert (CODE / "training_failure.py").read_bytes() == other.read_bytes()
