"""The engine without any server: against transformers' continuous batching, and float32 against bfloat16."""

import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.endpoints import ROOT
from tests.benchmarks.model import NEW_TOKENS, prompts
from tests.benchmarks.report import Table

_CLIENTS = (1, 8, 16)


def against_the_library(weights: Path, rounds: int) -> Table:
    """Our batching engine and transformers' own, both with packed linear layers, in one process."""
    model, tokenizer = _load(weights)
    generator = _generator(model, tokenizer)
    library = _LibraryEngine(_packed(weights), tokenizer)
    table = Table(
        "Engine against transformers' continuous batching, both with packed layers; CPU milliseconds per token",
        ["prompts at once", "engine", "transformers", "ratio"],
    )
    try:
        for count in _CLIENTS:
            costs: list[tuple[float, float]] = []
            for turn in range(rounds + 1):
                batch = prompts(count, seed=turn)
                costs.append((_cost(generator.send, batch), _cost(library.send, batch)))
            ours, theirs = (median(column) for column in zip(*costs[1:], strict=True))
            ratio = median(b / a for a, b in costs[1:])
            table.add(count, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.2f}")
    finally:
        generator.engine.close()
        library.close()
    return table


def precision(weights: Path, measured: Path, what: str, rounds: int) -> Table:
    """What bfloat16 gains in speed (on the 82M model) and costs in quality (on `measured`), on this CPU."""
    generators = {name: _generator(*_load(weights, name)) for name in ("float32", "bfloat16")}
    table = Table(
        "float32 against bfloat16 on this CPU; CPU milliseconds per token",
        ["prompts at once", "float32", "bfloat16", "ratio"],
    )
    try:
        for count in _CLIENTS:
            costs: list[list[float]] = []
            for turn in range(rounds + 1):
                batch = prompts(count, seed=turn)
                costs.append([_cost(generator.send, batch) for generator in generators.values()])
            full, half = (median(column) for column in zip(*costs[1:], strict=True))
            table.add(count, f"{full:.2f}", f"{half:.2f}", f"{median(a / b for a, b in costs[1:]):.2f}")
    finally:
        for generator in generators.values():
            generator.engine.close()
    divergence, agreement = _quality(measured)
    table.add(f"{what}: mean KL divergence of next tokens {divergence:.1e} nats", "", "", "")
    table.add(f"{what}: same most probable token at {100 * agreement:.1f}% of positions", "", "", "")
    return table


def _load(folder: Path, dtype: str = "float32"):
    code = str(ROOT / "lab1-llm-inference" / "code")
    if code not in sys.path:
        sys.path.insert(0, code)
    from model_loading import load_model

    return load_model(str(folder), None, dtype)[:2]


def _packed(folder: Path):
    """The model with packed linear layers but transformers' own attention, which its batching needs."""
    import torch
    from packed_linear import pack_linear_layers
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    pack_linear_layers(model)
    return model


def _generator(model, tokenizer):
    from generation_request import Limits
    from text_generator import TextGenerator

    class Generator(TextGenerator):
        def send(self, batch: list[str]) -> None:
            parameters = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
            self.generate(*self.parse({"inputs": batch, "parameters": parameters}))

    return Generator(model, tokenizer, Limits())


class _LibraryEngine:
    """transformers' continuous batching, sized as for `transformers serve`."""

    def __init__(self, model, tokenizer):
        from transformers import ContinuousBatchingConfig, GenerationConfig

        self._tokenizer = tokenizer
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(block_size=32, num_blocks=64, max_batch_tokens=512),
        )
        self._manager.start()

    def send(self, batch: list[str]) -> None:
        for prompt in batch:
            self._manager.add_request(self._tokenizer(prompt).input_ids, max_new_tokens=NEW_TOKENS)
        left = len(batch)
        while left:
            result = self._manager.get_result(timeout=60)
            if result is None:
                raise RuntimeError("transformers' continuous batching gave no result within 60 s")
            left -= result.is_finished()

    def close(self) -> None:
        self._manager.stop(block=True, timeout=10)


def _cost(send, batch: list[str]) -> float:
    """CPU milliseconds per generated token, of all threads of this process."""
    start = time.process_time()
    send(batch)
    return 1000 * (time.process_time() - start) / (len(batch) * NEW_TOKENS)


def _quality(folder: Path) -> tuple[float, float]:
    """Mean KL divergence of bfloat16's next-token distributions from float32's, and the share of equal best tokens.

    On texts that the float32 model draws itself, 16 of 64 tokens.
    """
    import torch

    full, tokenizer = _load(folder)
    half, _ = _load(folder, "bfloat16")
    start = tokenizer("Once upon a time", return_tensors="pt").input_ids
    torch.manual_seed(0)
    with torch.inference_mode():
        texts = full.generate(start.repeat(16, 1), do_sample=True, min_new_tokens=64, max_new_tokens=64, pad_token_id=0)
        expected, got = (model(texts).logits.float().log_softmax(-1) for model in (full, half))
        divergence = (expected.exp() * (expected - got)).sum(-1).mean()
        agreement = (expected.argmax(-1) == got.argmax(-1)).float().mean()
    return float(divergence), float(agreement)
