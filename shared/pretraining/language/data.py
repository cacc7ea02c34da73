"""The tokenizer, and the training data as rows of token ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from shared.pretraining.language.corpus import MIXTURE, Shares, documents
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
    sources = [documents(recipe.seed + 1_000, entry.name) for entry in MIXTURE if entry.later]
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


class Packer:
    """Packs whole documents into steps of `recipe.step_tokens` tokens; what is left at a row's end is filled with
    end-of-text tokens of weight 0. Documents longer than the context are left out.

    Short rows cost less attention. Documents that do not fit one wait until they fill a step of rows of the context.
    """

    def __init__(self, tokenizer: Tokenizer, recipe: Recipe, seed: int):
        self.tokenizer, self.recipe, self.seed = tokenizer, recipe, seed
        self.end = tokenizer.token_to_id(END_OF_TEXT)
        self.long: list[tuple[list[int], list[int]]] = []

    def steps(self, shares: Shares) -> Iterator[tuple[int, list[int], list[int]]]:
        """Steps without end: row length, token ids, weights."""
        recipe = self.recipe
        pool: list[tuple[list[int], list[int]]] = []
        source = self._encoded(shares)
        while True:
            length = recipe.context if len(self.long) >= recipe.step_tokens // recipe.context else recipe.row
            ids: list[int] = []
            weights: list[int] = []
            for _ in range(recipe.step_tokens // length):
                self._fill(pool, source)
                first = self.long.pop(0) if length > recipe.row else pool.pop(0)
                row, row_weights = self._row(first, pool, source, length)
                ids += row
                weights += row_weights
            yield length, ids, weights

    def _row(self, first, pool, source, length) -> tuple[list[int], list[int]]:
        ids, weights = list(first[0]), list(first[1])
        while True:
            self._fill(pool, source)
            room = length - len(ids)
            index = next((i for i, (waiting, _) in enumerate(pool) if len(waiting) <= room), None)
            if index is None:
                # Only the first of the filling tokens could be asked for, and it stands after another end: weight 0.
                return ids + [self.end] * room, weights + [0] * room
            more, more_weights = pool.pop(index)
            ids += more
            weights += more_weights

    def _fill(self, pool, source) -> None:
        while len(pool) < _POOL:
            encoded = next(source)
            (pool if len(encoded[0]) <= self.recipe.row else self.long).append(encoded)

    def _encoded(self, shares: Shares) -> Iterator[tuple[list[int], list[int]]]:
        source = documents(self.seed, shares=shares)
        while True:
            for ids, weights in encode(self.tokenizer, list(islice(source, _BATCH))):
                if len(ids) <= self.recipe.context:
                    yield ids, weights


def write_rows(tokenizer: Tokenizer, recipe: Recipe, path: Path) -> None:
    """Write all steps to `path` (npz: `ids` uint16 and `weights` uint8, steps × tokens; `lengths` of rows uint16)."""
    ids = np.zeros((recipe.steps, recipe.step_tokens), np.uint16)
    weights = np.zeros((recipe.steps, recipe.step_tokens), np.uint8)
    lengths = np.zeros(recipe.steps, np.uint16)
    packer = Packer(tokenizer, recipe, recipe.seed)
    first, second, third = recipe.rounds
    early = min(first, recipe.early_steps)
    steps = chain(
        islice(packer.steps("early"), early),
        islice(packer.steps("later"), first - early),
        islice(packer.steps("second"), second),
        islice(packer.steps("third"), third),
    )
    for index, step in enumerate(tqdm(steps, total=recipe.steps, desc="data", unit="step", mininterval=1)):
        lengths[index], ids[index], weights[index] = step
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, ids=ids, weights=weights, lengths=lengths)
    os.replace(partial, path)
