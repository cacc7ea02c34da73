"""The measured model: GPT-2 in the shape of distilgpt2, 82 million random float32 weights, a word-level tokenizer."""

import random
from pathlib import Path

VOCABULARY = 50257
PROMPT_TOKENS = 32
NEW_TOKENS = 64


def save_model(folder: Path) -> Path:
    """Write the model to `folder`; one word of the prompts is one token. No token ends a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {_word(index): index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_word(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=_word(0))
    # `transformers serve` takes chat messages only; this template hands the message through as it is.
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, n_embd=768, n_head=12, bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def prompts(count: int, seed: int = 0) -> list[str]:
    """Random prompts of 32 tokens."""
    generator = random.Random(seed)
    return [" ".join(_word(generator.randrange(1, VOCABULARY)) for _ in range(PROMPT_TOKENS)) for _ in range(count)]


def _word(index: int) -> str:
    return f"w{index}"
