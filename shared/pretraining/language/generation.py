"""Greedy answers and seeded samples from a model folder, by the library's own `generate`."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Writer:
    """A model folder, loaded in fp32 on the CPU, as anything that writes text."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def answers(self, prompts: list[str], *, max_new_tokens: int = 12, batch: int = 50) -> list[str]:
        """The greedy continuation of each prompt's first line, stripped."""
        found: list[str] = []
        for start in range(0, len(prompts), batch):
            texts = self._generate(prompts[start : start + batch], max_new_tokens=max_new_tokens, do_sample=False)
            found += [text.lstrip(" ").split("\n")[0].strip() for text in texts]
        return found

    def sample(
        self, prompt: str, *, seed: int, temperature: float, count: int = 1, max_new_tokens: int = 120
    ) -> list[str]:
        """`count` continuations, drawn at `temperature` from the whole distribution; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._generate(
                [prompt], max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                num_return_sequences=count,
            )  # fmt: skip

    def log_probs(self, text: str) -> torch.Tensor:
        """Log-probabilities (tokens × vocabulary, fp32) of what follows each token of `text`, cut to the context."""
        with torch.inference_mode():
            return self.model(self._encode(text)).logits[0].float().log_softmax(-1)

    def token_log_probs(self, text: str, prompt: str = "") -> list[float]:
        """The log-probability of each token of `text` after `prompt`; without a prompt, of each but the first."""
        ids = self._encode(prompt + text)[0]
        start = len(self.tokenizer(prompt)["input_ids"]) if prompt else 1
        return self.log_probs(prompt + text)[start - 1 : -1].gather(1, ids[start:, None])[:, 0].tolist()

    def _encode(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]

    def _generate(self, prompts: list[str], **settings) -> list[str]:
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **settings)
        return self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
