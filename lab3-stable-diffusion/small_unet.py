"""A U-Net small enough to be trained in a minute without a GPU. Notebook 0 trains it and looks inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_embedding(amounts: Tensor, width: int = 32, slowest: float = 1.0, fastest: float = 1000.0) -> Tensor:
    """Numbers as points on circles that turn at different speeds (https://arxiv.org/abs/1706.03762, section 3.5).

    `amounts` (batch) become sines and cosines (batch × width) of `width`/2 frequencies, spread evenly on a logarithmic
    scale from `slowest` to `fastest`, in radians per unit of amount. Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"width ({width}) must be even: half of it are sines, half cosines")
    frequencies = torch.exp(torch.linspace(math.log(slowest), math.log(fastest), width // 2))
    angles = amounts.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to what came in (https://arxiv.org/abs/1512.03385).

    `pictures` (batch × before × height × width) become batch × after × height × width; `amount` (batch × embedded) says
    how noisy each is.
    """

    def __init__(self, before: int, after: int, embedded: int, groups: int = 8):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, after), nn.Conv2d(after, after, 3, padding=1)
        self.amount = nn.Linear(embedded, 2 * after)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        for zero in (self.conv2.weight, self.conv2.bias):
            nn.init.zeros_(zero)  # a new block changes nothing: it only hands on

    def forward(self, pictures: Tensor, amount: Tensor) -> Tensor:
        found = self.conv1(F.silu(self.norm1(pictures)))
        scale, shift = self.amount(F.silu(amount))[:, :, None, None].chunk(2, dim=1)
        found = self.norm2(found) * (1 + scale) + shift
        return self.shortcut(pictures) + self.conv2(F.silu(found))


class SmallUNet(nn.Module):
    """From noisy pictures and their amounts of noise to what is asked of it in training: tensors like the pictures.

    `widths` are the channels of the levels, from full size down; each further level has half the side. A level has
    one residual block on the way down and one on the way up, the lowest two in the middle. Untrained, it gives zeros.
    Raises ValueError for widths that are no multiples of 8, the number of groups that are normalised.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (32, 64, 96), embedded: int = 96):
        super().__init__()
        if any(width % 8 for width in widths):
            raise ValueError(f"widths {widths} must be multiples of 8")
        self.frequencies = 32
        self.embed = nn.Sequential(nn.Linear(self.frequencies, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for width, below in zip(widths[:-1], widths[1:], strict=True):
            self.down.append(ResidualBlock(width, width, embedded))
            self.shrink.append(nn.Conv2d(width, below, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(ResidualBlock(widths[-1], widths[-1], embedded) for _ in range(2))
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for width, below in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.grow.append(nn.Conv2d(below, width, 3, padding=1))
            self.up.append(ResidualBlock(2 * width, width, embedded))
        self.norm, self.last = nn.GroupNorm(8, widths[0]), nn.Conv2d(widths[0], channels, 3, padding=1)
        for zero in (self.last.weight, self.last.bias):
            nn.init.zeros_(zero)

    def forward(self, pictures: Tensor, amounts: Tensor) -> Tensor:
        """`pictures` (batch × channels × side × side) and their `amounts` of noise (batch, 0 to 1).

        Raises ValueError for a side that cannot be halved as often as the levels need.
        """
        side = 2 ** len(self.shrink)
        if pictures.shape[-1] % side or pictures.shape[-2] % side:
            raise ValueError(
                f"pictures of {tuple(pictures.shape[-2:])} cannot be halved {len(self.shrink)} times without remainder"
            )
        amount = self.embed(sinusoidal_embedding(amounts, self.frequencies))
        kept, found = [], self.first(pictures)
        for block, shrink in zip(self.down, self.shrink, strict=True):
            found = block(found, amount)
            kept.append(found)
            found = shrink(found)
        for block in self.middle:
            found = block(found, amount)
        for block, grow in zip(self.up, self.grow, strict=True):
            found = grow(F.interpolate(found, scale_factor=2, mode="nearest"))
            found = block(torch.cat([found, kept.pop()], dim=1), amount)
        return self.last(F.silu(self.norm(found)))
