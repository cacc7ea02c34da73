"""What training a transformer of the Llama family holds in the memory of each GPU: an estimate, item by item.

    shape = ModelShape("7B", layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32, vocabulary=32000)
    estimate(shape, method="lora", sharding="fsdp", gpus=4, checkpointing=True).total

Where the formulas come from:

- weights, gradients and Adam: 2 + 2 + 12 bytes a trained parameter in mixed precision, and what ZeRO's stages divide
  among the GPUs: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, section 3.1 and figure 1. FSDP is stage 3.
- activations: the tensors that autograd keeps, counted for transformers' Llama layers by the method of Korthikanti et
  al. 2022, https://arxiv.org/abs/2205.05198, section 4, for an attention that does not keep its scores (PyTorch's).
- 4-bit weights: 4 bits, and 0.127 bits of constants: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3.

Not in it: about 1 GB for CUDA itself, buffers of the communication, and what fragmentation loses. Leave a tenth free.
"""

from dataclasses import dataclass, fields

METHODS = ("full", "lora", "qlora")
SHARDINGS = ("ddp", "zero1", "zero2", "fsdp")
PRECISIONS = ("bf16", "fp32")

_ADAM = 8  # bytes: two averages of the gradient, in 32 bits
_NF4 = (4 + 0.127) / 8  # bytes


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama-like model; `kv_heads` less than `heads` is grouped-query attention."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_size: int | None = None  # hidden / heads if not given
    tied: bool = False  # one matrix is both the embedding and the last layer

    @classmethod
    def of(cls, name: str, config) -> "ModelShape":
        """Of a transformers configuration (`AutoConfig.from_pretrained(...)`) of a model like Llama, Mistral or Qwen.

        Raises ValueError for a model whose blocks are of another kind.
        """
        wanted = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
        missing = [attribute for attribute in wanted if getattr(config, attribute, None) is None]
        if missing or getattr(config, "hidden_act", None) != "silu" or getattr(config, "num_experts", None):
            raise ValueError(f"{name} is not built like Llama ({config.model_type}): give its sizes by ModelShape(...)")
        return cls(
            name,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            vocabulary=config.vocab_size,
            head_size=getattr(config, "head_dim", None),
            tied=config.tie_word_embeddings,
        )

    @property
    def attention_width(self) -> int:
        """Length of all queries of a token together."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def kv_width(self) -> int:
        """Length of all keys (or values) of a token together."""
        return self.attention_width * self.kv_heads // self.heads

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the seven linear layers of a block."""
        hidden, inner = self.hidden, self.inner
        attention = [(hidden, self.attention_width), (hidden, self.kv_width), (hidden, self.kv_width)]
        return [*attention, (self.attention_width, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: its seven matrices and two norms."""
        return sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters outside the blocks: the embedding, the last layer, the last norm."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.block_parameters + self.embedding_parameters

    def lora_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters beside all matrices of all blocks."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.matrices)


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    gathered: float

    @property
    def total(self) -> float:
        """All items together."""
        return sum(getattr(self, item.name) for item in fields(self))


def kept_activations(
    shape: ModelShape, tokens: int, precision: str = "bf16", checkpointing: bool = False, frozen: bool = False
) -> float:
    """Bytes that the way back needs of `tokens` tokens, without logits.

    `frozen` norms need less. With `checkpointing`, only what stays: the input of each block.
    """
    wide, width = 4, _width(precision)
    hidden = shape.hidden
    # A norm keeps its input in 32 bits, the normalised input if its own weights are trained, and what it hands on.
    norm = hidden * (wide + width + (0 if frozen else width))
    if checkpointing:
        return tokens * (shape.layers * hidden * width + norm)
    attention = width * (2 * shape.attention_width + 2 * shape.kv_width)  # queries, result; keys, values
    feed_forward = width * 4 * shape.inner  # gate, its SiLU, the other branch, their product
    return tokens * (shape.layers * (2 * norm + attention + feed_forward) + norm)


def estimate(
    shape: ModelShape,
    method: str = "full",
    sharding: str = "ddp",
    gpus: int = 1,
    tokens: int = 4096,
    checkpointing: bool = False,
    rank: int = 16,
    precision: str = "bf16",
) -> Memory:
    """Bytes on each of `gpus` that train together by Adam, with `tokens` tokens (rows x length) at once on each.

    `method`: "full", "lora" or "qlora" (the frozen matrices in 4 bits), the latter with adapters of `rank`.
    `sharding`: "ddp" (every GPU holds everything), "zero1" (Adam divided), "zero2" (gradients, too), "fsdp" (weights,
    too). `precision`: "bf16" is mixed precision, "fp32" all in 32 bits. Raises ValueError for other values.
    """
    _check_word("method", method, METHODS)
    _check_word("sharding", sharding, SHARDINGS)
    for name, value in (("gpus", gpus), ("tokens", tokens), ("rank", rank)):
        if value < 1:
            raise ValueError(f"{name}={value}: it must be 1 or more")
    width = _width(precision)
    stage = SHARDINGS.index(sharding)
    full = method == "full"
    if full:
        weights, trained = shape.parameters * width, shape.parameters
        gradients = trained * width
        # In 16 bits small steps would be lost: Adam works on a copy of the weights in 32 bits.
        optimizer = trained * (_ADAM + (4 if precision == "bf16" else 0))
    else:
        trained = shape.lora_parameters(rank)
        in_matrices = shape.layers * sum(inputs * outputs for inputs, outputs in shape.matrices)
        matrix_width = _NF4 if method == "qlora" else width
        weights = in_matrices * matrix_width + (shape.parameters - in_matrices) * width + trained * 4
        gradients, optimizer = trained * 4, trained * _ADAM
    activations = kept_activations(shape, tokens, precision, checkpointing, frozen=not full)
    if checkpointing:  # one block at a time is computed anew
        one = kept_activations(shape, tokens, precision, frozen=not full)
        activations += (one - kept_activations(shape, 0, precision)) / shape.layers
    gathered = 0.0
    if stage == 3 and gpus > 1:
        # The block at work, the next one on its way, and what belongs to no block; frozen 4-bit weights travel as such.
        frozen_width = _NF4 if method == "qlora" else width
        gathered = 2 * shape.block_parameters * frozen_width + shape.embedding_parameters * width
    return Memory(
        weights=weights / (gpus if stage == 3 else 1),
        gradients=gradients / (gpus if stage >= 2 else 1),
        optimizer=optimizer / (gpus if stage >= 1 else 1),
        activations=activations,
        logits=tokens * shape.vocabulary * 8.0,  # the loss computes in 32 bits: log-probabilities and their gradient
        gathered=gathered,
    )


def gradient_bytes(shape: ModelShape, method: str = "full", rank: int = 16) -> float:
    """Bytes of the gradient that data-parallel processes exchange in each step, in 16 bits (adapters in 32)."""
    _check_word("method", method, METHODS)
    return shape.parameters * 2.0 if method == "full" else shape.lora_parameters(rank) * 4.0


def _width(precision: str) -> int:
    _check_word("precision", precision, PRECISIONS)
    return 2 if precision == "bf16" else 4


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{name}={value!r}: it is one of {', '.join(words)}")
