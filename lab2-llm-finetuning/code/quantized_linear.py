"""Linear layers in 8-bit integers: weights rounded once per output channel, inputs rounded anew for every token.

    weight [out, in] ~ scale [out, 1] * integers of -127 to 127          once, when the model is loaded
    inputs [..., in] ~ largest of the token [..., 1] * integers          in every call

The product of the integers is exact, so a token's result does not depend on what else is in its batch. The operators
are oneDNN's, as PyTorch's inductor compiler uses them. Where they are missing or give wrong numbers, the inputs stay
floats and PyTorch's own kernel for 8-bit weights multiplies.
"""

from functools import cache

import torch
from torch import nn


class QuantizedLinear(nn.Module):
    """`y = x Wᵀ + b` with 8-bit W; float32 [..., in] to [..., out]. No gradients.

    Args:
        weight: float32 [out, in]. Not kept.
        bias: float32 [out] or None.

    Raises:
        ValueError: another dtype.
        RuntimeError: this build of PyTorch has no 8-bit matrix product for the CPU.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        if weight.dtype != torch.float32:
            raise ValueError(f"8-bit layers are made of float32 weights, not of {weight.dtype}.")
        integers, self.scales = quantize_channels(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.nbytes = integers.nbytes + self.scales.nbytes
        # Any shift between input and its integers is one of the whole batch, so only weights of shift 0 are exact.
        self._shifts = torch.zeros(len(weight), dtype=torch.int64)
        self._levels = _input_levels()
        if self._levels:
            self._weight = torch.ops.onednn.qlinear_prepack(integers, None)
            self._middle = torch.tensor(self._levels + 1.5)
        elif _weight_only_works():
            self._weight = integers
        else:
            raise RuntimeError("This PyTorch has no 8-bit matrix product for the CPU; use DTYPE=bfloat16 or float32.")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self._levels:
            rows = torch.ops.aten._weight_int8pack_mm(inputs.flatten(0, -2), self._weight, self.scales)
            outputs = rows.view(*inputs.shape[:-1], -1)
            return outputs if self.bias is None else outputs.add_(self.bias)
        # A token of zeros divides 0 by 0; whatever integers come out are multiplied by its largest value, 0.
        largest = inputs.abs().amax(-1, keepdim=True)
        integers = inputs / largest
        # The kernels want unsigned integers. Half a step is added because the conversion cuts off decimals.
        integers = torch.add(self._middle, integers, alpha=self._levels, out=integers).to(torch.uint8)
        outputs = _multiply(integers, self._levels, self._weight, self.scales, self._shifts)
        outputs.mul_(largest)
        return outputs if self.bias is None else outputs.add_(self.bias)


def quantize_channels(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers, int8 [out, in] of -127 to 127, and scales, float32 [out], of a weight, float [out, in].

    A channel's largest weight becomes 127 or -127. A channel of zeros gets scale 1.
    """
    scales = weight.float().abs().amax(dim=1) / 127
    scales = torch.where(scales > 0, scales, torch.ones(()))
    return (weight / scales[:, None]).round_().to(torch.int8), scales


def _multiply(integers, levels, weight, scales, shifts) -> torch.Tensor:
    scale, shift = 1 / levels, levels + 1
    return torch.ops.onednn.qlinear_pointwise(
        integers, scale, shift, weight, scales, shifts, None, 1.0, 0, torch.float32, "none", [], ""
    )


@cache
def _input_levels() -> int:
    """Positive integers of an input: 127 or 63; 0 where oneDNN's operators are missing or wrong.

    Processors without VNNI instructions add two products in 16 bits, which overflow unless the inputs have 7 bits.
    """
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-127, 128, (40, 100), dtype=torch.int8, generator=generator)
    integers[:20] = 127
    for levels in (127, 63):
        inputs = torch.randint(0, 2 * levels + 2, (9, 100), dtype=torch.uint8, generator=generator)
        inputs[:5] = 2 * levels + 1
        expected = (inputs.double() - (levels + 1)) @ integers.double().T / levels
        try:
            weight = torch.ops.onednn.qlinear_prepack(integers, None)
            arguments = (weight, torch.ones(40), torch.zeros(40, dtype=torch.int64))
            outputs = [_multiply(rows, levels, *arguments) for rows in (inputs, inputs[:1])]
        except (AttributeError, RuntimeError):
            return 0
        if all(torch.allclose(rows.double(), expected[: len(rows)], rtol=1e-5, atol=1e-3) for rows in outputs):
            return levels
    return 0


@cache
def _weight_only_works() -> bool:
    inputs, integers = torch.ones(2, 16), torch.full((16, 16), 3, dtype=torch.int8)
    try:
        return bool((torch.ops.aten._weight_int8pack_mm(inputs, integers, torch.ones(16)) == 48).all())
    except (AttributeError, RuntimeError):
        return False
