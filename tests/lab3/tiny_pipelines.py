"""Tiny Stable Diffusion and SDXL pipelines of random weights as folders, with LoRAs and learned tokens for them."""

import base64
import io
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
)

from shared.pretraining.diffusion.tokens import build_tokenizer

SIDE = 32
TOKENS = 16
WIDTH = 16


def save_pipeline(
    folder: Path, *, xl: bool = False, mask_channels: bool = False, safety_checker: bool = False,
    prediction: str = "v_prediction", dtype: torch.dtype = torch.float32,
) -> Path:  # fmt: skip
    """Save a random pipeline for pictures of 32 × 32 pixels, with latents of 8 × 8; `xl` predicts the noise."""
    torch.manual_seed(0)
    words = build_tokenizer(TOKENS)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        **ids,
    )
    encoder = CLIPTextModel(text)
    # Larger than usual, so that texts matter to untrained networks.
    torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=1.0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=0.5,
    )
    more = {}
    if xl:
        # 6 numbers on sizes of 8 values each, and the pooled text.
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
            "transformer_layers_per_block": (1, 1),
        }
    unet = UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=9 if mask_channels else 4,
        out_channels=4,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=2 * WIDTH if xl else WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        **more,
    )
    parts = {"vae": autoencoder, "text_encoder": encoder, "tokenizer": words, "unet": unet}
    if xl:
        second = CLIPTextModelWithProjection(text)
        torch.nn.init.normal_(second.get_input_embeddings().weight, std=1.0)
        scheduler = EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading")
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=second,
            tokenizer_2=build_tokenizer(TOKENS),
            scheduler=scheduler,
            add_watermarker=False,
        )
    else:
        scheduler = DPMSolverMultistepScheduler(prediction_type=prediction, timestep_spacing="trailing", steps_offset=1)
        checker, extractor = _safety_checker(text) if safety_checker else (None, None)
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=scheduler,
            safety_checker=checker,
            feature_extractor=extractor,
            requires_safety_checker=safety_checker,
        )
    pipeline.to(dtype=dtype).save_pretrained(folder)
    return folder


def _safety_checker(text: CLIPTextConfig):
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    checker = StableDiffusionSafetyChecker(config)
    extractor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return checker, extractor


def save_lora(folder: Path, model: Path, *, seed: int, xl: bool = False, text_encoder: bool = False) -> Path:
    """Save a LoRA with random matrices for the attention of a saved pipeline, as `save_lora_weights` writes it."""
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    pipeline = kind.from_pretrained(model)
    layers = {"unet_lora_layers": _random_lora(pipeline.unet, ["to_q", "to_k", "to_v", "to_out.0"], seed)}
    if text_encoder:
        layers["text_encoder_lora_layers"] = _random_lora(pipeline.text_encoder, ["q_proj", "v_proj"], seed + 1)
    kind.save_lora_weights(folder, **layers)
    return folder


def _random_lora(network, targets: list[str], seed: int) -> dict:
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator) * 0.3
        for name, weight in get_peft_model_state_dict(network).items()
    }


def save_token(file: Path, text: str, *, vectors: int = 1, seed: int = 0, xl: bool = False) -> Path:
    """Save random embeddings for a word."""
    generator = torch.Generator().manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    names = ("clip_l", "clip_g") if xl else (text,)
    tensors = {name: 3 * torch.randn(vectors, WIDTH, generator=generator) for name in names}
    save_file(tensors, file, metadata={"token": text})
    return file


def as_base64(picture: Image.Image, kind: str = "PNG") -> str:
    """A picture as a request carries it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def picture_of(answer: dict, number: int = 0) -> Image.Image:
    """A picture of a decoded answer."""
    return Image.open(io.BytesIO(base64.b64decode(answer["images"][number]["image"])))


def settings_of(picture: Image.Image) -> dict:
    """The settings in a PNG file's text chunks."""
    return json.loads(picture.text["Settings"])
