"""The recipe of shared/models/diffusion, a small Stable Diffusion: `python -m shared.pretraining.diffusion -h`."""
