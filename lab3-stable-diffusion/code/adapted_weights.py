"""LoRAs and learned tokens (textual inversion) that lie beside a model, chosen anew by every request.

    lora/NAME/pytorch_lora_weights.safetensors   as diffusers saves them
    lora/NAME/learned_embeds.safetensors         tokens that belong to this LoRA; may also lie there alone
    learned_embeds.safetensors, embeddings/NAME.safetensors, embeddings/NAME/learned_embeds.safetensors
                                                 tokens that every request has

A chosen LoRA is added to the weights, W + scale · B A, and taken out again when another is wanted: a step then costs
what it costs without, where the library's way, two more products in every layer, costs a third more in small networks.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from learned_tokens import LearnedTokens, read_tokens
from peft.tuners.lora import LoraLayer
from torch import nn

_WEIGHTS = "pytorch_lora_weights.safetensors"
_TOKENS = "learned_embeds.safetensors"
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
Loras = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Adapter:
    """A LoRA: for each layer, by network and path, what peft made of its two matrices."""

    layers: dict[tuple[str, str], LoraLayer]
    key: str  # peft's name for it, which unlike ours may not hold a dot

    def change(self, place: tuple[str, str], scale: float) -> torch.Tensor:
        """What it adds to the weight at a place, float32."""
        return self.layers[place].get_delta_weight(self.key).float() * scale


class AdaptedWeights:
    """The weights of a pipeline, with the LoRAs that are chosen.

    Args:
        pipeline: a Stable Diffusion pipeline whose layers are still plain.
        folders: where to look; the first is the model's own.

    Raises:
        ValueError: a file there does not fit this model.
    """

    def __init__(self, pipeline, folders: list[Path]):
        self._pipeline = pipeline
        self._adapters: dict[str, _Adapter] = {}
        self._chosen: Loras = ()
        tokens = LearnedTokens(pipeline)
        for file in _shared_tokens(folders):
            tokens.add_always(read_tokens(file, pipeline))
        for name, folder in sorted(_lora_folders(folders).items()):
            if (folder / _TOKENS).is_file():
                tokens.add(name, read_tokens(folder / _TOKENS, pipeline))
            self._adapters[name] = self._read(name, folder)
        tokens.finish()
        self._tokens = tokens
        self._plain = {
            place: self._layer(place).weight.detach().clone()
            for adapter in self._adapters.values()
            for place in adapter.layers
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The LoRAs' names, which are those of their folders."""
        return tuple(self._adapters)

    @torch.no_grad()
    def choose(self, loras: Loras) -> None:
        """Make these (name, scale) the ones that the networks compute with; nothing happens if they are already."""
        if loras == self._chosen:
            return
        touched = [place for name, _ in (*self._chosen, *loras) for place in self._adapters[name].layers]
        # Half of a choice is none: after a failure the next call sets every layer again.
        self._chosen = tuple((name, 1.0) for name in self._adapters)
        for place in dict.fromkeys(touched):
            weight = self._plain[place]
            changes = [
                self._adapters[name].change(place, scale)
                for name, scale in loras
                if scale and place in self._adapters[name].layers
            ]
            if changes:
                changes = sum(changes).reshape(weight.shape).to(weight.device)
                weight = (weight.float() + changes).to(weight.dtype)
            _set_weight(self._layer(place), weight)
        self._tokens.choose([name for name, scale in loras if scale])
        self._chosen = loras

    def _read(self, name: str, folder: Path) -> _Adapter:
        """The LoRA of a folder; the networks are left as they were."""
        if not (folder / _WEIGHTS).is_file():
            return _Adapter({}, "")
        key = f"lora{len(self._adapters)}"
        try:
            self._pipeline.load_lora_weights(str(folder), weight_name=_WEIGHTS, adapter_name=key)
        except Exception as error:
            raise ValueError(f"The LoRA {name} does not fit this model: {error}") from error
        layers = {
            (network, path): layer
            for network in _NETWORKS
            for path, layer in _modules(getattr(self._pipeline, network, None))
            if isinstance(layer, LoraLayer) and key in layer.scaling
        }
        self._pipeline.unload_lora_weights()
        if not layers:
            raise ValueError(f"The LoRA {name} changes no layer of this model; was it made for another one?")
        if any(layer.lora_variant for layer in layers.values()):
            raise ValueError(f"The LoRA {name} is of a kind (DoRA) that cannot be added to the weights beforehand.")
        return _Adapter(layers, key)

    def _layer(self, place: tuple[str, str]) -> nn.Module:
        network, path = place
        return getattr(self._pipeline, network).get_submodule(path)


def _modules(network: nn.Module | None):
    return network.named_modules() if network is not None else ()


def _set_weight(layer: nn.Module, weight: torch.Tensor) -> None:
    if hasattr(layer, "set_weight"):
        layer.set_weight(weight)
    else:
        layer.weight.data.copy_(weight)


def _lora_folders(folders: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / "lora").glob("*")):
            if (path / _WEIGHTS).is_file() or (path / _TOKENS).is_file():
                found.setdefault(path.name, path)
    return found


def _shared_tokens(folders: list[Path]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        files += [folder / _TOKENS] if (folder / _TOKENS).is_file() else []
        files += sorted((folder / "embeddings").glob("*.safetensors"))
        files += sorted((folder / "embeddings").glob(f"*/{_TOKENS}"))
    return files
