"""The handlers: what a request makes, that it is the library's picture, batches, streams, LoRAs, settings."""

import ast
import base64
import io
import json
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from lab3_handlers import CODE, call_as_the_toolkit_does, inference
from PIL import Image
from tiny_pipelines import (
    SIDE,
    as_base64,
    picture_of,
    save_lora,
    save_pipeline,
    save_token,
    settings_of,
)

PROMPT = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Stable Diffusion with LoRAs, learned tokens and an upscaler."""
    from safetensors.torch import save_file
    from upscaler import Upscaler

    place = save_pipeline(tmp_path_factory.mktemp("sd"))
    save_lora(place / "lora" / "first", place, seed=1, text_encoder=True)
    save_lora(place / "lora" / "v1.5", place, seed=2)
    save_token(place / "lora" / "v1.5" / "learned_embeds.safetensors", "star", seed=3)
    save_token(place / "lora" / "words" / "learned_embeds.safetensors", "<thing>", vectors=2, seed=4)
    save_token(place / "embeddings" / "style.safetensors", "<style>", seed=5)
    (place / "upscaler").mkdir()
    network = Upscaler(channels=4, blocks=1)
    save_file(network.state_dict(), place / "upscaler" / "model.safetensors")
    (place / "upscaler" / "config.json").write_text(json.dumps(network.config))
    (place / "generation_defaults.json").write_text('{"guidance_scale": 3, "num_inference_steps": 6}')
    return place


@pytest.fixture(scope="module")
def service(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTYPE", "float32")
        loaded = inference.model_fn(str(folder))
    yield loaded
    loaded.engine.close()


@pytest.fixture(scope="module")
def picture():
    """Noise, so that every pixel's change shows."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def ask(service, **payload) -> dict:
    return inference.predict_fn(payload, service).as_dict()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.int16)


def server(name):
    return types.SimpleNamespace(system_properties={"server_name": name})


def test_called_one_at_a_time_as_in_the_hugging_face_image(folder):
    answers = call_as_the_toolkit_does(folder)
    assert answers["plain"] == answers["with context"] == answers["streamed"][-1]
    assert list(answers["plain"]) == ["images", "mode", "model", "settings"]
    assert answers["file"] == len(base64.b64decode(answers["plain"]["images"][0]["image"]))
    assert answers["error"].startswith('Unknown field "sed". Did you mean "seed"?')


def test_text_to_image_is_the_librarys_picture(service, folder):
    library = StableDiffusionPipeline.from_pretrained(folder)
    library.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    expected = library("a red circle", guidance_scale=3.0, num_inference_steps=4, generator=generator).images[0]
    answer = ask(service, **PROMPT)
    assert answer["mode"] == "text-to-image" and answer["images"][0]["seed"] == 7
    assert abs(pixels(picture_of(answer)) - pixels(expected)).max() <= 1
    assert picture_of(answer).size == (SIDE, SIDE)


@pytest.mark.parametrize("scheduler", [None, "euler_a", "ddim", "heun"])
def test_image_to_image_is_the_librarys_picture(service, folder, picture, scheduler):
    library = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    library.set_progress_bar_config(disable=True)
    own = library.scheduler
    library.scheduler = service.engine._sampler._schedulers.new(scheduler, 4) if scheduler else own
    expected = library(
        "a red circle",
        image=picture,
        strength=0.6,
        guidance_scale=3.0,
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    request = PROMPT | {"image": as_base64(picture), "strength": 0.6, "num_inference_steps": 6}
    answer = ask(service, **request, scheduler=scheduler)
    assert answer["mode"] == "image-to-image"
    assert abs(pixels(picture_of(answer)) - pixels(expected)).max() <= 1


def test_sdxl_is_the_librarys_picture_and_has_loras_and_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("DTYPE", "float32")
    folder = save_pipeline(tmp_path / "xl", xl=True)
    library = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    library.set_progress_bar_config(disable=True)
    service_ = inference.model_fn(str(folder))
    try:
        assert service_.defaults.guidance_scale == 5.0 and service_.defaults.num_inference_steps == 25
        for guidance, negative in ((4.0, None), (4.0, "blue"), (0.0, None)):
            generator = torch.Generator().manual_seed(7)
            expected = library(
                "a red circle",
                guidance_scale=guidance,
                negative_prompt=negative,
                num_inference_steps=4,
                generator=generator,
            ).images[0]
            answer = ask(service_, **PROMPT, guidance_scale=guidance, negative_prompt=negative)
            assert abs(pixels(picture_of(answer)) - pixels(expected)).max() <= 1
    finally:
        service_.engine.close()
    save_lora(folder / "lora" / "only", folder, seed=1, xl=True)
    save_token(folder / "lora" / "only" / "learned_embeds.safetensors", "<thing>", xl=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(dict(library.scheduler.config) | {"timestep_spacing": "trailing"})
    )
    service_ = inference.model_fn(str(folder))
    try:
        # Sampled as SDXL-Turbo is: that is what it is taken for.
        assert service_.defaults.guidance_scale == 0 and service_.defaults.num_inference_steps == 2
        answer = ask(service_, prompt="a <thing>", seed=1)
        assert answer["settings"]["lora"] == [{"name": "only", "scale": 1.0}]
        assert answer != ask(service_, prompt="a <thing>", seed=1, lora="")
    finally:
        service_.engine.close()


def test_every_picture_can_be_made_again_from_its_answer_or_its_file(service):
    answer = ask(service, **PROMPT, num_images=3, negative_prompt="blue", scheduler="euler_a", lora="first")
    assert [image["seed"] for image in answer["images"]] == [7, 8, 9]
    again = ask(service, **answer["settings"])
    assert again == answer
    second = ask(service, **(answer["settings"] | {"seed": 8, "num_images": 1}))
    file = picture_of(answer, 1)
    assert settings_of(file) == second["settings"]
    assert "Made by a generative model" in file.text["Source"]
    assert "digitalsourcetype/trainedAlgorithmicMedia" in file.text["XML:com.adobe.xmp"]
    assert abs(pixels(picture_of(second)) - pixels(file)).mean() <= 1
    assert second == ask(service, **settings_of(file))


def test_without_a_seed_pictures_differ_and_the_seed_is_told(service):
    first, second = (ask(service, prompt="a", num_inference_steps=2) for _ in range(2))
    assert first["settings"]["seed"] != second["settings"]["seed"]
    assert ask(service, **first["settings"]) == first


def test_concurrent_requests_of_like_shape_share_steps_and_keep_their_pictures(service):
    requests = [
        PROMPT,
        PROMPT | {"seed": 8, "guidance_scale": 0},
        PROMPT | {"prompt": "a blue star", "num_inference_steps": 7, "scheduler": "euler_a"},
        PROMPT | {"negative_prompt": "blue", "num_images": 2},
        PROMPT | {"width": 48},
        PROMPT | {"lora": "first"},
    ]
    alone = [ask(service, **request) for request in requests]
    sampler, sizes = service.engine._sampler, []
    advance, begun = sampler.advance, threading.Event()

    def spy(samples):
        begun.wait(20)
        sizes.append(len(samples))
        advance(samples)

    sampler.advance = spy
    try:
        with ThreadPoolExecutor(len(requests)) as pool:
            futures = [pool.submit(ask, service, **request) for request in requests]
            while sum(map(len, (service.engine._waiting, service.engine._running))) < len(requests):
                if any(future.done() for future in futures):
                    break
            begun.set()
            together = [future.result() for future in futures]
    finally:
        del sampler.advance
    assert max(sizes) >= 4
    for one, other in zip(alone, together, strict=True):
        assert one["settings"] == other["settings"]
        for number in range(len(one["images"])):
            difference = abs(pixels(picture_of(one, number)) - pixels(picture_of(other, number)))
            assert difference.mean() <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_other_precisions_are_the_same_alone(folder, monkeypatch, dtype):
    monkeypatch.setenv("DTYPE", dtype)
    service_ = inference.model_fn(str(folder))
    try:
        first = ask(service_, **PROMPT)
        assert first == ask(service_, **PROMPT)
        assert picture_of(first).size == (SIDE, SIDE)
    finally:
        service_.engine.close()


def test_inpainting_keeps_what_is_outside_of_the_mask(service, picture):
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (9, 5, 22, 17))
    answer = ask(service, **PROMPT, image=as_base64(picture), mask=as_base64(mask))
    assert answer["mode"] == "inpaint" and answer["settings"]["strength"] == 1
    outside = np.asarray(mask) == 0
    changed = abs(pixels(picture_of(answer)) - pixels(picture)).sum(-1)
    assert not changed[outside].any()
    assert (changed[~outside] > 0).mean() > 0.5
    assert "compositeWith" in picture_of(answer).text["XML:com.adobe.xmp"]
    again = ask(service, **answer["settings"], image=as_base64(picture), mask=as_base64(mask))
    assert again == answer


def test_a_unet_that_sees_mask_and_picture_inpaints(tmp_path, picture):
    service_ = inference.model_fn(str(save_pipeline(tmp_path, mask_channels=True)))
    try:
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (0, 0, SIDE, SIDE // 2))
        answer = ask(service_, **PROMPT, image=as_base64(picture), mask=as_base64(mask))
        changed = abs(pixels(picture_of(answer)) - pixels(picture)).sum(-1)
        assert not changed[SIDE // 2 :].any() and changed[: SIDE // 2].any()
        with pytest.raises(ValueError, match='only fills in: send "image" with "mask"'):
            ask(service_, **PROMPT)
    finally:
        service_.engine.close()


def test_outpainting_extends_and_keeps_the_picture(service, picture):
    answer = ask(service, **PROMPT, image=as_base64(picture), outpaint={"left": 16, "bottom": 8})
    result = picture_of(answer)
    assert answer["mode"] == "outpaint" and result.size == (SIDE + 16, SIDE + 8)
    assert (pixels(result)[:SIDE, 16:] == pixels(picture)).all()
    assert pixels(result)[:, :16].std() > 0
    assert ask(service, **answer["settings"], image=as_base64(picture)) == answer


def test_upscaling_an_image_or_a_result(service, picture):
    answer = ask(service, image=as_base64(picture), upscale=4)
    assert answer["mode"] == "upscale" and picture_of(answer).size == (4 * SIDE, 4 * SIDE)
    assert "seed" not in answer["images"][0] and answer["settings"] == {"upscale": 4}
    # The untrained network enlarges as bicubic interpolation does.
    bicubic = picture.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)
    assert abs(pixels(picture_of(answer)) - pixels(bicubic)).mean() < 8
    larger = ask(service, **PROMPT, upscale=4)
    assert picture_of(larger).size == (4 * SIDE, 4 * SIDE) and larger["mode"] == "text-to-image"
    assert ask(service, **larger["settings"]) == larger
    lines = list(inference.predict_fn({"image": as_base64(picture), "upscale": 4, "stream": True}, service))
    assert lines == [answer]


def test_an_image_is_brought_to_a_size_that_the_model_can_draw(service):
    def size(*own, **more):
        image = as_base64(Image.new("RGB", own, "blue"))
        return picture_of(ask(service, prompt="a", num_inference_steps=2, image=image, **more)).size

    assert size(SIDE, SIDE) == (SIDE, SIDE)
    assert size(51, 33) == (52, 32)  # its own, but for the multiple of 4 that this autoencoder asks for
    assert size(600, 300) == (44, 24)  # far larger than the model's pictures: the same proportions, their area
    assert size(600, 300, width=40, height=32) == (40, 32)


def test_previews_come_while_the_picture_is_made(service):
    stream = inference.predict_fn(PROMPT | {"stream": True, "preview_every": 2, "num_images": 2}, service)
    lines, content_type = inference.output_fn(stream, "application/json", server("sagemaker-local"))
    assert content_type == "application/jsonlines"
    lines = [json.loads(line) for line in lines]
    assert [(line["step"], line["steps"]) for line in lines[:-1]] == [(2, 4)]
    previews = [Image.open(io.BytesIO(base64.b64decode(text))) for text in lines[0]["images"]]
    assert [preview.size for preview in previews] == [(SIDE, SIDE)] * 2
    assert lines[-1] == ask(service, **PROMPT, num_images=2)
    lines = list(inference.predict_fn(PROMPT | {"stream": True, "preview_every": 0}, service))
    assert [(line["step"], line["images"]) for line in lines[:-1]] == [(1, []), (2, []), (3, [])]
    assert "settings" in lines[-1]


@pytest.mark.parametrize("scheduler", inference.parse_body.__globals__["NAMES"])
def test_the_last_preview_is_nearly_the_picture_with_every_scheduler(service, scheduler):
    """The step before the last sees a picture close to the last one's, whatever space the scheduler computes in."""
    request = {"prompt": "a", "seed": 1, "scheduler": scheduler, "num_inference_steps": 30, "guidance_scale": 0}
    lines = list(inference.predict_fn(request | {"stream": True, "preview_every": 1}, service))
    texts = [*(line["images"][0] for line in lines[:-1]), lines[-1]["images"][0]["image"]]
    steps = [pixels(Image.open(io.BytesIO(base64.b64decode(text)))) for text in texts]
    assert abs(steps[-2] - steps[-1]).mean() < abs(steps[0] - steps[-1]).mean()
    assert abs(steps[-2] - steps[-1]).mean() < 10


def test_a_closed_stream_stops_the_engine(service):
    stream = inference.predict_fn(PROMPT | {"stream": True, "num_inference_steps": 150, "preview_every": 1}, service)
    next(stream)
    stream.close()
    with pytest.raises(Exception, match="cancelled"):
        list(stream)
    assert ask(service, **PROMPT)["images"]


def test_loras_change_the_picture_mix_and_leave_no_trace(service, folder):
    plain = ask(service, **PROMPT)
    assert plain["settings"]["lora"] == []  # several are there, none is named
    first = ask(service, **PROMPT, lora="first")
    both = ask(service, **PROMPT, lora=["first", {"name": "v1.5", "scale": 0.5}])
    weak = ask(service, **PROMPT, lora="first", lora_scale=0.25)
    assert both["settings"]["lora"] == [{"name": "first", "scale": 1.0}, {"name": "v1.5", "scale": 0.5}]
    images = [answer["images"][0]["image"] for answer in (plain, first, both, weak)]
    assert len(set(images)) == 4
    assert ask(service, **PROMPT) == plain
    assert ask(service, **both["settings"]) == both
    nothing = ask(service, **PROMPT, lora=[{"name": "first", "scale": 0}])
    assert (pixels(picture_of(nothing)) == pixels(picture_of(plain))).all()

    library = StableDiffusionPipeline.from_pretrained(folder)
    library.set_progress_bar_config(disable=True)
    for name, key in (("first", "one"), ("v1.5", "two")):
        library.load_lora_weights(folder / "lora" / name, adapter_name=key)
    library.set_adapters(["one", "two"], [1.0, 0.5])
    generator = torch.Generator().manual_seed(7)
    expected = library("a red circle", guidance_scale=3.0, num_inference_steps=4, generator=generator).images[0]
    assert abs(pixels(picture_of(both)) - pixels(expected)).max() <= 2


def test_learned_tokens_are_used_where_they_belong(service, folder):
    library = StableDiffusionPipeline.from_pretrained(folder)
    library.set_progress_bar_config(disable=True)
    library.load_textual_inversion(folder / "embeddings" / "style.safetensors")
    library.load_textual_inversion(folder / "lora" / "words" / "learned_embeds.safetensors")
    for prompt in ("a <style> circle", "a <thing>"):
        generator = torch.Generator().manual_seed(7)
        expected = library(prompt, guidance_scale=3.0, num_inference_steps=4, generator=generator).images[0]
        answer = ask(service, prompt=prompt, seed=7, num_inference_steps=4, lora="words")
        assert abs(pixels(picture_of(answer)) - pixels(expected)).max() <= 1
    # "star" is a word of the model, which one LoRA gives another meaning.
    star = {"prompt": "a star", "seed": 7, "num_inference_steps": 4}
    before, with_lora = ask(service, **star), ask(service, **star, lora="v1.5")
    tokenizer, encoder = service.engine._sampler.pipeline.tokenizer, service.engine._sampler.pipeline.text_encoder
    ids = tokenizer("star", add_special_tokens=False).input_ids
    assert len(ids) == 1
    changed = encoder.get_input_embeddings().weight[ids[0]].clone()
    assert ask(service, **star) == before != with_lora
    assert not torch.equal(changed, encoder.get_input_embeddings().weight[ids[0]])


def test_loras_and_tokens_that_do_not_fit_are_named(tmp_path):
    folder = save_pipeline(tmp_path / "sd")
    xl = save_pipeline(tmp_path / "xl", xl=True)
    save_lora(folder / "lora" / "wrong", xl, seed=1, xl=True)
    with pytest.raises(ValueError, match="LoRA wrong does not fit this model"):
        inference.model_fn(str(folder))
    (folder / "lora" / "wrong" / "pytorch_lora_weights.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="LoRA wrong"):
        inference.model_fn(str(folder))
    (folder / "lora" / "wrong" / "pytorch_lora_weights.safetensors").unlink()
    save_token(folder / "learned_embeds.safetensors", "<thing>").write_bytes(b"no")
    with pytest.raises(ValueError, match="learned_embeds.safetensors cannot be read"):
        inference.model_fn(str(folder))


def test_the_safety_checker_blackens(tmp_path):
    service_ = inference.model_fn(str(save_pipeline(tmp_path, safety_checker=True)))
    try:
        checker = service_.engine._sampler.pipeline.safety_checker
        checker.concept_embeds_weights.fill_(10.0)  # above what any picture reaches
        checker.special_care_embeds_weights.fill_(10.0)
        answer = ask(service_, **PROMPT)
        assert "blocked" not in answer["images"][0] and pixels(picture_of(answer)).any()
        checker.concept_embeds_weights.fill_(-10.0)
        answer = ask(service_, **PROMPT, image=as_base64(picture_of(answer)), strength=0.5)
        assert answer["images"][0]["blocked"] is True and not pixels(picture_of(answer)).any()
    finally:
        service_.engine.close()


def test_answers_come_in_the_type_that_is_accepted(service):
    answer = inference.predict_fn(PROMPT, service)
    for accept in (None, "*/*", "application/json", "text/html, application/json;q=0.5"):
        assert json.loads(inference.output_fn(answer, accept)) == answer.as_dict()
    assert inference.output_fn(answer, "image/png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="text/csv"):
        inference.output_fn(answer, "text/csv")
    stream = inference.predict_fn(PROMPT | {"stream": True}, service)
    with pytest.raises(ValueError, match="application/jsonlines, not"):
        inference.output_fn(stream, "image/png")


def test_a_failing_network_fails_the_request_and_not_the_server(service, monkeypatch, capsys):
    def broken(samples):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(service.engine._sampler, "advance", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        ask(service, **PROMPT)
    monkeypatch.undo()
    monkeypatch.setattr(service.engine._sampler, "decode", broken)
    with pytest.raises(RuntimeError, match="Decoding the pictures of 1 request"):
        ask(service, **PROMPT)
    monkeypatch.undo()
    assert ask(service, **PROMPT)["images"]
    assert "Traceback" in capsys.readouterr().out


def test_rows_that_do_not_fit_the_gpus_memory_are_done_in_parts(service, monkeypatch):
    expected = ask(service, **PROMPT, num_images=3)
    sampler, whole = service.engine._sampler, service.engine._sampler._pass
    seen = []

    def small(rows):
        seen.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(rows)

    monkeypatch.setattr(sampler, "_pass", small)
    monkeypatch.setattr(sampler, "_most_rows", None)
    answer = ask(service, **PROMPT, num_images=3)
    assert max(seen[2:]) <= 2
    for number in range(3):
        assert abs(pixels(picture_of(answer, number)) - pixels(picture_of(expected, number))).mean() <= 1


def test_with_little_memory_pictures_are_decoded_in_tiles(service, monkeypatch):
    sampling = sys.modules["picture_sampling"]
    expected = ask(service, **PROMPT, width=64, height=64)
    vae = service.engine._sampler.pipeline.vae
    tiled, decode = [], vae.decode

    def spy(*arguments, **more):
        tiled.append(vae.use_tiling)
        return decode(*arguments, **more)

    monkeypatch.setattr(vae, "decode", spy)
    monkeypatch.setattr(sampling, "free_memory", lambda device: 10_000)
    answer = ask(service, **PROMPT, width=64, height=64)
    assert tiled == [True] and picture_of(answer).size == (64, 64)
    # Tiles are normalised each by itself, so colours differ a little; the picture is the same.
    one, other = (pixels(picture_of(found)).ravel() for found in (answer, expected))
    assert np.corrcoef(one, other)[0, 1] > 0.5


def test_settings_come_from_the_folder_and_the_environment_and_are_checked(folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_MODEL_ID", raising=False)
    monkeypatch.delenv("DIFFUSION_MODEL_ID", raising=False)
    with pytest.raises(FileNotFoundError, match="DIFFUSION_MODEL_ID"):
        inference.model_fn(str(tmp_path))
    monkeypatch.setenv("DIFFUSION_MODEL_ID", str(folder))
    monkeypatch.setenv("GENERATION_DEFAULTS", '{"num_inference_steps": 2, "scheduler": "ddim"}')
    monkeypatch.setenv("MAX_STEPS", "5")
    monkeypatch.setenv("MAX_PIXELS", "2048")
    monkeypatch.setenv("MODEL_NAME", "tiny")
    service_ = inference.model_fn(str(tmp_path))
    service_.engine.close()
    defaults = service_.defaults
    assert (defaults.guidance_scale, defaults.num_inference_steps, defaults.scheduler) == (3, 2, "ddim")
    assert service_.abilities.loras == ("first", "v1.5", "words") and service_.model == "tiny"
    with pytest.raises(ValueError, match="at most 5"):
        ask(service_, prompt="a", num_inference_steps=6)
    with pytest.raises(ValueError, match="at most 2,048"):
        ask(service_, prompt="a", width=64, height=64)
    for text, words in (("[]", "JSON object"), ("{", "not valid JSON"), ('{"width": 33}', "multiple of 4")):
        monkeypatch.setenv("GENERATION_DEFAULTS", text)
        with pytest.raises(ValueError, match=words):
            inference.model_fn(str(tmp_path))
    monkeypatch.delenv("GENERATION_DEFAULTS")
    monkeypatch.setenv("MAX_STEPS", "many")
    with pytest.raises(ValueError, match="MAX_STEPS must be a whole number"):
        inference.model_fn(str(tmp_path))
    monkeypatch.setenv("DTYPE", "float8")
    with pytest.raises(ValueError, match="DTYPE must be auto or one of float32"):
        inference.model_fn(str(tmp_path))


def test_precision_by_hardware(monkeypatch):
    loading = sys.modules["pipeline_loading"]
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(loading, "_cpu_has_bfloat16", lambda supported=supported: supported)
        assert loading.choose_dtype("auto", cpu) == expected
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert loading.choose_dtype("auto", gpu) == expected
    assert loading.choose_dtype("float16", cpu) == torch.float16


def test_packed_layers_compute_what_plain_ones_do():
    packed_layers = sys.modules["packed_layers"]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.SiLU(), torch.nn.Linear(40, 8, bias=False)).eval()
    inputs = torch.randn(3, 5, 24)
    with torch.inference_mode():
        expected, weight = model(inputs), model[2].weight.clone()
        assert packed_layers.pack_linear_layers(model) in (0, 2)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
        if isinstance(model[2], packed_layers.PackedLinear):
            model[2].set_weight(2 * weight)
            torch.testing.assert_close(model(inputs), 2 * expected, rtol=1e-4, atol=1e-5)


def _image_python():
    """A Python 3.12 with torch and diffusers, as the Hugging Face image has it, or the reason why there is none."""
    for candidate in (os.environ.get("IMAGE_PYTHON"), sys.executable, "python3.12"):
        if not candidate:
            continue
        probe = (
            "import sys; from importlib.util import find_spec; "
            "print(*sys.version_info[:2], all(map(find_spec, ('torch', 'diffusers', 'peft'))))"
        )
        try:
            result = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.returncode == 0 and result.stdout.split() == ["3", "12", "True"]:
            return candidate, ""
    return None, "no Python 3.12 with torch, diffusers and peft here (name one in IMAGE_PYTHON)"


def test_on_the_python_of_the_hugging_face_image(folder):
    python, reason = _image_python()
    if python is None:
        pytest.skip(reason)
    script = Path(__file__).with_name("lab3_handlers.py")
    result = subprocess.run([python, script, folder], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == call_as_the_toolkit_does(folder)


def test_the_handlers_import_only_what_their_container_has():
    """And each other: modules are followed from inference.py, as the training job does that copies them."""
    libraries = {"torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "PIL", "psutil"}
    waiting, seen = ["inference"], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        tree = ast.parse((CODE / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                own = (CODE / f"{name}.py").is_file()
                assert own or name in libraries or name in sys.stdlib_module_names, f"{module} imports {name}"
                waiting += [name] if own and name not in seen else []
    assert {"picture_engine", "watermark", "upscaler"} <= seen
