"""Without model_fn: a transformers pipeline for HF_TASK, from the model's folder or HF_MODEL_ID.

`transformers` is imported only when a model needs it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import content

# By the end of the architecture's name in config.json; the first match counts.
TASKS = {
    "TapasForQuestionAnswering": "table-question-answering",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "GPT2LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "T5WithLMHeadModel": "text2text-generation",
    "MTModel": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
}
NOT_IN_CSV = {"zero-shot-classification", "table-question-answering"}
# Weights of other frameworks, which a snapshot of a repository would bring along.
OTHER_WEIGHTS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.ckpt", "*.mlmodel", "*openvino*"]


def model_folder(folder: Path) -> Path:
    """Where the model is: `folder`, or the folder or Hub snapshot that HF_MODEL_ID names."""
    model_id = os.environ.get("HF_MODEL_ID")
    if not model_id:
        return folder
    if os.path.isdir(model_id):
        return Path(model_id)
    import httpx
    from huggingface_hub import HfApi, snapshot_download

    revision = os.environ.get("HF_MODEL_REVISION")
    token = os.environ.get("HF_TOKEN") or os.environ.get("HF_API_TOKEN")
    ignored = list(OTHER_WEIGHTS)
    try:
        files = [file.rfilename for file in HfApi(token=token).model_info(model_id, revision=revision).siblings]
    except (httpx.HTTPError, OSError):
        files = []  # Without the Hub, snapshot_download finds what the cache has or says what is missing.
    if any(name.endswith(".safetensors") for name in files):
        ignored += ["*.bin", "*.pt", "*.pth"]
    return Path(snapshot_download(model_id, revision=revision, token=token, ignore_patterns=ignored))


def load(folder: str) -> Any:
    """The default model_fn. Raises ValueError when the task cannot be told."""
    task = os.environ.get("HF_TASK") or infer_task(Path(folder))
    import torch
    from transformers import pipeline

    return pipeline(
        task=task,
        model=folder,
        device=0 if torch.cuda.is_available() else -1,
        trust_remote_code=os.environ.get("HF_TRUST_REMOTE_CODE", "").lower() in {"1", "true", "yes", "on", "y", "t"},
    )


def infer_task(folder: Path) -> str:
    """The task of the model in `folder`, by the architecture in its config.json."""
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"There is no inference script with model_fn, HF_TASK is not set, and {config} does not exist: "
            "nothing says what this model does. Set HF_TASK, or put an inference script into code/ of model.tar.gz."
        )
    architecture = (json.loads(config.read_text()).get("architectures") or [""])[0]
    for ending, task in TASKS.items():
        if architecture.endswith(ending):
            os.environ["HF_TASK"] = task
            return task
    raise ValueError(f"The task cannot be inferred from the architecture {architecture!r} in config.json: set HF_TASK.")


def decode(data: Any, content_type: str | None) -> Any:
    """The default input_fn."""
    task = os.environ.get("HF_TASK")
    if content_type == content.CSV and task in NOT_IN_CSV:
        raise ValueError(f"content type {content_type} not supported with {task}, use another content type")
    return content.decode(data, content_type)


def predict(data: Any, model: Any) -> Any:
    """The default predict_fn: the model called with "inputs" and, as keywords, "parameters"."""
    if isinstance(data, dict):
        inputs = data.get("inputs", data)
        return model(inputs, **(data.get("parameters") or {}))
    return model(data)
