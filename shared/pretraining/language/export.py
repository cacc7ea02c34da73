"""The trained network as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, in fp16."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from shared.pretraining.language.recipe import END_OF_TEXT, Recipe


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, folder: Path) -> Path:
    """Write config.json, model.safetensors, generation_config.json and the tokenizer's two files to `folder`.

    They are written beside it first, so an interruption leaves no half-written file in the folder.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    end = tokenizer.token_to_id(END_OF_TEXT)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    half.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    half.save_pretrained(partial)
    tokenizer.save(str(partial / "tokenizer.json"))
    # By hand: what transformers 5 would write names a class that transformers 4 does not have.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": recipe.context,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():
        os.replace(path, folder / path.name)
    partial.rmdir()
    return folder


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
