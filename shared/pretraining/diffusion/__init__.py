"""The recipe of shared/models/diffusion, the embedded text-to-image model: `python -m shared.pretraining.diffusion --help`."""
