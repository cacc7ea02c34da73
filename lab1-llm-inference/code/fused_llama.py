"""Llama with fused layers; see `fused_layers.py`."""

import torch
from fused_attention import attend, score_mask
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


class FusedLlamaLayer(LlamaDecoderLayer):
    """A `LlamaDecoderLayer`, made from one; takes over its parameters."""

    # Which layers of the original each linear layer stands for (see `Adapters.attach`).
    PARTS = {
        "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention_output": ("self_attn.o_proj",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }

    def __init__(self, layer: LlamaDecoderLayer):
        nn.Module.__init__(self)
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_index, self.head_size, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        self.key_heads = attention.k_proj.out_features // self.head_size
        self.query_heads = attention.q_proj.out_features // self.head_size
        self.epsilon = layer.input_layernorm.variance_epsilon
        self.attention_norm, self.mlp_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.query_key_value = _side_by_side(attention.q_proj, attention.k_proj, attention.v_proj)
        self.attention_output = attention.o_proj
        self.gate_up = _side_by_side(mlp.gate_proj, mlp.up_proj)
        self.down = mlp.down_proj

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, past_key_values=None, **_):
        """As transformers calls it."""
        return self.step(hidden_states, attention_mask, past_key_values, *rotation(*position_embeddings))

    def step(self, hidden, mask, cache: Cache | None, cos, sin) -> torch.Tensor:
        """One pass.

        Args:
            hidden: float [rows, columns, size].
            mask: added to the attention scores, [rows, 1, columns or 1, cached columns], or None: all before is seen.
            cache: gets the keys and values; may be None.
            cos, sin: see `rotation`.
        """
        rows, columns, size = hidden.shape
        heads, keys = self.query_heads, self.key_heads
        normed = F.rms_norm(hidden, (size,), self.attention_norm, self.epsilon)
        states = self.query_key_value(normed).float()
        states = states.view(rows, columns, heads + 2 * keys, self.head_size).transpose(1, 2)
        rotated, value = states.split((heads + keys, keys), dim=1)
        rotated = (rotated * cos).add_(rotated.roll(self.head_size // 2, -1).mul_(sin))
        query, key = rotated.split((heads, keys), dim=1)
        attended = attend(query, key, value, mask, cache, self.layer_index, self.scale)
        hidden = self.attention_output(attended.to(hidden.dtype)).add_(hidden)
        normed = F.rms_norm(hidden, (size,), self.mlp_norm, self.epsilon)
        gate, up = self.gate_up(normed).chunk(2, -1)
        return self.down(F.silu(gate).mul_(up)).add_(hidden)


def fuse(model: LlamaForCausalLM) -> bool:
    """Replace the layers in place; False for a model that is not quite Llama."""
    if type(model) is not LlamaForCausalLM or model.config.hidden_act != "silu":
        return False
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = FusedLlamaLayer(layer).eval()
    return True


def forward(model: LlamaForCausalLM, ids, positions, mask, cache: Cache) -> torch.Tensor:
    """The function that `fuse_layers` describes."""
    decoder = model.model
    hidden = decoder.embed_tokens(ids)
    mask = score_mask(mask, hidden)
    cos, sin = rotation(*decoder.rotary_emb(hidden, positions))
    for layer in decoder.layers:
        hidden = layer.step(hidden, mask, cache, cos, sin)
    return model.lm_head(decoder.norm(hidden[:, -1]))


def rotation(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of a state and of the state with its halves swapped, [rows, 1, columns, head size].

    Args:
        cos, sin: of the angles, [rows, columns, head size], as Llama's `rotary_emb` gives them.
    """
    first, second = sin.chunk(2, -1)
    return cos[:, None], torch.cat((-first, second), -1)[:, None]


def _side_by_side(*layers: nn.Linear) -> nn.Linear:
    """One linear layer that gives the outputs of several, one after the other."""
    weight = torch.cat([layer.weight for layer in layers])
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if layers[0].bias is not None:
        fused.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return fused
