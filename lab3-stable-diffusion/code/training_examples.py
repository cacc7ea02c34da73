"""What a training step sees: latents that are computed once, captions, and an order that depends on the seed only."""

import argparse
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from base_pipeline import BasePipeline
from training_pictures import TrainingPicture, square

_ENCODED_AT_ONCE = 4


@dataclass
class Examples:
    """Latents of pictures and their captions.

    `mean` and `deviation` are those of the autoencoder's answer, scaled as the UNet takes it: flips × pictures ×
    channels × height × width (fp16, in memory). `sizes` has for each picture what SDXL is told of it: height and width
    of the file, where it was cut (top, left), height and width of the cut.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    captions: list[str]
    sizes: torch.Tensor

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def fingerprint(self) -> str:
        """The same for the same pictures and captions."""
        digest = hashlib.sha256(self.mean.numpy().tobytes())
        digest.update("\n".join(self.captions).encode())
        return digest.hexdigest()[:16]

    def latents(self, chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Latents of the chosen pictures (fp32): mirrored or not, and drawn from the autoencoder's answer."""
        flips = torch.from_numpy(rng.integers(len(self.mean), size=len(chosen)))
        pictures = torch.from_numpy(chosen)
        mean, deviation = self.mean[flips, pictures].float(), self.deviation[flips, pictures].float()
        return mean + deviation * torch.from_numpy(rng.standard_normal(mean.shape, np.float32))


def encode(base: BasePipeline, pictures: list[TrainingPicture], options: argparse.Namespace) -> Examples:
    """The pictures' latents, computed once: the autoencoder is not trained."""
    vae, side = base.pipe.vae, options.resolution
    means, deviations, sizes = [[], []], [[], []], []
    for start in range(0, len(pictures), _ENCODED_AT_ONCE):
        some = pictures[start : start + _ENCODED_AT_ONCE]
        cut = [square(picture, side) for picture in some]
        sizes += [
            (picture.size[1], picture.size[0], *corner, side, side)
            for picture, (_, corner) in zip(some, cut, strict=True)
        ]
        pixels = torch.from_numpy(np.stack([values for values, _ in cut])).permute(0, 3, 1, 2)
        pixels = (pixels.float() / 127.5 - 1).to(base.device)
        for flip in range(2 if options.random_flip else 1):
            with torch.inference_mode():
                found = vae.encode(pixels.flip(3) if flip else pixels).latent_dist
            shift = getattr(vae.config, "shift_factor", None) or 0.0
            means[flip].append(((found.mean - shift) * vae.config.scaling_factor).half().cpu())
            deviations[flip].append((found.std * vae.config.scaling_factor).half().cpu())
    mean, deviation = (torch.stack([torch.cat(parts) for parts in kind if parts]) for kind in (means, deviations))
    return Examples(mean, deviation, [picture.caption for picture in pictures], torch.tensor(sizes))


class Order:
    """Which pictures a batch has: every epoch has each picture once, in an order of its own."""

    def __init__(self, pictures: int, batch: int, seed: int):
        self.pictures, self.batch, self.seed = pictures, batch, seed

    def of(self, number: int) -> np.ndarray:
        """The pictures of batch `number` (from 0), as indices."""
        places = np.arange(number * self.batch, (number + 1) * self.batch)
        return np.array([self._epoch(place // self.pictures)[place % self.pictures] for place in places])

    def _epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 1, int(epoch))).permutation(self.pictures)


class CaptionStates:
    """What the UNet is told of a caption: computed once where no text encoder is trained, else anew each time."""

    def __init__(self, base: BasePipeline, captions: list[str], *, cache: bool):
        self.base = base
        self._known: dict[str, tuple[torch.Tensor, ...]] = {}
        if cache:
            distinct = sorted({*captions, ""})
            with torch.no_grad(), base.autocast():
                for start in range(0, len(distinct), 16):
                    some = distinct[start : start + 16]
                    states = [part.cpu() for part in self._encode(some)]
                    self._known |= {text: tuple(part[i] for part in states) for i, text in enumerate(some)}

    def of(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        """States (captions × tokens × width); with SDXL also the pooled ones (captions × width)."""
        if not self._known:
            return self._encode(captions)
        columns = zip(*(self._known[caption] for caption in captions), strict=True)
        return tuple(torch.stack(column).to(self.base.device) for column in columns)

    def _encode(self, captions: list[str]) -> tuple[torch.Tensor, ...]:
        found = self.base.pipe.encode_prompt(
            captions, device=self.base.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return (found[0], found[2]) if self.base.is_xl else (found[0],)
