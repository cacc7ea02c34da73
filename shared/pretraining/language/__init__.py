"""The recipe of shared/models/language, the embedded language model: `python -m shared.pretraining.language --help`."""
