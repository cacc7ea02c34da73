"""Every number of the recipe in one place, and the names of the files that it makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """How the model is made. Sizes are in tokens and steps; rates are per step.

    A step is `step_tokens` tokens, in rows of `row` tokens; documents that are longer get steps with rows of `context`.
    The training has three rounds, each with shares of the mixture of its own; the first `early_steps` have the early
    ones. The shares `second_round` and `third_round` of all steps are of those rounds.

    The matrices inside the layers are trained by Muon (https://kellerjordan.github.io/posts/muon/), the rest by AdamW.
    Both rates rise over `warmup` steps, stay until `constant` of the first round is done, and fall linearly to
    nothing. Each later round has a warm-up of its own, to `later_rate` times the rates, and falls to nothing again.
    Without `weight_decay` the residual stream grows by a factor of hundreds, and binding by attention is not learned.
    """

    seed: int = 1
    vocabulary: int = 2560
    tokenizer_documents: int = 40_000
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    intermediate: int = 512
    context: int = 512
    rope_theta: float = 10_000.0
    steps: int = 12_400
    second_round: float = 15 / 62
    third_round: float = 12 / 62
    step_tokens: int = 4096
    row: int = 256
    parts: int = 2
    early_steps: int = 600
    muon_rate: float = 0.012
    weight_decay: float = 0.1
    adamw_rate: float = 2e-3
    warmup: int = 50
    constant: float = 0.1
    later_rate: float = 0.5
    checkpoint_every: int = 250

    def __post_init__(self):
        if self.step_tokens % (self.parts * self.context) or self.context % self.row:
            raise ValueError(
                f"step_tokens ({self.step_tokens}) must be a multiple of parts x context ({self.parts * self.context})"
                f", and context a multiple of row ({self.row})"
            )
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden ({self.hidden}) must be an even multiple of heads ({self.heads})")
        if not 300 <= self.vocabulary <= 65_536:
            raise ValueError(f"vocabulary ({self.vocabulary}) must lie between 300 and 65536")

    @property
    def rounds(self) -> tuple[int, int, int]:
        """The steps of each round."""
        second, third = round(self.second_round * self.steps), round(self.third_round * self.steps)
        return self.steps - second - third, second, third

    def as_dict(self) -> dict:
        """The recipe as plain values, for checkpoints and the model card."""
        return asdict(self)


@dataclass(frozen=True)
class WorkFolder:
    """Where a run keeps its tokenizer, data and checkpoint, all of which can be thrown away afterwards."""

    path: Path

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def rows(self) -> Path:
        return self.path / "rows.npz"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.path / "loss.csv"
