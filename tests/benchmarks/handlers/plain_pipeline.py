"""What most examples do: a pipeline as it is loaded, called for one request at a time behind a lock."""

import base64
import io
import threading

import torch
from diffusers import StableDiffusionPipeline

_lock = threading.Lock()


def model_fn(model_dir):
    pipeline = StableDiffusionPipeline.from_pretrained(model_dir, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def predict_fn(data, pipeline):
    generator = torch.Generator().manual_seed(data.pop("seed"))
    with _lock:
        image = pipeline(generator=generator, **data).images[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"images": [{"image": base64.b64encode(buffer.getvalue()).decode()}]}
