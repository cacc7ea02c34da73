"""The three networks, with random weights that are the same for the same seed, and the noise schedule."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shared.pretraining.diffusion.recipe import Recipe


def build_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """Pictures of -1 to 1 to latents and back. No attention: it keeps what is where, and has nothing to relate."""
    own, levels = recipe.autoencoder, len(recipe.autoencoder.channels)
    with _seeded(recipe.seed):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=own.channels,
            layers_per_block=own.layers,
            latent_channels=own.latent_channels,
            norm_num_groups=own.groups,
            sample_size=recipe.side,
            scaling_factor=1.0,
            mid_block_add_attention=False,
            force_upcast=False,
        )


def build_thumbnail(recipe: Recipe) -> torch.nn.Module:
    """The linear map from a latent to its patch's mean colour, which only the autoencoder's training needs."""
    with _seeded(recipe.seed + 3):
        return torch.nn.Conv2d(recipe.autoencoder.latent_channels, 3, 1)


def build_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text transformer, small. It is trained with the UNet and from nothing."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        projection_dim=recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        max_position_embeddings=recipe.tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _seeded(recipe.seed + 1):
        model = CLIPTextModel(config)
        # CLIP's own start (0.02) is for wide models: from there a small one needs long to tell its words apart.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.2)
    return model


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    """The denoiser. It attends to the text at every level, the finest too: shapes are decided there."""
    levels, channels = len(recipe.unet_channels), recipe.autoencoder.latent_channels
    with _seeded(recipe.seed + 2):
        unet = UNet2DConditionModel(
            sample_size=recipe.latent_side,
            in_channels=channels,
            out_channels=channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=recipe.unet_channels,
            layers_per_block=recipe.unet_layers,
            cross_attention_dim=recipe.text_width,
            # diffusers takes attention_head_dim for the number of heads.
            attention_head_dim=tuple(width // recipe.unet_head for width in recipe.unet_channels),
            norm_num_groups=recipe.groups,
            use_linear_projection=True,
            resnet_time_scale_shift="scale_shift",
        )
        # Every block begins as the identity, and the first prediction is zero.
        for name, parameter in unet.named_parameters():
            if name.endswith(("conv2.weight", "proj_out.weight", "conv_out.weight", "conv_out.bias")):
                torch.nn.init.zeros_(parameter)
    return unet


def build_scheduler(recipe: Recipe) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (https://arxiv.org/abs/2211.01095) for v-prediction, beginning at the last, noisiest step."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=recipe.noise_steps,
        beta_start=recipe.beta_start,
        beta_end=recipe.beta_end,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        algorithm_type="dpmsolver++",
        solver_order=2,
    )


class _seeded:
    """Random numbers from `seed` inside the block, and the caller's untouched."""

    def __init__(self, seed: int):
        self.seed = seed

    def __enter__(self):
        self.fork = torch.random.fork_rng(devices=[])
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error):
        return self.fork.__exit__(*error)
