"""The catalogue of Lab 3: pipelines measured by their files, what suits each model, what cannot run says so."""

import dataclasses
import json

import botocore.session
import numpy
import pytest
from safetensors.numpy import save_file

from shared import diffusion_catalogue as catalogue
from shared.diffusion_catalogue import HUB_MODELS
from shared.instances import INSTANCES
from shared.model_entry import ModelDoesNotFit, UnknownModel
from shared.model_files import ModelUnavailable
from shared.pretraining.pictures.captions import words
from shared.workshop import Workshop
from tests.hub_support import fake_hub

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder with the files that count, and some that do not."""
    path = tmp_path / "tiny-pipeline"
    for part, count in (("unet", 1000), ("vae", 24)):
        (path / part).mkdir(parents=True)
        weights = {"a": numpy.zeros(count, "float16")}
        save_file(weights, path / part / "diffusion_pytorch_model.safetensors")
    (path / "unet" / "config.json").write_text(json.dumps({"sample_size": 16}))
    (path / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [8, 8, 8, 8]}))
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"cat</w>": 0}}}))
    (path / "model_index.json").write_text(json.dumps(INDEX))
    save_file({"a": numpy.zeros(9999, "float16")}, path / "other.safetensors")
    return path


def make_own(folder):
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"zobi</w>": 0}}}))


@pytest.mark.parametrize("model", HUB_MODELS.values(), ids=HUB_MODELS)
def test_every_entry_fits_its_own_instance_and_says_all_that_differs(model):
    model.check_fits(model.instance_type)
    known = botocore.session.get_session().get_service_model("sagemaker")
    assert model.instance_type in known.shape_for("ProductionVariantInstanceType").enum
    assert model.training_instance_type in known.shape_for("TrainingInstanceType").enum
    assert model.environment["DIFFUSION_MODEL_ID"] == model.model_id and "HF_MODEL_ID" not in model.environment
    assert json.loads(model.environment["GENERATION_DEFAULTS"]) == model.defaults
    assert model.price_per_hour > 0 and model.prompts and model.scored_by == "CLIP score"
    # In float16, and hardly anything but weights.
    assert 0.95 < model.download_bytes / (2 * model.parameters) < 1.05
    card = model._repr_mimebundle_()["text/html"]
    assert f"{model.width} x {model.height} pixels" in card and model.license.split()[0] in card


def test_names_and_hub_ids_in_any_case_find_an_entry():
    assert catalogue.find("sdxl") is catalogue.find("StabilityAI/Stable-Diffusion-XL-base-1.0")
    assert catalogue.names()[0] == "embedded"


def test_a_model_distilled_without_guidance_gets_none():
    turbo = catalogue.find("sdxl-turbo")
    assert turbo.guidance_scale == 0 and turbo.steps <= 4 and turbo.negative_prompt == ""


def test_a_folder_is_measured_by_its_parts(folder):
    model = catalogue.find(folder)
    assert (model.parameters, model.dtype, model.weights) == (1024, "float16", folder)
    assert (model.width, model.height, model.steps, model.guidance_scale) == (128, 128, 25, 7.5)
    assert model.scored_by == "CLIP score" and model.instance_type == "ml.m5.xlarge"
    assert model.download_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert model.channels == {"model": str(folder)}
    model.check_fits()


def test_sixteen_bit_weights_are_taken_instead_of_the_others(folder):
    save_file({"a": numpy.zeros(1000, "float16")}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"a": numpy.zeros(1000, "float32")}, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    assert catalogue.find(folder).parameters == 1024


def test_a_folder_with_our_words_is_judged_and_has_prompts_of_its_own(folder):
    make_own(folder)
    model = catalogue.find(folder)
    assert model.scored_by == "judge" and "ring" in model.prompts[0]
    assert (model.steps, model.guidance_scale, model.negative_prompt, model.at_once) == (20, 2.0, "", 8)


def test_every_word_of_its_prompts_is_one_that_the_model_was_trained_with(folder):
    make_own(folder)
    model = catalogue.find(folder)
    known = set(words()) - {"star", "zobi"}
    for prompt in (*model.prompts, *model.negative_example):
        assert set(prompt.split()) <= known, prompt


def test_a_folder_brings_its_own_settings(folder):
    (folder / "generation_defaults.json").write_text('{"num_inference_steps": 7, "guidance_scale": 3, "width": 96}')
    model = catalogue.find(folder)
    expected = {"guidance_scale": 3, "num_inference_steps": 7, "width": 96, "height": 128}
    assert model.defaults == expected == json.loads(model.environment["GENERATION_DEFAULTS"])
    (folder / "generation_defaults.json").write_text("{")
    with pytest.raises(UnknownModel, match=r"generation_defaults\.json is no JSON"):
        catalogue.find(folder)


def test_unknown_names_and_folders_say_what_there_is(tmp_path):
    with pytest.raises(UnknownModel, match="Did you mean 'sdxl-turbo'"):
        catalogue.find("sdxlturbo")
    with pytest.raises(UnknownModel, match="'embedded', 'stable-diffusion-1.5', 'sdxl'"):
        catalogue.find("gpt-j-6b")
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": numpy.zeros(3, "float16")}, tmp_path / "model.safetensors")
    with pytest.raises(UnknownModel, match=r"needs model_index\.json"):
        catalogue.find(tmp_path)


def test_what_does_not_fit_says_so_with_numbers():
    large = dataclasses.replace(HUB_MODELS["sdxl"], parameters=10**13)
    with pytest.raises(ModelDoesNotFit, match=r"needs about .* GB of memory .* are free.*embedded"):
        large.check_fits()
    with pytest.raises(ModelDoesNotFit, match=r"sdxl needs about .* of GPU memory .* ml\.g4dn\.xlarge has 17\.2 GB"):
        dataclasses.replace(HUB_MODELS["sdxl"], width=2048, height=2048).check_fits("ml.g4dn.xlarge")


def test_lab_3_holds_a_diffusion_model_and_the_others_do_not(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UnknownModel, match="'sdxl-turbo'"):
        Workshop(lab="3", backend="local", model="distilgpt")
    with pytest.raises(UnknownModel, match="'distilgpt2'"):
        Workshop(lab="1", backend="local", model="sdxl")


PARTS = {"model_index.json": 500, "unet/config.json": 1000, "vae/config.json": 500, "tokenizer/vocab.json": 900_000}
HUB = {
    "some/both": {
        "siblings": PARTS | {
            "unet/diffusion_pytorch_model.safetensors": 3_200_000_000,
            "unet/diffusion_pytorch_model.fp16.safetensors": 1_600_000_000,
            "unet/diffusion_pytorch_model.non_ema.safetensors": 3_200_000_000,
            "vae/diffusion_pytorch_model.safetensors": 300_000_000,
            "vae/diffusion_pytorch_model.fp16.safetensors": 150_000_000,
            "v1-5-pruned.safetensors": 7_700_000_000,
            "unet/diffusion_pytorch_model.bin": 3_200_000_000,
        }
    },
    "some/wide": {
        "siblings": PARTS | {
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors": 8_000_000_000,
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors": 4_000_000_000,
            "vae/diffusion_pytorch_model.safetensors": 400_000_000,
        }
    },
    "some/text": {"siblings": {"model.safetensors": 4_000_000_000, "config.json": 1000}},
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(HUB, monkeypatch, tmp_path / "cache") as server:
        yield server


def test_any_other_hub_id_is_sized_by_what_diffusers_would_fetch(hub, tmp_path):
    model = catalogue.find("some/both")
    assert (model.parameters, model.dtype, model.download_bytes) == (875_000_000, "float16", 1_750_000_000)
    assert model.environment["DIFFUSION_MODEL_VARIANT"] == "fp16" and INSTANCES[model.instance_type].gpu
    wide = catalogue.find("some/wide")
    assert (wide.parameters, wide.dtype, wide.download_bytes) == (3_100_000_000, "float32", 12_400_000_000)
    assert "DIFFUSION_MODEL_VARIANT" not in wide.environment
    wide.check_fits(wide.instance_type)
    assert not (tmp_path / "cache").exists()


def test_the_hub_says_no(hub, monkeypatch):
    with pytest.raises(ModelUnavailable, match="no diffusion pipeline"):
        catalogue.find("some/text")
    with pytest.raises(ModelUnavailable, match="no public model"):
        catalogue.find("some/missing")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        dataclasses.replace(HUB_MODELS["sdxl"], parameters=1000).check_fits()


def test_offline_a_cached_pipeline_is_found_when_it_is_complete(hub, monkeypatch, tmp_path, folder):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "cache" / "models--some--pipeline"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    kept = folder.rename(repository / "snapshots" / "abc")
    model = catalogue.find("some/pipeline")
    assert (model.parameters, model.download_bytes) == (1024, 0)
    model.check_fits()
    (kept / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelUnavailable):
        catalogue.find("some/pipeline")
