"""Every number of the recipe in one place, and the names of the files that it makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The autoencoder: `side` pixels to latents an eighth as wide (a half per level but the last), and back.

    Its loss is the mean absolute error, with pixels on edges counting `edge_weight` times more, plus `kl_weight` times
    the mean Kullback-Leibler divergence of a latent, plus `thumbnail_weight` times the squared error with which one
    linear map of a latent gives the mean colour of its patch. `abstract` is the share of training pictures of nothing
    in particular. Rates fall to nothing twice (https://arxiv.org/abs/1608.03983): after a share `first_cycle` of the
    steps they begin anew, at half.
    """

    channels: tuple[int, ...] = (16, 32, 48, 64)
    layers: int = 1
    groups: int = 8
    latent_channels: int = 4
    steps: int = 4000
    first_cycle: float = 0.4
    batch: int = 16
    rate: float = 2e-3
    warmup: int = 100
    edge_weight: float = 4.0
    kl_weight: float = 3e-4
    thumbnail_weight: float = 0.2
    abstract: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """How the model is made. Sizes are in pixels, latents, tokens and steps; rates are per step.

    `shares` are those of the kinds of picture. A step is `batch` latents, in `parts` computed side by side. Matrices
    and convolution kernels are trained by Muon (https://kellerjordan.github.io/posts/muon/), the rest by AdamW; the
    text encoder at `text_rate` times the rates. Rates rise over `warmup` steps, stay until `constant` of all steps are
    done, and fall to nothing along a cosine.

    The noise levels of a step are spread evenly over a normal distribution of the log of noise over signal (mean
    `noise_mean`, deviation `noise_deviation`), but for a share `uniform_noise` of them, which are any of the
    schedule's. The loss is that of v (https://arxiv.org/abs/2202.00512), and levels with more signal than `snr_limit`
    (signal-to-noise ratio) count less, as in https://arxiv.org/abs/2303.09556.
    """

    seed: int = 1
    side: int = 128
    pictures: int = 60_000
    captions: int = 4
    shares: dict[str, float] = field(default_factory=lambda: {"single": 0.5, "pair": 0.33, "scene": 0.17})
    tokens: int = 32
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    unet_channels: tuple[int, ...] = (64, 96, 128)
    unet_layers: int = 1
    unet_head: int = 32
    groups: int = 16
    noise_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 9000
    batch: int = 64
    parts: int = 2
    muon_rate: float = 2e-3
    adamw_rate: float = 1e-3
    text_rate: float = 0.5
    weight_decay: float = 0.01
    warmup: int = 200
    constant: float = 0.4
    ema: float = 0.999
    caption_dropout: float = 0.1
    noise_mean: float = 0.2
    noise_deviation: float = 1.4
    uniform_noise: float = 0.15
    snr_limit: float = 5.0
    checkpoint_every: int = 250

    def __post_init__(self):
        if self.batch % self.parts:
            raise ValueError(f"batch ({self.batch}) must be a multiple of parts ({self.parts})")
        if self.side % self.factor or (self.side // self.factor) % 2 ** (len(self.unet_channels) - 1):
            raise ValueError(f"side ({self.side}) must be a multiple of what autoencoder and UNet halve it to")
        if any(channels % self.unet_head or channels % self.groups for channels in self.unet_channels):
            raise ValueError("unet_channels must be multiples of unet_head and of groups")
        if self.text_width % self.text_heads:
            raise ValueError(f"text_width ({self.text_width}) must be a multiple of text_heads ({self.text_heads})")

    @property
    def factor(self) -> int:
        """How many pixels of a side make one latent."""
        return 2 ** (len(self.autoencoder.channels) - 1)

    @property
    def latent_side(self) -> int:
        return self.side // self.factor

    def as_dict(self) -> dict:
        """The recipe as plain values, for checkpoints and the model card."""
        return asdict(self)


@dataclass(frozen=True)
class WorkFolder:
    """Where a run keeps what it makes on the way, all of which can be thrown away afterwards."""

    path: Path

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def captions(self) -> Path:
        return self.path / "captions.npy"

    @property
    def autoencoder(self) -> Path:
        return self.path / "autoencoder.pt"

    @property
    def latents(self) -> Path:
        return self.path / "latents.npy"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.path / "loss.csv"
