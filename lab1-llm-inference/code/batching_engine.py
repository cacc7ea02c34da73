"""Continuous batching: one thread runs the model for all requests, which join and leave between two tokens.

Transformers' own continuous batching (5.5.3) was measured and not taken: it has one set of sampling parameters per
manager, returns the log probability of the chosen token only, computes the output layer for every prompt token, gives
wrong tokens for GPT-J after a mere warning, and ends every request when one forward pass fails. With the same packed
layers it took 1.1 to 1.5 times the CPU time per token (tests/benchmarks/README.md).
"""

import atexit
import inspect
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from slot_cache import SlotCache
from token_sampling import Choice, TokenSampler, choose_tokens
from token_text import TextAssembler
from transformers import DynamicCache


class EngineError(RuntimeError):
    """Generation failed for a reason that is not the client's."""


@dataclass(frozen=True)
class GeneratedToken:
    """One generated token and the text that became certain with it; `last` is true for a sequence's last one."""

    token_id: int
    text: str
    log_prob: float | None
    top: tuple[tuple[int, float], ...]
    last: bool


class Sequence:
    """One prompt on its way through the engine.

    Args:
        prompt_ids: token ids of the prompt.
        sampler: chooses its tokens.
        assembler: turns them into text.
        max_new_tokens: where to stop at the latest.
        stream: make the tokens available one by one, not only all at the end.
        adapter: name of the adapter to use; None for the model as it is.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        sampler: TokenSampler,
        assembler: TextAssembler,
        max_new_tokens: int,
        stream: bool = False,
        adapter: str | None = None,
    ):
        self.prompt_ids = prompt_ids
        self.sampler = sampler
        self.max_new_tokens = max_new_tokens
        self.adapter = adapter
        self.tokens: list[GeneratedToken] = []
        self.finish_reason: str | None = None
        self.cancelled = False
        self._assembler = assembler
        self._stream = stream
        self._events: queue.SimpleQueue[GeneratedToken | Exception | None] = queue.SimpleQueue()

    @property
    def final_length(self) -> int:
        return len(self.prompt_ids) + self.max_new_tokens

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    def __iter__(self):
        """Yield each `GeneratedToken` of a streamed sequence as it comes; raises EngineError if generation fails."""
        while (event := self._events.get()) is not None:
            if isinstance(event, Exception):
                raise EngineError(f"Generation failed: {event}") from event
            yield event

    def wait(self) -> None:
        """Block until the last token; raises EngineError if generation fails."""
        for _ in self:
            pass

    def cancel(self) -> None:
        """Have the engine drop the sequence before its next token; who waits for it is released."""
        self.cancelled = True

    def accept(self, choice: Choice, eos_token_ids: frozenset[int]) -> bool:
        """Append a token (engine thread only); returns True when the sequence has ended."""
        text = self._assembler.append(choice.token_id)
        if choice.token_id in eos_token_ids:
            self.finish_reason = "eos_token"
        elif self._assembler.stopped:
            self.finish_reason = "stop_sequence"
        elif len(self.tokens) + 1 >= self.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason:
            text += self._assembler.finish()
            if self._assembler.stopped:
                self.finish_reason = "stop_sequence"
        last = self.finish_reason is not None
        token = GeneratedToken(choice.token_id, text, choice.log_prob, choice.top, last)
        self.tokens.append(token)
        if self._stream:
            self._events.put(token)
        if last:
            self.release()
        return last

    def release(self) -> None:
        """End what waits for this sequence (engine thread only)."""
        self._events.put(None)

    def fail(self, error: BaseException) -> None:
        """End the sequence with an error."""
        self._events.put(error if isinstance(error, Exception) else EngineError(repr(error)))


class BatchingEngine:
    """Runs a causal language model for many sequences at once.

    Args:
        model: a transformers model whose only state between tokens is a key/value cache.
        eos_token_ids: tokens that end a sequence.
        max_batch_size: sequences in a batch; more wait.
        max_batch_tokens: rows times longest row, prompt and output together, in a batch.
        max_waiting: sequences that may wait; more are refused.
        log: gets one line when something fails.
    """

    def __init__(
        self,
        model,
        *,
        eos_token_ids: frozenset[int] = frozenset(),
        max_batch_size: int = 16,
        max_batch_tokens: int = 16384,
        max_waiting: int = 512,
        log: Callable[[str], None] = print,
    ):
        self._model = model
        self._device = next(model.parameters()).device
        arguments = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in arguments
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
        self._fused_forward = getattr(model, "fused_forward", None)  # see fused_layers.py
        self._adapters = getattr(model, "adapters", None)  # see lora_adapters.py
        self._eos_token_ids = eos_token_ids
        self._max_batch_size, self._max_batch_tokens = max_batch_size, max_batch_tokens
        self._max_waiting = max_waiting
        self._log = log
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._admitted: list[Sequence] = []
        self._running: list[Sequence] = []
        self._cache = SlotCache()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences for generation.

        Raises:
            EngineError: too many are waiting, or the engine is closed.
        """
        with self._changed:
            if self._closed:
                raise EngineError("The model is shutting down; send the request again later.")
            if len(self._waiting) + len(sequences) > self._max_waiting:
                raise EngineError(f"The model is busy: {len(self._waiting)} prompts are waiting. Try again later.")
            self._waiting.extend(sequences)
            # Started here, not in the constructor: a server may fork after loading the model, and a thread that has
            # died is replaced.
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batching-engine", daemon=True)
                self._thread.start()
                # A thread inside PyTorch while the interpreter ends would abort the process.
                atexit.register(self.close)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; what is unfinished fails."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        cause: BaseException = EngineError("the model was shut down")
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        except BaseException as error:
            cause = error
            self._log(f"The batching engine stopped and will be restarted: {traceback.format_exc()}")
        finally:
            with self._changed:
                failed = [*self._running, *self._admitted, *self._waiting]
                self._running, self._admitted, self._cache = [], [], SlotCache()
                self._waiting.clear()
                self._thread = None
            for sequence in failed:
                sequence.fail(cause)

    def _turn(self) -> bool:
        """Admit what waits, then generate one token for every running sequence. False when closed."""
        with self._changed:
            while not (self._closed or self._running or self._waiting):
                self._changed.wait()
            if self._closed:
                return False
            self._admitted = self._admit()
        self._drop_cancelled()
        if self._running:
            self._decode()
        for group in _similar_lengths(self._admitted):
            self._prefill(group)
        self._admitted = []
        return True

    def _admit(self) -> list[Sequence]:
        admitted: list[Sequence] = []
        longest = max((sequence.final_length for sequence in self._running), default=0)
        while self._waiting:
            rows = len(self._running) + len(admitted) + 1
            longest = max(longest, self._waiting[0].final_length)
            if rows > 1 and (rows > self._max_batch_size or rows * longest > self._max_batch_tokens):
                break
            sequence = self._waiting.popleft()
            if sequence.cancelled:
                sequence.release()
            else:
                admitted.append(sequence)
        return admitted

    def _drop_cancelled(self) -> None:
        for row in reversed(range(len(self._running))):
            if self._running[row].cancelled:
                self._running[row].release()
                self._remove(row)

    def _remove(self, row: int) -> None:
        self._cache.remove_row(row)
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last

    def _prefill(self, group: list[Sequence]) -> None:
        try:
            self._select_adapters(group)
            prefilled, logits = self._read_prompts([sequence.prompt_ids for sequence in group])
            self._cache.append_rows(prefilled, [len(sequence.prompt_ids) for sequence in group])
        except Exception as error:
            self._log(f"Reading {len(group)} prompt(s) failed: {traceback.format_exc()}")
            if len(self._running) != self._cache.rows:
                raise
            if len(group) == 1:
                group[0].fail(error)
                return
            for sequence in group:
                self._prefill([sequence])
            return
        first = len(self._running)
        self._running += group
        self._accept(logits, first)

    def _read_prompts(self, prompts: list[list[int]]) -> tuple[DynamicCache, torch.Tensor]:
        """Cache of left-padded prompts, and the logits after their last tokens, float32 [prompts, vocabulary]."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)])
        columns, pads = torch.arange(longest), torch.tensor(padding)[:, None]
        mask = (columns >= pads).long() if any(padding) else None
        cache = DynamicCache()
        logits = self._forward(ids, mask, (columns - pads).clamp(min=0), cache)
        return cache, logits

    def _decode(self) -> None:
        try:
            self._select_adapters(self._running)
            self._cache.prepare_step()
            ids = torch.tensor([[sequence.tokens[-1].token_id] for sequence in self._running])
            positions = torch.tensor([[length] for length in self._cache.lengths])
            logits = self._forward(ids, self._cache.attention_mask(self._device), positions, self._cache)
            self._cache.finish_step()
        except Exception as error:
            self._log(f"A step for {len(self._running)} sequence(s) failed: {traceback.format_exc()}")
            failed, self._running, self._cache = self._running, [], SlotCache()
            for sequence in failed:
                sequence.fail(error)
            return
        self._accept(logits, 0)

    def _select_adapters(self, sequences: list[Sequence]) -> None:
        if self._adapters:
            self._adapters.select(sequence.adapter for sequence in sequences)

    def _forward(self, ids, mask, positions, cache) -> torch.Tensor:
        if self._fused_forward:
            return self._fused_forward(ids, positions, mask, cache).float()
        arguments = dict(self._last_logits_only)
        if self._takes_positions:
            arguments["position_ids"] = positions.to(self._device)
        if mask is not None:
            arguments["attention_mask"] = mask.to(self._device)
        output = self._model(input_ids=ids.to(self._device), past_key_values=cache, use_cache=True, **arguments)
        return output.logits[:, -1].float()

    def _accept(self, logits: torch.Tensor, first: int) -> None:
        """Give each running sequence from row `first` on its token; drop those that ended or failed."""
        sequences = self._running[first:]
        choices = choose_tokens(logits, [sequence.sampler for sequence in sequences])
        for row, (sequence, choice) in reversed(list(enumerate(zip(sequences, choices, strict=True), start=first))):
            try:
                if isinstance(choice, Exception):
                    raise choice
                ended = sequence.accept(choice, self._eos_token_ids)
            except Exception as error:
                self._log(f"A sequence failed: {traceback.format_exc()}")
                sequence.fail(error)
                ended = True
            if ended:
                self._remove(row)


def _similar_lengths(sequences: list[Sequence], most_tokens: int = 4096) -> list[list[Sequence]]:
    """Groups to be read together: no prompt less than half as long as the longest of its group, a bounded size."""
    groups: list[list[Sequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: len(sequence.prompt_ids), reverse=True):
        longest = len(groups[-1][0].prompt_ids) if groups else 0
        if groups and len(sequence.prompt_ids) * 2 >= longest and longest * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups
