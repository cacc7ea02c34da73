"""GPT-2 with fused layers; see `fused_layers.py`."""

from functools import partial

import torch
from fused_attention import attend, score_mask
from packed_linear import PackedLinear
from torch import nn
from torch.nn import functional as F
from transformers import GPT2LMHeadModel
from transformers.cache_utils import Cache
from transformers.models.gpt2.modeling_gpt2 import GPT2Block


class FusedGPT2Block(GPT2Block):
    """A `GPT2Block` without cross attention, made from one; takes over its parameters."""

    # Which layers of the original each linear layer stands for (see `Adapters.attach`).
    PARTS = {
        "query_key_value": ("attn.c_attn",),
        "attention_output": ("attn.c_proj",),
        "up": ("mlp.c_fc",),
        "down": ("mlp.c_proj",),
    }

    def __init__(self, block: GPT2Block):
        nn.Module.__init__(self)
        attention = block.attn
        self.layer_index, self.heads, self.scale = attention.layer_idx, attention.num_heads, attention.scaling
        self.attention_norm, self.mlp_norm = block.ln_1, block.ln_2
        self.query_key_value, self.attention_output = attention.c_attn, attention.c_proj
        self.up, self.down = block.mlp.c_fc, block.mlp.c_proj
        # Transformers takes eight operations for the usual one.
        self.tanh_gelu = attention.config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        self.activation = partial(F.gelu, approximate="tanh") if self.tanh_gelu else block.mlp.act

    def forward(self, hidden_states, past_key_values=None, attention_mask=None, *_, **__):
        """As transformers calls it."""
        return self.step(hidden_states, attention_mask, past_key_values)

    def step(self, hidden, mask, cache: Cache | None) -> torch.Tensor:
        """One pass; arguments as of `FusedLlamaLayer.step`."""
        rows, columns, size = hidden.shape
        states = self.query_key_value(self.attention_norm(hidden))
        states = states.float().view(rows, columns, 3 * self.heads, size // self.heads).transpose(1, 2)
        attended = attend(*states.chunk(3, 1), mask, cache, self.layer_index, self.scale)
        hidden = self.attention_output(attended.to(hidden.dtype)).add_(hidden)
        normed = self.mlp_norm(hidden)
        if self.tanh_gelu and isinstance(self.up, PackedLinear):
            raised = self.up(normed, tanh_gelu=True)
        else:
            raised = self.activation(self.up(normed))
        return self.down(raised).add_(hidden)


def fuse(model: GPT2LMHeadModel) -> bool:
    """Replace the layers in place; False for a model that is not quite GPT-2."""
    config = model.config
    upcast = config.reorder_and_upcast_attn and config._attn_implementation == "eager"
    if type(model) is not GPT2LMHeadModel or config.add_cross_attention or upcast:
        return False
    for index, block in enumerate(model.transformer.h):
        model.transformer.h[index] = FusedGPT2Block(block).eval()
    return True


def forward(model: GPT2LMHeadModel, ids, positions, mask, cache: Cache) -> torch.Tensor:
    """The function that `fuse_layers` describes."""
    decoder = model.transformer
    hidden = decoder.wte(ids) + decoder.wpe(positions)
    mask = score_mask(mask, hidden)
    for block in decoder.h:
        hidden = block.step(hidden, mask, cache)
    return model.lm_head(decoder.ln_f(hidden[:, -1]))
