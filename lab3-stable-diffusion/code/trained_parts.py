"""What of the pipeline is trained, by method: adapters, vectors of a new word, or the weights themselves."""

import argparse
from collections.abc import Iterator

import torch
from base_pipeline import BasePipeline
from peft import LoraConfig
from training_failure import InputError

_ATTENTION = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
_MORE = {
    "unet": ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj"],
    "text_encoder": ["fc1", "fc2"],
}


class LearnedWord(torch.nn.Module):
    """A token embedding in which the vectors of some tokens are trained, and nothing else.

    `vectors` is tokens × width, fp32. The tokens may lie beyond the embedding's own.
    """

    def __init__(self, embedding: torch.nn.Embedding, ids: list[int], start: torch.Tensor):
        super().__init__()
        self.embedding, self.ids = embedding, ids
        self.vectors = torch.nn.Parameter(start.detach().float().clone())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors of token ids (batch × length): batch × length × width."""
        found = self.embedding(ids.clamp(max=self.embedding.num_embeddings - 1))
        for number, vector in zip(self.ids, self.vectors, strict=True):
            found = torch.where((ids == number)[..., None], vector.to(found.dtype), found)
        return found


class TrainedParts:
    """The parameters that are trained. `lora` and `whole` name the networks with adapters, and those trained whole;
    `words` has a LearnedWord of each text encoder."""

    def __init__(self, base: BasePipeline, options: argparse.Namespace):
        self.base = base
        self.lora: list[str] = []
        self.whole: list[str] = []
        self.words: dict[str, LearnedWord] = {}
        networks = ["unet", *(base.text_encoders if options.train_text_encoder else ())]
        if options.method == "lora":
            self._add_lora(networks, options)
        elif options.method in ("dreambooth", "full"):
            for name in networks:
                getattr(base.pipe, name).requires_grad_(True).float()
                self.whole.append(name)
        if options.placeholder_token:
            self._add_word(options)
        if options.gradient_checkpointing:
            base.pipe.unet.enable_gradient_checkpointing()
            for encoder in base.text_encoders.values():
                encoder.gradient_checkpointing_enable({"use_reentrant": False})
        self.parameters = dict(self._named_parameters())
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()  # small steps would be rounded away in 16 bits

    @property
    def text_is_trained(self) -> bool:
        """Whether what a caption is for the UNet changes in training."""
        return bool(self.words) or any(name != "unet" for name in (*self.lora, *self.whole))

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def train(self, on: bool = True) -> None:
        """Switch the networks to training, or back."""
        for module in (self.base.pipe.unet, *self.base.text_encoders.values()):
            module.train(on)

    def state(self) -> dict[str, torch.Tensor]:
        """The trained values by name."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Put values of the same names back."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[name])

    def _add_lora(self, networks: list[str], options: argparse.Namespace) -> None:
        for name in networks:
            kind = "unet" if name == "unet" else "text_encoder"
            targets = _ATTENTION[kind] + (_MORE[kind] if options.lora_target_modules == "all" else [])
            config = LoraConfig(
                r=options.rank, lora_alpha=options.lora_alpha, target_modules=targets, init_lora_weights="gaussian"
            )
            getattr(self.base.pipe, name).add_adapter(config)
            self.lora.append(name)

    def _add_word(self, options: argparse.Namespace) -> None:
        for name, encoder in self.base.text_encoders.items():
            tokenizer = self.base.tokenizer_of(name)
            embedding = encoder.get_input_embeddings()
            start = None
            if options.initializer_token:
                start = embedding.weight[_only_token(tokenizer, options.initializer_token, "--initializer_token")]
            ids = _ids_of_new_word(tokenizer, options.placeholder_token, options.num_vectors)
            if start is None:
                known = ids[0] < embedding.num_embeddings
                start = embedding.weight[ids[0]] if known else embedding.weight.mean(0)
            word = LearnedWord(embedding, ids, start.expand(len(ids), -1)).to(self.base.device)
            encoder.set_input_embeddings(word)
            self.words[name] = word

    def _named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name in ("unet", *self.base.text_encoders):
            for parameter_name, parameter in getattr(self.base.pipe, name).named_parameters():
                if parameter.requires_grad:
                    yield f"{name}.{parameter_name}", parameter


def _ids_of_new_word(tokenizer, word: str, vectors: int) -> list[int]:
    """The tokens of a word that is to be learned: its own one, or new ones, named as diffusers' loader names them."""
    known = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(known) == 1 and known[0] != tokenizer.unk_token_id:
        if vectors > 1:
            raise InputError(
                f"--num_vectors {vectors}: the model has a token for {word} already, and that is one vector; "
                f"choose a word of your own, such as <{word.strip('<>')}-1>"
            )
        return known
    tokens = [word, *(f"{word}_{number}" for number in range(1, vectors))]
    tokenizer.add_tokens(tokens)
    return tokenizer.convert_tokens_to_ids(tokens)


def _only_token(tokenizer, word: str, flag: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(f"{flag} {word}: the model reads it as {len(ids)} tokens; choose a word that is one")
    return ids[0]
