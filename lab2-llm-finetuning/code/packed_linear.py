"""Linear layers with weights laid out once for the CPU's matrix kernels (oneDNN), for float32 and bfloat16.

PyTorch's own linear layer takes the weights as they lie in memory, which costs more than half of the speed when a few
tokens at a time are generated. These are the operators that PyTorch's inductor compiler uses for the same purpose.
Where they are missing, or give other numbers than the plain layer, the plain layer stays.
"""

import torch
from quantized_linear import QuantizedLinear
from torch import nn
from transformers.pytorch_utils import Conv1D


class PackedLinear(nn.Module):
    """`y = x Wᵀ + b` with packed W; float [..., in] to [..., out]. No gradients.

    Args:
        weight: [out, in]. Not kept.
        bias: [out] or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.nbytes = weight.nbytes
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: torch.Tensor, tanh_gelu: bool = False) -> torch.Tensor:
        """The product, or GELU of it in its tanh approximation, without another pass through memory."""
        after = ("gelu", [], "tanh") if tanh_gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, *after)


def pack_linear_layers(model: nn.Module, int8: bool = False) -> int:
    """Replace every linear layer of a CPU model, in place; returns how many were replaced.

    A replaced layer's own weights are freed, unless the input embedding shares them.

    Args:
        model: any module, in float32 for `int8`.
        int8: round the weights to 8-bit integers (see `quantized_linear.py`).

    Raises:
        RuntimeError: `int8`, and this build of PyTorch has no 8-bit matrix product for the CPU.
    """
    layers = [
        (parent, name)
        for parent in list(model.modules())
        for name, layer in parent.named_children()
        if type(layer) in (nn.Linear, Conv1D)
    ]
    for count, (parent, name) in enumerate(layers):
        layer = getattr(parent, name)
        packed = QuantizedLinear(_weight(layer), layer.bias) if int8 else _packed(layer)
        if packed is None:
            return count
        setattr(parent, name, packed)
    return len(layers)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights in memory; what layers share counts once, a packed copy once more."""
    kept = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    packed = (layer.nbytes for layer in model.modules() if isinstance(layer, (PackedLinear, QuantizedLinear)))
    return sum(kept.values()) + sum(packed)


def _weight(layer: nn.Module) -> torch.Tensor:
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


@torch.inference_mode()
def _packed(layer: nn.Module) -> PackedLinear | None:
    """The packed twin of a layer; None where it does not exist on this machine or computes something else."""
    weight = _weight(layer)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, weight.shape[1], generator=generator).to(weight.dtype)
    try:
        packed = PackedLinear(weight, layer.bias)
        outputs = packed(inputs)
    except (AttributeError, RuntimeError):
        return None
    expected = layer(inputs)
    tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
    scale = float(expected.abs().max()) + 1e-6
    return packed if float((outputs - expected).abs().max()) <= tolerance * scale else None
