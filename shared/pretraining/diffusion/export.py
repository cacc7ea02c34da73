"""The trained networks as a folder that `StableDiffusionPipeline` loads, in fp16."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from shared.pretraining.diffusion.networks import build_scheduler
from shared.pretraining.diffusion.recipe import Recipe

# What evaluation and Lab 3's handler use when a request says nothing else.
DEFAULTS = {"guidance_scale": 2.0, "num_inference_steps": 20}


def pipeline(
    recipe: Recipe, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
) -> StableDiffusionPipeline:  # fmt: skip
    """The networks as a pipeline. It has no safety checker: it cannot draw what one looks for."""
    return StableDiffusionPipeline(
        vae=autoencoder.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=build_scheduler(recipe),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(made: StableDiffusionPipeline, folder: Path) -> Path:
    """Write a pipeline in fp16 to `folder`. The pipeline's own networks are left in fp16.

    It is written beside the folder first, so an interruption leaves no half-written model. What else is in the folder,
    such as the card, stays.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for network in (made.unet, made.vae, made.text_encoder):
        network.half()
    made.save_pretrained(partial)
    (partial / "generation_defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(partial.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    partial.rmdir()
    return folder


def weights(folder: Path) -> dict[str, dict]:
    """The weight files of a model folder, each with its `megabytes` and `sha256`."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {
        str(path.relative_to(folder)): {
            "megabytes": path.stat().st_size / 1e6,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    }
