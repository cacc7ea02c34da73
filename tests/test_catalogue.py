"""The catalogue: AWS knows every entry, sizes come from real files, what cannot run says so before a download."""

import dataclasses

import botocore.session
import numpy
import pytest
from safetensors.numpy import save_file

from shared import catalogue, container_images
from shared.catalogue import HUB_MODELS, ModelDoesNotFit, UnknownModel
from shared.instances import INSTANCES, dollars
from shared.model_files import ModelUnavailable
from tests.hub_support import fake_hub


@pytest.fixture(scope="module")
def sagemaker_model():
    return botocore.session.get_session().get_service_model("sagemaker")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    save_file({"a": numpy.zeros((10, 20), "float16"), "b": numpy.zeros(5, "float32")}, path / "model.safetensors")
    return path


def test_instance_types_exist(sagemaker_model):
    known = sagemaker_model.shape_for("ProductionVariantInstanceType").enum
    assert set(INSTANCES) <= set(known)
    assert all(model.instance_type in INSTANCES for model in HUB_MODELS.values())
    assert {model.training_instance_type for model in HUB_MODELS.values()} <= set(INSTANCES)
    assert set(INSTANCES) <= set(sagemaker_model.shape_for("TrainingInstanceType").enum)


def test_images_are_those_of_the_sdk_in_every_region():
    from sagemaker.core import image_uris

    for region in container_images.REGISTRIES:
        for image, instance_type in (("huggingface-cpu", "ml.m5.xlarge"), ("huggingface-gpu", "ml.g5.xlarge")):
            expected = image_uris.retrieve(
                "huggingface",
                region,
                version="5.5.3",
                base_framework_version="pytorch2.6.0",
                py_version="py312",
                instance_type=instance_type,
                image_scope="inference",
            )
            assert container_images.image_uri(image, region) == expected
    for region in ("us-east-1", "eu-central-1", "cn-north-1"):
        assert container_images.image_uri("lmi", region) == image_uris.retrieve("djl-lmi", region, version="0.38.0")
        training = {"version": "5.3.0", "base_framework_version": "pytorch2.9.0", "image_scope": "training"}
        expected = image_uris.retrieve(
            "huggingface", region, py_version="py312", instance_type="ml.g5.xlarge", **training
        )
        assert container_images.image_uri("huggingface-training", region) == expected


def test_unknown_images_and_regions_are_named():
    with pytest.raises(ValueError, match="mars-1"):
        container_images.image_uri("lmi", "mars-1")
    with pytest.raises(ValueError, match="huggingface-cpu"):
        container_images.image_uri("tgi", "us-east-1")


@pytest.mark.parametrize("model", HUB_MODELS.values(), ids=HUB_MODELS)
def test_every_entry_fits_its_own_instance_and_the_api(model, sagemaker_model):
    model.check_fits(model.instance_type)
    assert model.environment["HF_MODEL_ID"] == model.model_id
    assert model.price_per_hour > 0 and model.prompts
    assert model.prompt("Hi") != "{prompt}" and "Hi" in model.prompt("Hi")
    variant = sagemaker_model.shape_for("ProductionVariant").members
    for option, value in model.variant_options.items():
        shape = variant["".join(part.capitalize() for part in option.split("_"))]
        if isinstance(value, str):
            assert value in shape.enum
        else:
            assert shape.metadata["min"] <= value <= shape.metadata["max"]
    assert model.name in str(model) and model.model_id in model._repr_mimebundle_()["text/html"]


def test_a_folder_is_measured_by_its_files(folder):
    model = catalogue.find(folder)
    assert (model.parameters, model.dtype, model.weights) == (205, "float16", folder)
    assert model.instance_type == "ml.m5.xlarge" and not model.environment
    assert model.download_bytes == sum(path.stat().st_size for path in folder.iterdir())
    model.check_fits()


def test_a_hub_id_in_any_case_finds_its_entry():
    assert catalogue.find("EleutherAI/GPT-J-6B") is HUB_MODELS["gpt-j-6b"]


def test_unknown_names_get_the_nearest_ones(tmp_path):
    with pytest.raises(UnknownModel, match="Did you mean 'gpt-j-6b'"):
        catalogue.find("gptj-6b")
    with pytest.raises(UnknownModel, match="'embedded', 'distilgpt2', 'gpt-j-6b'"):
        catalogue.find("no such thing")
    with pytest.raises(UnknownModel, match=r"needs config\.json"):
        catalogue.find(tmp_path)


def test_a_model_that_draws_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnknownModel, match="diffusion pipeline, which draws"):
        catalogue.find(tmp_path)


def test_what_does_not_fit_says_so_with_numbers():
    model = dataclasses.replace(HUB_MODELS["qwen3-8b"], parameters=10**13)
    with pytest.raises(ModelDoesNotFit, match=r"needs about 48000\.8 GB of memory .* are free.*embedded"):
        model.check_fits()
    with pytest.raises(ModelDoesNotFit, match=r"GPU memory .* ml\.g5\.2xlarge has 25\.8 GB"):
        model.check_fits("ml.g5.2xlarge")
    with pytest.raises(ModelDoesNotFit, match=r"ml\.x9\.large.*table"):
        model.check_fits("ml.x9.large")
    large = dataclasses.replace(model, parameters=10, download_bytes=10**18)
    with pytest.raises(ModelDoesNotFit, match=r"of disk, but .* free"):
        large.check_fits()


def test_prices_are_written_like_prices():
    assert [dollars(price) for price in (0.23, 1.515, 7.0)] == ["0.23 USD", "1.515 USD", "7.00 USD"]


HUB = {
    "some/model": {
        "siblings": {
            "model.safetensors": 4_000_000_000, "config.json": 1000, "pytorch_model.bin": 9_000_000_000,
            "onnx/model.onnx": 9_000_000_000,
        },
        "safetensors": {"parameters": {"BF16": 2_000_000_000, "F32": 10}, "total": 2_000_000_010},
    },
    "some/gated": {"gated": "manual"},
    "some/pickles": {"siblings": {"pytorch_model.bin": 9_000_000_000}},
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(HUB, monkeypatch, tmp_path / "cache") as server:
        yield server


def test_any_other_hub_id_is_sized_by_the_hub_without_a_download(hub, tmp_path):
    model = catalogue.find("some/model")
    assert (model.parameters, model.dtype, model.weights) == (2_000_000_010, "bfloat16", None)
    assert model.download_bytes == 4_000_001_000
    assert model.environment["HF_MODEL_ID"] == "some/model" and INSTANCES[model.instance_type].gpu
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "name, reason",
    [("some/missing", "no public model"), ("some/gated", "accept it"), ("some/pickles", "no safetensors")],
)
def test_the_hub_says_no(hub, name, reason):
    with pytest.raises(ModelUnavailable, match=reason):
        catalogue.find(name)


def test_offline_says_what_to_do(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match=r"cannot be reached .* MODEL = \"embedded\""):
        catalogue.find("some/model")
    small = dataclasses.replace(HUB_MODELS["gpt-j-6b"], parameters=1000)
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        small.check_fits()


def test_offline_a_cached_model_is_found(hub, monkeypatch, tmp_path, folder):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "cache" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / "abc")
    model = catalogue.find("some/model")
    assert (model.parameters, model.download_bytes) == (205, 0)
    model.check_fits()
    (repository / "snapshots" / "abc" / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable):
        catalogue.find("some/model")
