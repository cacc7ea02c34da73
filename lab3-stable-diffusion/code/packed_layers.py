"""Linear layers with weights laid out once for the CPU's matrix kernels (oneDNN), for float32 and bfloat16.

PyTorch lays them out anew in every call; at 128 × 128 pixels that is an eighth of the small UNet's time. These are the
operators of PyTorch's inductor compiler. Convolutions stay plain: their packed twins were slower (torch 2.13).
Where the operators are missing, or compute something else, the plain layer stays.
"""

import torch
from torch import nn


class PackedLinear(nn.Module):
    """`y = x Wᵀ + b` with packed W; float [..., in] to [..., out]. No gradients.

    Args:
        layer: the plain layer. Its bias is shared, its weight copied.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.set_weight(layer.weight)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Take another weight, [out, in]."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())

    def forward(self, inputs: torch.Tensor, *unused) -> torch.Tensor:
        """The product; diffusers hands some layers a scale that they ignore."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")


def pack_linear_layers(model: nn.Module) -> int:
    """Replace the linear layers of a CPU model, in place; returns how many were replaced."""
    layers = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear
    ]
    if not layers or not _works(layers[0][2]):
        return 0
    for parent, name, layer in layers:
        setattr(parent, name, PackedLinear(layer))
    return len(layers)


@torch.inference_mode()
def _works(layer: nn.Linear) -> bool:
    inputs = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight.dtype)
    try:
        outputs = PackedLinear(layer)(inputs)
    except (AttributeError, RuntimeError):
        return False
    expected = layer(inputs)
    tolerance = 1e-4 if layer.weight.dtype == torch.float32 else 2e-2
    return float((outputs - expected).abs().max()) <= tolerance * (float(expected.abs().max()) + 1e-6)
