"""The loss of a latent diffusion model: how wrong it says what noise was added, at every level of noise."""

import numpy as np
import torch
from base_pipeline import BasePipeline
from diffusers.training_utils import compute_snr


def draw_levels(rng: np.random.Generator, count: int, levels: int) -> np.ndarray:
    """`count` noise levels (timesteps from 0 to `levels` - 1), spread evenly over all and in random order.

    Levels drawn one by one leave gaps, and then the loss jumps with them.
    """
    spread = (np.arange(count) + rng.random(count)) / count * levels
    return rng.permutation(spread.astype(np.int64))


def losses(
    base: BasePipeline,
    latents: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    states: tuple[torch.Tensor, ...],
    sizes: torch.Tensor | None,
    snr_gamma: float | None,
) -> torch.Tensor:
    """The loss of every picture (batch, fp32): the mean squared error of what the model's scheduler says it predicts.

    That is the noise (epsilon) or the velocity v (https://arxiv.org/abs/2202.00512). `snr_gamma` cuts the weight of
    levels with more signal than that (min-SNR, https://arxiv.org/abs/2303.09556). `sizes` are for SDXL.
    """
    scheduler = base.noise_scheduler
    noisy = scheduler.add_noise(latents, noise, levels)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, levels) if velocity else noise
    added = {"text_embeds": states[1], "time_ids": sizes} if base.is_xl else None
    found = base.pipe.unet(noisy, levels, states[0], added_cond_kwargs=added).sample
    error = (found.float() - target.float()).square().mean((1, 2, 3))
    if snr_gamma is None:
        return error
    snr = compute_snr(scheduler, levels)
    # At the last level of a schedule without any signal left the ratio is 0, and so is the weight of epsilon.
    weight = snr.clamp(max=snr_gamma) / (snr + 1 if velocity else snr.clamp(min=1e-8))
    return weight * error
