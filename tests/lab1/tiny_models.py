"""Tiny models of random weights with a real tokenizer, saved as folders that `from_pretrained` loads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

CONTEXT = 96
EOS = "<|endoftext|>"
_CORPUS = [
    "Once upon a time there was a small blue bird in an old tree.",
    "The cat and the dog ran to the river, and the river was cold.",
    "你好，世界。今天天气很好。 Grüße aus Köln, año, naïve, Ελλάδα, 🙂🎉👩‍👩‍👧",
]


def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE as GPT-2 and Llama 3 have it; some merges cross the borders of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    """SentencePiece-like BPE as Llama 2 has it: metaspaces, and bytes for unknown characters."""
    pieces = ["<unk>", EOS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [character for character in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def save_tiny_model(folder: Path, architecture: str) -> Path:
    """Save a random model of an architecture ("llama", "gpt2", "gptj", "mistral") and its tokenizer."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), eos_token=EOS)
    tokenizer.save_pretrained(folder)
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    # Initial weights ten times the usual size: distributions with clear winners, as a trained model has them.
    rotary = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
    }
    old = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.2}
    torch.manual_seed(0)
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**rotary, **common))
    elif architecture == "mistral":
        model = MistralForCausalLM(MistralConfig(sliding_window=8, **rotary, **common))
    elif architecture == "gptj":
        model = GPTJForCausalLM(GPTJConfig(rotary_dim=8, **old, **common))
    else:
        model = GPT2LMHeadModel(GPT2Config(**old, **common))
    model.save_pretrained(folder)
    return folder
