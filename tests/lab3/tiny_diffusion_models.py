"""Tiny random diffusion pipelines of the real architectures, and small folders of pictures, to train on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from shared.pretraining.diffusion.tokens import build_tokenizer

SIDE, LENGTH, WIDTH = 32, 16, 16
CAPTIONS = ("a red star on a blue background", "a green star on a white background", "a small star", "a big pink star")


def save_tiny_pipeline(folder: Path, prediction: str = "v_prediction", dtype: torch.dtype = torch.float16) -> Path:
    """A StableDiffusionPipeline of 32 × 32 pixels and latents of 4 × 8 × 8, stored in `dtype`."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(LENGTH)
    scheduler = DPMSolverMultistepScheduler(prediction_type=prediction, timestep_spacing="trailing", steps_offset=1)
    pipe = StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=WIDTH),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(dtype=dtype).save_pretrained(folder)
    return folder


def save_tiny_xl_pipeline(folder: Path) -> Path:
    """A StableDiffusionXLPipeline of the same sizes, with two text encoders, stored in fp32; it predicts the noise."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(LENGTH)
    sizes = 8  # width of the embedding of each of the six sizes
    pipe = StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(LENGTH),
        unet=_unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=sizes,
            projection_class_embeddings_input_dim=WIDTH + 6 * sizes,
        ),
        scheduler=EulerDiscreteScheduler(prediction_type="epsilon"),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int = 4, captions: bool = True, side: int = 40) -> Path:
    """Small pictures of which no two are the same, with metadata.jsonl beside them if `captions`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture = Image.new("RGB", (side, side + 4 * number), (40 * number % 256, 80, 200))
        ImageDraw.Draw(picture).rectangle((5, 5 + number, 20, 25), fill=(250, 40 * number % 256, 30))
        picture.save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": CAPTIONS[number % len(CAPTIONS)]})
    if captions:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def _text_config(tokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(**text) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 16),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        **text,
    )
