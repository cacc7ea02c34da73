"""The tokenizer: CLIP's, with a vocabulary of our own in which every word of the captions is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from shared.pretraining.pictures.captions import words

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIPTokenizer for texts of `length` tokens. Any text can be encoded: words it does not know, by their letters.

    The words for what is held out (the star, the mascot) are tokens too, whose embeddings no training changes: a
    fine-tuning teaches what they mean.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000,  # merge until every word is one token
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        min_frequency=1,
    )
    learner.train_from_iterator(words(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    # CLIP's order: bytes, bytes at the end of a word, merges, then the two special tokens.
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys([*symbols, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer saved in a folder."""
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer: CLIPTokenizer, texts: list[str]):
    """Token ids as the pipeline makes them (texts × length, int64 tensor): cut or filled up with the end token."""
    found = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    return found["input_ids"]
