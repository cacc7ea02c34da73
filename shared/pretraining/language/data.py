"""The tokenizer, and the training data as rows of token ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from shared.pretraining.language.corpus import MIXTURE, documents
from shared.pretraining.language.document import Document, plain
from shared.pretraining.language.recipe import END_OF_TEXT, Recipe

# Documents waiting to fill the rest of a row. More waste less of a row, and take longer to look through.
_POOL = 64
_BATCH = 1024


def train_tokenizer(recipe: Recipe) -> Tokenizer:
    """A byte-level BPE tokenizer (any text can be encoded and decoded back) of `recipe.vocabulary` tokens.

    The end-of-text token has id 0. It sees as many documents of each kind, from another seed than the training rows,
    so that the words of the short kinds (capitals, labels) become tokens too.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=5,
        show_progress=False,
    )
    sources = [documents(recipe.seed + 1_000, kind) for kind, _, _ in MIXTURE]
    texts = (plain(next(sources[number % len(sources)])) for number in range(recipe.tokenizer_documents))
    progress = tqdm(texts, total=recipe.tokenizer_documents, desc="tokenizer", unit="doc", mininterval=1)
    tokenizer.train_from_iterator(progress, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, batch: list[Document]) -> list[tuple[list[int], list[int]]]:
    """Token ids and weights of each document, with the end-of-text token (weight 1) after it."""
    pieces = [text for document in batch for text, _ in document]
    encoded = iter(tokenizer.encode_batch(pieces, add_special_tokens=False))
    end = tokenizer.token_to_id(END_OF_TEXT)
    rows = []
    for document in batch:
        ids: list[int] = []
        weights: list[int] = []
        for _, weight in document:
            piece = next(encoded).ids
            ids += piece
            weights += [weight] * len(piece)
        rows.append(([*ids, end], [*weights, 1]))
    return rows


def packed_rows(
    tokenizer: Tokenizer, length: int, seed: int, kind: str | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    """Rows of `length` tokens and their weights, without end. Each begins with a document and holds whole documents.

    What is left at a row's end is filled with end-of-text tokens of weight 0. Documents longer than a row are left out.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    source = _encoded(tokenizer, length, seed, kind)
    pool = list(islice(source, _POOL))
    while True:
        ids: list[int] = []
        weights: list[int] = []
        index = 0
        while index is not None:
            more, more_weights = pool[index]
            pool[index] = next(source)
            ids += more
            weights += more_weights
            room = length - len(ids)
            index = next((i for i, (waiting, _) in enumerate(pool) if len(waiting) <= room), None)
        # Only the first of the filling tokens could be asked for, and it stands after another end: weight 0 for all.
        yield ids + [end] * (length - len(ids)), weights + [0] * (length - len(weights))


def _encoded(tokenizer, length, seed, kind):
    source = documents(seed, kind)
    while True:
        for ids, weights in encode(tokenizer, list(islice(source, _BATCH))):
            if len(ids) <= length:
                yield ids, weights


def write_rows(tokenizer: Tokenizer, recipe: Recipe, path: Path) -> None:
    """Write all training rows to `path` (npz: `ids` uint16, `weights` uint8, both rows × (context + 1))."""
    count = recipe.steps * recipe.batch_rows
    length = recipe.context + 1
    ids = np.zeros((count, length), np.uint16)
    weights = np.zeros((count, length), np.uint8)
    rows = packed_rows(tokenizer, length, recipe.seed)
    for index, row in enumerate(tqdm(islice(rows, count), total=count, desc="rows", unit="row", mininterval=1)):
        ids[index], weights[index] = row
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, ids=ids, weights=weights)
    os.replace(partial, path)
