"""A small network that enlarges pictures four times: residual blocks, then pixel shuffle, added to bicubic enlargement.

The design is that of EDSR (https://arxiv.org/abs/1707.02921), much smaller. In a model folder it is `upscaler/` with
`config.json` and `model.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Upscaler(nn.Module):
    """Enlarges pictures `scale` times (a power of two). `blocks` residual blocks of width `channels`."""

    def __init__(self, channels: int = 32, blocks: int = 8, scale: int = 4):
        super().__init__()
        if channels < 1 or blocks < 0 or scale not in (2, 4, 8):
            raise ValueError(f"no upscaler of {channels} channels, {blocks} blocks, scale {scale} (2, 4 or 8)")
        self.config = {"channels": channels, "blocks": blocks, "scale": scale}
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        # The untrained network enlarges as bicubic interpolation does.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        for block in self.blocks:
            nn.init.zeros_(block[2].weight)
            nn.init.zeros_(block[2].bias)

    @property
    def scale(self) -> int:
        return self.config["scale"]

    @property
    def reach(self) -> int:
        """How many pixels away a pixel of the input changes the output."""
        return 2 * len(self.blocks) + 2

    def forward(self, pictures: Tensor) -> Tensor:
        """Batch × 3 × height × width, 0 to 1, to `scale` times the height and width; it may leave 0 to 1 a little."""
        features = self.first(pictures - 0.5)
        for block in self.blocks:
            features = features + block(features)
        fine = F.pixel_shuffle(self.last(features), self.scale)
        return fine.float() + F.interpolate(pictures.float(), scale_factor=float(self.scale), mode="bicubic")


def load_upscaler(folder: str | Path, device: str | torch.device = "cpu") -> Upscaler:
    """The network in `folder`, in fp32, ready to use.

    Raises FileNotFoundError when a file is missing, ValueError when the files do not belong together.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no upscaler in {folder}: {name} is missing")
    try:
        model = Upscaler(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (TypeError, RuntimeError, json.JSONDecodeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"the upscaler in {folder} cannot be loaded: {cause}") from error
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.inference_mode()
def upscale(model: Upscaler, picture: Image.Image, *, tile: int = 192) -> Image.Image:
    """A picture (any mode; read as RGB) `scale` times as wide and high.

    It is done in tiles of `tile` pixels with a margin, so that memory does not grow with the picture; the tiles fit
    without a seam, since the margin is as wide as the network can see. Raises ValueError for a tile below 1.
    """
    if tile < 1:
        raise ValueError(f"tile is {tile}: at least 1 pixel")
    device, reach, scale = next(model.parameters()).device, model.reach, model.scale
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
    height, width = pixels.shape[2:]
    result = np.empty((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            rows = slice(max(0, top - reach), min(height, bottom + reach))
            columns = slice(max(0, left - reach), min(width, right + reach))
            part = pixels[:, :, rows, columns].to(device, torch.float32) / 255
            fine = model(part.contiguous(memory_format=torch.channels_last))
            fine = (fine[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            y, x = (top - rows.start) * scale, (left - columns.start) * scale
            high, wide = (bottom - top) * scale, (right - left) * scale
            result[top * scale : bottom * scale, left * scale : right * scale] = fine[y : y + high, x : x + wide]
    return Image.fromarray(result)
