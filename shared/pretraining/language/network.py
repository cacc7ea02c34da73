"""The network: a transformers Llama, and a forward pass of the same mathematics that trains faster on CPUs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from shared.pretraining.language.recipe import Recipe


def build(recipe: Recipe, end_of_text: int = 0) -> LlamaForCausalLM:
    """A Llama with tied embeddings and random weights, the same for the same `recipe.seed`, in fp32.

    The projections that write to the residual stream begin at zero, so that each layer begins as the identity.
    """
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.ones_(parameter)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(parameter)
        else:
            std = 0.02 if "embed" in name else 1 / math.sqrt(parameter.shape[1])
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model


def hidden_states(model: LlamaForCausalLM, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """The last layer's normalised states (rows × tokens × hidden, fp32) for `ids` (rows × tokens, int64).

    Matrix products and attention are computed in `dtype`; the weights and the residual stream stay in fp32.
    A token sees those before it in its own document only, as at inference (measured: 80 steps give the loss that takes
    105 when it sees the whole row, at the same cost a step). Documents end with the token `config.eos_token_id`.
    """
    config = model.config
    rows, tokens = ids.shape
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    hidden = ~_visible(ids, config.eos_token_id)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=ids.device).masked_fill_(hidden, -math.inf)
    cos, sin = _rotary(tokens, size, config.rope_parameters["rope_theta"], ids.device, dtype)

    def norm(states: Tensor, layer) -> Tensor:
        return F.rms_norm(states, (config.hidden_size,), layer.weight, config.rms_norm_eps)

    def product(states: Tensor, *weights: Tensor) -> Tensor:
        return F.linear(states.to(dtype), torch.cat(weights).to(dtype))

    states = F.embedding(ids, model.model.embed_tokens.weight)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = product(
            norm(states, layer.input_layernorm),
            attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight,
        ).view(rows, tokens, 3 * heads, size)  # fmt: skip
        rotated, value = qkv.split((2 * heads, heads), dim=2)
        first, second = rotated.chunk(2, dim=-1)
        rotated = torch.cat(
            (torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)), dim=-1
        )
        query, key = rotated.transpose(1, 2).chunk(2, dim=1)
        # On CPU in less time than scaled_dot_product_attention at these sizes (256 tokens, heads of 32).
        scores = torch.matmul(query * size**-0.5, key.transpose(-1, -2)) + mask
        mixed = torch.matmul(scores.softmax(-1), value.transpose(1, 2))
        mixed = mixed.transpose(1, 2).reshape(rows, tokens, config.hidden_size)
        states = states + product(mixed, attention.o_proj.weight)
        both = product(norm(states, layer.post_attention_layernorm), mlp.gate_proj.weight, mlp.up_proj.weight)
        gate, up = both.chunk(2, dim=-1)
        states = states + product(F.silu(gate) * up, mlp.down_proj.weight)
    return norm(states, model.model.norm)


def loss_sum(model: LlamaForCausalLM, rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The weighted sum (fp32 scalar) of each token's cross-entropy given the tokens before it in its row.

    `rows` (rows × tokens, int64) are both input and target; `weights` (same shape) counts the target tokens, of which a
    row's first is none.
    """
    states = hidden_states(model, rows, dtype)[:, :-1]
    logits = F.linear(states.to(dtype), model.model.embed_tokens.weight.to(dtype)).float()
    losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def _visible(ids: Tensor, end_of_text: int) -> Tensor:
    """Which tokens (last axis) each token sees (rows × 1 × tokens × tokens, bool)."""
    ends = (ids == end_of_text).long()
    document = ends.cumsum(1) - ends
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]


def _rotary(tokens: int, size: int, theta: float, device, dtype) -> tuple[Tensor, Tensor]:
    frequencies = theta ** -(torch.arange(0, size, 2, device=device) / size)
    angles = torch.outer(torch.arange(tokens, device=device).float(), frequencies)[None, :, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)
