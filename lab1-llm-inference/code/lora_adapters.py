"""LoRA adapters beside a model: several on one endpoint, a request chooses one, and one batch may hold them all.

An adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685) leaves a layer's weight W as it is and adds a product of
two thin matrices to what the layer computes:

    y = W x + scaling * B (A x)          A: [rank, in], B: [out, rank]

Here the A of all adapters in a batch stand one below the other and their B side by side, so that two matrix products
serve all rows; between the two, what is not of a row's own adapter is set to zero. A row without an adapter stays as it
was to the bit.

The files are those of peft's `save_pretrained`: adapters/NAME/adapter_config.json and adapter_model.safetensors.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

Matrices = tuple[torch.Tensor, torch.Tensor]

_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")
# What makes an adapter compute something else than the formula above, and the values for which it does not.
_PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
}


class Adapters:
    """The adapters of a model, and which row of the batch that is computed next uses which.

    Args:
        folder: holds one folder for each adapter; may be missing.
        model: a transformers model whose layers are still its own: adapters are checked against them.

    Attributes:
        names: of all adapters, sorted.
        rows: the name for each row of the batch, None for the model as it is; an empty tuple where no row has any.

    Raises:
        ValueError: an adapter is no plain LoRA adapter, or one of another model; the message names it.
    """

    def __init__(self, folder: Path, model: nn.Module):
        self.rows: tuple[str | None, ...] = ()
        paths = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."] if folder.is_dir() else []
        self._sizes = {
            name: _sizes(layer) for name, layer in model.named_modules() if type(layer) in (nn.Linear, Conv1D)
        }
        like = next(model.parameters())
        # By the adapter's name, by the layer's: A, and B times the scaling.
        self._layers: dict[str, dict[str, Matrices]] = {}
        for path in sorted(paths):
            try:
                self._layers[path.name] = _read(path, self._sizes, like)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                raise ValueError(f"The adapter {path.name} in {folder} cannot be served: {error}") from error
        self.names = tuple(self._layers)

    def attach(self, model: nn.Module) -> None:
        """Put the adapters beside the layers of the model, fused or not; it gets the attribute `adapters`.

        A fused layer has an attribute PARTS: by the name of each of its linear layers the names of those that it stands
        for, in the order of its outputs.
        """
        if not self.names:
            return
        model.adapters = self
        for name, module in list(model.named_modules()):
            parts = getattr(module, "PARTS", None) or {child: (child,) for child, _ in module.named_children()}
            for child, stands_for in parts.items():
                layers = [f"{name}.{part}" if name else part for part in stands_for]
                matrices = {
                    adapter: self._joined(changed, layers)
                    for adapter, changed in self._layers.items()
                    if not changed.keys().isdisjoint(layers)
                }
                if matrices:
                    setattr(module, child, AdaptedLinear(getattr(module, child), matrices, self))

    def select(self, rows: Iterable[str | None]) -> None:
        """Set the adapter (a name, or None) of each row of the batches to come."""
        rows = tuple(rows)
        rows = rows if any(rows) else ()
        # The same object while nothing changes: layers keep what they have laid out for it.
        if rows != self.rows:
            self.rows = rows

    def _joined(self, changed: dict[str, Matrices], layers: list[str]) -> Matrices:
        """A and B of a layer that gives the outputs of several, one after the other."""
        if len(layers) == 1:
            return changed[layers[0]]
        widths = [self._sizes[layer][0] for layer in layers]
        pairs = [changed.get(layer) for layer in layers]
        ups = [pair[1] if pair else torch.zeros(width, 0) for pair, width in zip(pairs, widths, strict=True)]
        down = torch.cat([pair[0] for pair in pairs if pair])
        return down, torch.block_diag(*ups).to(down)


class AdaptedLinear(nn.Module):
    """A linear layer, and what adapters add to it; float [rows, ..., in] to [rows, ..., out]. No gradients.

    Args:
        layer: computes Wx; plain, packed or quantized.
        matrices: (A, B) by the adapter's name.
        adapters: says which rows use which.
    """

    def __init__(self, layer: nn.Module, matrices: dict[str, Matrices], adapters: Adapters):
        super().__init__()
        self.layer = layer
        self._matrices, self._adapters = matrices, adapters
        self._rows: tuple[str | None, ...] = ()
        self._down = self._up = self._others = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.layer(inputs)
        rows = self._adapters.rows
        if not rows:
            return outputs
        if rows is not self._rows:
            self._lay_out(rows)
        if self._down is None:
            return outputs
        middle = inputs @ self._down
        if self._others is not None:
            if len(inputs) != len(rows):
                raise RuntimeError(f"a layer computes {len(inputs)} rows at once where the batch has {len(rows)}")
            middle.masked_fill_(self._others.view(len(rows), *[1] * (inputs.ndim - 2), -1), 0)
        return outputs.add_(middle @ self._up)

    def _lay_out(self, rows) -> None:
        """Put the matrices of the adapters in use side by side."""
        self._rows, self._down, self._others = rows, None, None
        used = [name for name in dict.fromkeys(rows) if name in self._matrices]
        if not used:
            return
        self._down = torch.cat([self._matrices[name][0] for name in used]).T.contiguous()
        self._up = torch.cat([self._matrices[name][1] for name in used], 1).T.contiguous()
        if set(rows) != set(used) or len(used) > 1:
            owners = [name for name in used for _ in self._matrices[name][0]]
            others = [[owner != row for owner in owners] for row in rows]
            self._others = torch.tensor(others, device=self._down.device)


def _read(path: Path, sizes: dict[str, tuple[int, int]], like: torch.Tensor) -> dict[str, Matrices]:
    """A and scaled B of each layer that an adapter changes, with the dtype and on the device of `like`."""
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    for key, plain in _PLAIN.items():
        if config.get(key, plain[0]) not in plain:
            raise ValueError(f"its {key} is {config[key]!r}; LoRA adapters with {key} {plain[0]!r} can be served")
    thin: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path / "adapter_model.safetensors").items():
        match = _KEY.fullmatch(key)
        if not match:
            raise ValueError(f"it changes {key}; only LoRA matrices of linear layers can be served")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds numbers that are not finite")
        thin.setdefault(match["layer"], {})[match["matrix"]] = tensor
    if not thin:
        raise ValueError("it changes nothing")
    matrices = {}
    for layer, pair in thin.items():
        if layer not in sizes:
            raise ValueError(f"the model has no linear layer {layer}; is the adapter one of another model?")
        if set(pair) != {"A", "B"}:
            raise ValueError(f"it has only one of the two matrices of {layer}")
        down, up = pair["A"], pair["B"]
        if (up.shape[0], down.shape[1]) != sizes[layer] or up.shape[1] != down.shape[0]:
            raise ValueError(
                f"its matrices of {layer}, {list(down.shape)} and {list(up.shape)}, do not fit a layer of "
                f"{sizes[layer][1]} inputs and {sizes[layer][0]} outputs; is the adapter one of another model?"
            )
        matrices[layer] = (down.to(like), (up.float() * _scaling(config, layer, len(down))).to(like))
    return matrices


def _scaling(config: dict, layer: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    # As peft matches: the whole name, or its end after a dot.
    own = (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer))
    alpha = next(own, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)
