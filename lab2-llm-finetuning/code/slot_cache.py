"""A key/value cache whose rows join and leave while the others go on generating.

Transformers' own `DynamicCache` grows by concatenation and keeps its rows for a whole `generate` call. This one holds
the rows of all running requests in preallocated tensors. All rows end at the same column (left padding, the convention
of `generate`), so any model that generates from left-padded batches works with it unchanged:

    column   0         start            edge      columns
    row 0    . . . . . . p p k k k k k k | . . . .        k: keys of a row, p: padding (masked)
    row 1    . . . . . . k k k k k k k k | . . . .

The model sees the columns `start` to `edge` only. One decoding step moves `edge` by one and copies nothing.
"""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_COLUMN_STEP = 128


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, float tensors [row capacity, key/value heads, columns, head size]."""

    is_sliding = False

    def __init__(self, window: "SlotCache"):
        super().__init__()
        self._window = window

    def lazy_initialization(self, key_states, value_states):
        """Take the shapes, dtype and device from the first states, [rows, heads, columns, head size]."""
        rows, columns = self._window.row_capacity, self._window.columns
        self.keys = _empty_like(key_states, rows, columns)
        self.values = _empty_like(value_states, rows, columns)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Write one step's states after `edge` and return what the rows attend to."""
        window, end = self._window, self._window.edge + key_states.shape[-2]
        rows = slice(0, window.rows)
        self.keys[rows, :, window.edge : end] = key_states
        self.values[rows, :, window.edge : end] = value_states
        visible = slice(window.start, end)
        return self.keys[rows, :, visible], self.values[rows, :, visible]

    def get_seq_length(self):
        return self._window.edge - self._window.start

    def get_mask_sizes(self, query_length):
        return self.get_seq_length() + query_length, 0

    def get_max_cache_shape(self):
        return -1


class SlotCache(Cache):
    """Key/value cache of the running requests; see the module's text for its layout.

    Attributes:
        lengths: tokens held for each row.
        start, edge: the columns that the model sees.
    """

    def __init__(self):
        self.lengths: list[int] = []
        self.row_capacity, self.columns = 0, 0
        self.start, self.edge = 0, 0
        super().__init__(layers=[])

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def append_rows(self, prefilled: Cache, lengths: list[int]) -> None:
        """Take over all rows of a left-padded prefill.

        Args:
            prefilled: the cache that the model filled, layers of [len(lengths), heads, columns, head size].
            lengths: real tokens of each of its rows.
        """
        if not self.layers:
            self.layers = [_SlotLayer(self) for _ in prefilled.layers]
        first = self.rows
        self._make_room(first + len(lengths), max(lengths))
        for layer, source in zip(self.layers, prefilled.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(source.keys, source.values)
            for row, length in enumerate(lengths):
                target = (first + row, slice(None), slice(self.edge - length, self.edge))
                layer.keys[target] = source.keys[row, :, -length:]
                layer.values[target] = source.values[row, :, -length:]
        self.lengths += lengths
        self.start = self.edge - max(self.lengths)

    def remove_row(self, row: int) -> None:
        """Free a row; the last row moves into its place."""
        last = self.rows - 1
        columns = slice(self.edge - self.lengths[last], self.edge)
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                # A masked column is multiplied by 0, which would spread a NaN that a failed request left behind.
                states[row].zero_()
                if row != last:
                    states[row, :, columns] = states[last, :, columns]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.start = self.edge - max(self.lengths, default=0)

    def prepare_step(self) -> None:
        """Make sure that one more column fits before the model runs."""
        self._make_room(self.rows, 0, new_columns=1)

    def finish_step(self) -> None:
        """Count the column that the model has just written."""
        self.edge += 1
        self.lengths = [length + 1 for length in self.lengths]

    def attention_mask(self, device) -> torch.Tensor | None:
        """Mask for the next step, int64 [rows, visible columns + 1]; None when no row is padded."""
        visible = self.edge - self.start + 1
        if min(self.lengths) + 1 == visible:
            return None
        first = torch.tensor([visible - 1 - length for length in self.lengths])
        return (torch.arange(visible) >= first[:, None]).long().to(device)

    def _make_room(self, rows: int, length: int, new_columns: int = 0) -> None:
        """Fit `rows` rows, a row of `length` tokens and `new_columns` more columns: move the rows, or grow."""
        longest = max([length, *self.lengths])
        needed = longest + new_columns
        fits = self.edge >= length and self.edge + new_columns <= self.columns
        if rows <= self.row_capacity and fits:
            return
        columns = self.columns
        # A third of the columns is free after a move, so that moves are rare: each copies all that is in use.
        roomy = needed + needed // 2
        if roomy > columns:
            columns = -(-roomy // _COLUMN_STEP) * _COLUMN_STEP
        capacity = self.row_capacity if rows <= self.row_capacity else max(4, rows, 2 * self.row_capacity)
        used, old = max(self.lengths, default=0), self.edge
        for layer in self.layers:
            if layer.is_initialized:
                for name in ("keys", "values"):
                    states = getattr(layer, name)
                    kept = states[: self.rows, :, old - used : old].clone()
                    if (capacity, columns) != (self.row_capacity, self.columns):
                        states = _empty_like(states, capacity, columns)
                        setattr(layer, name, states)
                    states[: self.rows, :, longest - used : longest] = kept
        self.row_capacity, self.columns = capacity, columns
        self.edge, self.start = longest, longest - used


def _empty_like(states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    # Zeros, not empty memory, which may hold a NaN (see `SlotCache.remove_row`).
    return states.new_zeros((rows, states.shape[1], columns, states.shape[3]))
