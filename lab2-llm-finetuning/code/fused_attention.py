"""Attention of the fused layers: its mask, and its one operator.

Keys, values and scores are float32 whatever the weights are: PyTorch's attention for CPUs takes two to five times as
long in bfloat16, more than the smaller cache saves.
"""

import torch
from torch.nn import functional as F
from transformers.cache_utils import Cache


def score_mask(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor | None:
    """What to add to the attention scores, float32 [rows, 1, columns or 1, cached columns].

    Args:
        mask: int64 [rows, cached columns], 0 for padding; None, where there is no padding, gives None.
        hidden: float [rows, columns, size]; more than one column only where nothing is cached before them.
    """
    if mask is None:
        return None
    hide = (mask == 0)[:, None, None]
    if (columns := hidden.shape[1]) > 1:
        hide = hide | torch.ones(columns, columns, dtype=torch.bool).triu(1)
    # The lowest number, not minus infinity: padding, which sees nothing, must not become NaN.
    return torch.zeros(hide.shape).masked_fill_(hide, torch.finfo(torch.float32).min)


def attend(query, key, value, mask, cache: Cache | None, layer_index: int, scale: float) -> torch.Tensor:
    """Attention of float32 [rows, heads, columns, head size] states; returns [rows, columns, heads * head size].

    Args:
        mask: see `score_mask`, or bool, true for what is seen; None: everything up to the own column is seen.
        cache: gets the keys and values, and gives those to attend to; may be None.
    """
    if cache is not None:
        key, value = cache.update(key, value, layer_index)
    columns = query.shape[2]
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and columns > 1,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).reshape(query.shape[0], columns, -1)
