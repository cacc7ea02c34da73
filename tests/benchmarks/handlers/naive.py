"""What most examples do: a pipeline of tokenizer, `generate` and decode, one request at a time behind a lock."""

import threading

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_lock = threading.Lock()


def model_fn(model_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval(), tokenizer


def predict_fn(data, model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    encoded = tokenizer(data["inputs"], return_tensors="pt")
    with _lock, torch.inference_mode():
        output = model.generate(
            **encoded, do_sample=False, max_new_tokens=data["parameters"]["max_new_tokens"], pad_token_id=0
        )
    return {"generated_text": tokenizer.decode(output[0, encoded.input_ids.shape[1] :])}
