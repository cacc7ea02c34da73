"""Words with learned embeddings (textual inversion, https://arxiv.org/abs/2208.01618) in a pipeline's text encoders."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

# Text encoder, tokenizer and key in the file: Stable Diffusion has the first, SDXL both.
_ENCODERS = (("text_encoder", "tokenizer", "clip_l"), ("text_encoder_2", "tokenizer_2", "clip_g"))


@dataclass(frozen=True)
class Token:
    """A word and its vectors, one tensor [vectors, width] for each text encoder of the pipeline."""

    text: str
    vectors: tuple[torch.Tensor, ...]


def read_tokens(file: Path, pipeline) -> list[Token]:
    """The words in a file: {"<word>": vectors} for one text encoder, {"clip_l": ..., "clip_g": ...} for two.

    With two, the word is the file's metadata "token", else the name of the file or, if that says nothing, its folder.

    Raises:
        ValueError: the file does not fit this model.
    """
    encoders = _encoders(pipeline)
    try:
        with safe_open(str(file), framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as learned embeddings: {error}") from error
    if len(encoders) > 1:
        keys = [key for _, _, key in encoders]
        if set(tensors) != set(keys):
            raise ValueError(f"{file} holds {', '.join(tensors)}; this model needs vectors for {' and '.join(keys)}.")
        name = file.parent.name if file.stem == "learned_embeds" else file.stem
        found = [(metadata.get("token", name), tuple(tensors[key] for key in keys))]
    else:
        found = [(text, (vectors,)) for text, vectors in tensors.items()]
    tokens = []
    for text, vectors in found:
        vectors = tuple(vector.reshape(-1, vector.shape[-1]).float() for vector in vectors)
        for (encoder, _, _), vector in zip(encoders, vectors, strict=True):
            width = encoder.get_input_embeddings().weight.shape[1]
            if vector.shape[1] != width:
                raise ValueError(f"{file}: {text} has vectors of {vector.shape[1]} numbers, this model's have {width}.")
        tokens.append(Token(text, vectors))
    return tokens


class LearnedTokens:
    """The rows of the text encoders' embeddings that hold learned words.

    A word that the tokenizer knows as one token gets its row replaced; another becomes a new token. Words of a LoRA
    have their vectors only while it is chosen; without it a known word is what it was.

    Args:
        pipeline: whose tokenizers and text encoders are extended, in place.
    """

    def __init__(self, pipeline):
        self._encoders = _encoders(pipeline)
        # For each encoder, token id -> vector: those always there, and those of each LoRA.
        self._always: list[dict[int, torch.Tensor]] = [{} for _ in self._encoders]
        self._owned: dict[str, list[dict[int, torch.Tensor]]] = {}
        self._plain: list[dict[int, torch.Tensor]] = []

    def add_always(self, tokens: list[Token]) -> None:
        """Add words that every request has."""
        self._add(tokens, self._always)

    def add(self, lora: str, tokens: list[Token]) -> None:
        """Add the words of a LoRA."""
        self._add(tokens, self._owned.setdefault(lora, [{} for _ in self._encoders]))

    @torch.no_grad()
    def finish(self) -> None:
        """Make room for the new tokens. Nothing can be added afterwards."""
        for number, (encoder, tokenizer, _) in enumerate(self._encoders):
            known = encoder.get_input_embeddings().weight.shape[0]
            if len(tokenizer) > known:
                encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            weight = encoder.get_input_embeddings().weight
            owned = [rows[number] for rows in self._owned.values()]
            for rows in (*reversed(owned), self._always[number]):
                for token, vector in rows.items():
                    if token >= known or rows is self._always[number]:
                        weight[token] = vector.to(weight)
            self._plain.append({token: weight[token].clone() for rows in owned for token in rows})

    @torch.no_grad()
    def choose(self, loras: list[str]) -> None:
        """Give the words of these LoRAs their vectors, the first one's where several have the same word."""
        for number, (encoder, _, _) in enumerate(self._encoders):
            weight = encoder.get_input_embeddings().weight
            rows = dict(self._plain[number])
            for lora in reversed(loras):
                rows |= self._owned.get(lora, [{}] * len(self._encoders))[number]
            for token, vector in rows.items():
                weight[token] = vector.to(weight)

    def _add(self, tokens: list[Token], rows: list[dict[int, torch.Tensor]]) -> None:
        for token in tokens:
            for number, (_, tokenizer, _) in enumerate(self._encoders):
                vectors = token.vectors[number]
                # A word of several vectors is several tokens; the pipeline writes "word word_1 word_2" for "word".
                names = [token.text, *(f"{token.text}_{index}" for index in range(1, len(vectors)))]
                for name, vector in zip(names, vectors, strict=True):
                    rows[number][_token_id(tokenizer, name)] = vector


def _encoders(pipeline) -> list[tuple]:
    return [
        (getattr(pipeline, encoder), getattr(pipeline, tokenizer), key)
        for encoder, tokenizer, key in _ENCODERS
        if getattr(pipeline, encoder, None) is not None
    ]


def _token_id(tokenizer, name: str) -> int:
    """The token of a word, which is added if there is none."""
    ids = tokenizer(name, add_special_tokens=False).input_ids
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    tokenizer.add_tokens(name)
    return tokenizer.convert_tokens_to_ids(name)
