"""Causal attention for training in bfloat16 on a processor: matrix products over pieces of the row.

PyTorch's fused attention for CPUs saves memory, and its backward pass takes two to three times as long in bfloat16 as
plain matrix products do. A piece of 128 queries needs the keys up to its own end only, so nearly half of the scores are
never computed, and what has to be kept for the backward pass stays small for rows of up to 1,024 tokens.
"""

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "blockwise"
_PIECE = 128  # queries at a time
_LONGEST = 1024  # tokens in a row; longer ones would keep too many scores


def use_blockwise_attention(model: PreTrainedModel) -> bool:
    """Let `model` attend in pieces where it attends by PyTorch's operator now; returns whether it does."""
    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **others):
    """Attention as transformers calls it.

    Args:
        query, key, value: float [rows, heads, tokens, head size]; keys and values may have fewer heads.
        attention_mask: None where each token sees itself and all before it. Anything else goes to PyTorch's operator.

    Returns:
        float [rows, tokens, heads, head size], and None for the weights.
    """
    tokens = query.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None or not causal or key.shape[2] != tokens or not 1 < tokens <= _LONGEST:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **others
        )
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) if groups > 1 else states for states in (key, value))
    rows, heads, _, size = query.shape
    query, key, value = (states.to(dtype).reshape(rows * heads, tokens, -1) for states in (query, key, value))
    scale = size**-0.5 if scaling is None else scaling
    with torch.autocast(kind, enabled=False):
        pieces = []
        for start in range(0, tokens, _PIECE):
            end = min(start + _PIECE, tokens)
            hidden = torch.full((end - start, end), -torch.inf, dtype=dtype, device=query.device).triu(1 + start)
            scores = torch.baddbmm(
                hidden.expand(rows * heads, -1, -1), query[:, start:end], key[:, :end].transpose(1, 2), alpha=scale
            )
            weights = functional.dropout(scores.softmax(-1), dropout, module.training)
            pieces.append(weights @ value[:, :end])
        attended = torch.cat(pieces, 1).view(rows, heads, tokens, -1)
    return attended.transpose(1, 2).contiguous(), None
