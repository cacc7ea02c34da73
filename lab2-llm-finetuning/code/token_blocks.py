"""Documents to rows of tokens of one length, without padding between them and without losing a token."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from text_documents import Document

IGNORED = -100  # the label that the loss leaves out


@dataclass(frozen=True)
class TokenBlocks:
    """Rows of tokens: `input_ids`, `labels` (int64) and `characters` (int32: text that a token adds), (rows, length).

    A row begins with the last token of the row before it, so each token but the first of all is predicted exactly once.
    The last row is filled up with tokens whose label is IGNORED. Labels are not shifted: transformers' models do that.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    characters: torch.Tensor
    documents: int
    tokens: int

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}

    @property
    def predicted_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def predicted_characters(self) -> int:
        """Length of the text that these tokens stand for."""
        return int(self.characters[:, 1:][self.labels[:, 1:] != IGNORED].sum())

    def first(self, tokens: int) -> "TokenBlocks":
        """The first rows, of so many tokens at most (one row at least)."""
        rows = max(1, tokens // self.input_ids.shape[1])
        parts = (self.input_ids[:rows], self.labels[:rows], self.characters[:rows])
        return TokenBlocks(*parts, documents=self.documents, tokens=self.tokens)


def pack(
    documents: list[Document], tokenizer, block_size: int, completion_only: bool, shuffle_seed: int | None = None
) -> TokenBlocks:
    """Tokenize the documents, put an end-of-text token after each, and cut the stream into rows of `block_size` tokens.

    With `completion_only` the labels of prompts are IGNORED. `shuffle_seed`: put them into a random order first.
    """
    documents = list(documents)
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(documents)
    ids, learned, characters = _stream(documents, tokenizer, completion_only)
    stride = block_size - 1
    rows = max(1, -(-(len(ids) - 1) // stride))
    missing = rows * stride + 1 - len(ids)
    ids = np.concatenate([ids, np.full(missing, ids[-1])])
    labels = np.where(np.concatenate([learned, np.zeros(missing, bool)]), ids, IGNORED)
    characters = np.concatenate([characters, np.zeros(missing, np.int32)])

    def cut(values: np.ndarray) -> torch.Tensor:
        windows = np.lib.stride_tricks.sliding_window_view(values, block_size)[::stride]
        return torch.from_numpy(windows.copy())

    labels = cut(labels)
    labels[:, 0] = IGNORED  # nothing predicts a row's first token
    return TokenBlocks(cut(ids), labels, cut(characters), len(documents), rows * stride + 1 - missing)


def _stream(documents: list[Document], tokenizer, completion_only: bool):
    """All tokens in a row: their ids, whether they are to be learned, and the characters that each adds to the text."""
    prompts = [document.text[: document.prompt_length or 0] for document in documents]
    rests = [document.text[len(prompt) :] for prompt, document in zip(prompts, documents, strict=True)]
    begin = tokenizer("a").input_ids[: -len(tokenizer("a", add_special_tokens=False).input_ids) or None]
    begin = [token for token in begin if token == tokenizer.bos_token_id]
    ids: list[np.ndarray] = []
    learned: list[np.ndarray] = []
    characters: list[np.ndarray] = []

    def add(tokens, learn: bool, lengths) -> None:
        ids.append(np.asarray(tokens, np.int64))
        learned.append(np.full(len(tokens), learn))
        characters.append(np.asarray(lengths, np.int32))

    # A prompt and its completion are tokenized apart, as they will be when the prompt comes alone.
    parts = zip(documents, _encode(prompts, tokenizer), _encode(rests, tokenizer), strict=True)
    for document, prompt, rest in parts:
        if begin:
            add(begin, False, [0])
        if len(prompt[0]):
            add(prompt[0], not completion_only, prompt[1])
        add(*(rest[0], True, rest[1]))
        if document.ends and tokenizer.eos_token_id is not None:
            add([tokenizer.eos_token_id], True, [0])
    return np.concatenate(ids), np.concatenate(learned), np.concatenate(characters)


def _encode(texts: list[str], tokenizer) -> list[tuple[list[int], np.ndarray]]:
    """For each text its token ids and how many characters each token adds to the text."""
    if not any(texts):
        return [([], np.zeros(0, np.int32))] * len(texts)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    result = []
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends = np.maximum.accumulate(np.asarray(offsets, np.int32).reshape(-1, 2)[:, 1])
        result.append((ids, np.diff(ends, prepend=0)))
    return result
