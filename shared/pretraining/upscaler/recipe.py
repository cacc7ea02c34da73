"""Every number of the recipe in one place, and the names of the files that it makes."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

SCALE = 4


@dataclass(frozen=True)
class Recipe:
    """How the upscaler is made. Sizes are in pixels.

    From each of `pictures` pictures of `side` pixels, `patches` patches of `patch` pixels are cut where there is
    something to see; `shares` are those of the kinds of picture. The network sees each patch a quarter as wide, by
    averaging 4 × 4 pixels. A share `soft` of these is blurred (deviation up to `blur` small pixels) and gets noise
    (deviation up to `noise` of 255); a share `decoded` went through the embedded model's autoencoder instead, when
    there is one.

    A step is `batch` patches, turned, mirrored and with exchanged colour channels at random. Kernels are trained by
    Muon (https://kellerjordan.github.io/posts/muon/), the rest by AdamW. The loss is Charbonnier's: squared errors
    below `epsilon`, absolute errors above.
    """

    seed: int = 1
    channels: int = 32
    blocks: int = 8
    side: int = 512
    pictures: int = 1200
    patches: int = 6
    patch: int = 128
    shares: dict[str, float] = field(
        default_factory=lambda: {"single": 0.3, "pair": 0.25, "scene": 0.25, "abstract": 0.2}
    )
    soft: float = 0.3
    blur: float = 0.9
    noise: float = 6.0
    decoded: float = 0.4
    steps: int = 2500
    batch: int = 16
    muon_rate: float = 3e-3
    adamw_rate: float = 1e-3
    warmup: int = 50
    constant: float = 0.3
    ema: float = 0.995
    epsilon: float = 0.02
    checkpoint_every: int = 100

    def __post_init__(self):
        if self.side % SCALE or self.patch % SCALE or self.patch > self.side:
            raise ValueError(f"side ({self.side}) and patch ({self.patch}) must be multiples of {SCALE}, patch <= side")
        if not 0 <= self.soft + self.decoded <= 1:
            raise ValueError("soft and decoded are shares: together at most 1")

    def as_dict(self) -> dict:
        """The recipe as plain values, for checkpoints and the model card."""
        return asdict(self)


@dataclass(frozen=True)
class WorkFolder:
    """Where a run keeps what it makes on the way, all of which can be thrown away afterwards."""

    path: Path

    @property
    def patches(self) -> Path:
        return self.path / "patches.npy"

    @property
    def decoded(self) -> Path:
        return self.path / "decoded.npy"

    @property
    def about(self) -> Path:
        return self.path / "data.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"


@cache
def network() -> ModuleType:
    """The module that defines the network: that of Lab 3's container, which imports nothing of this project."""
    path = Path(__file__).parents[3] / "lab3-stable-diffusion" / "code" / "upscaler.py"
    spec = importlib.util.spec_from_file_location("lab3_upscaler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
