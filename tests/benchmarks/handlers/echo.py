"""Answers with what it got: all that is left to measure is the way there and back."""


def model_fn(model_dir):
    return None


def predict_fn(data, model):
    return data
