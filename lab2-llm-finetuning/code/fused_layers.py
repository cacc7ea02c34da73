"""Layers with fewer, larger operations, and a forward pass without detours, for the architectures that have them here.

With a small model and a few rows, a step's time goes into calling operations, not into computing: transformers' Llama
layer calls about sixty. Fused, query, key and value are one matrix product, so are gate and up, the rotation of queries
and keys takes four operations instead of fourteen, and the mask is built once. The numbers are the same up to rounding.
Other architectures keep transformers' own layers.
"""

import importlib
from functools import partial

from torch import nn

# Imported when needed: transformers' module of an architecture imports much that the others do not use.
_MODULES = {"llama": "fused_llama", "gpt2": "fused_gpt2"}


def fuse_layers(model: nn.Module) -> bool:
    """Replace a transformers model's layers in place; returns whether their fused form is known.

    The model stays one to call and to `generate` with, and gets an attribute `fused_forward`: a function
    (ids, positions, mask, cache) -> logits of the last column. ids and positions are int64 [rows, columns], mask int64
    [rows, cached columns], 0 for padding, or None, logits float [rows, vocabulary]. More than one column can be read
    into an empty cache only.
    """
    name = _MODULES.get(model.config.model_type)
    module = importlib.import_module(name) if name else None
    if module is None or not module.fuse(model):
        return False
    model.fused_forward = partial(module.forward, model)
    return True
