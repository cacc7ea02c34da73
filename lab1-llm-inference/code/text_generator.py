"""A loaded model with its tokenizer: answers checked requests, whole or token by token."""

import random

from batching_engine import BatchingEngine, GeneratedToken, Sequence
from generation_request import DEFAULT_NEW_TOKENS, GenerationRequest, Limits, parse_request
from token_sampling import TokenSampler
from token_text import TextAssembler, TokenNames


class TextGenerator:
    """Generates text for requests from any number of threads.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        limits: bounds of a request; the model's own context length narrows them.
        engine_options: keyword arguments of `BatchingEngine`.
    """

    def __init__(self, model, tokenizer, limits: Limits, **engine_options):
        config = model.config.get_text_config(decoder=True)
        context = getattr(config, "max_position_embeddings", None) or limits.max_total_tokens
        self.context_length = min(context, limits.max_total_tokens)
        self.vocabulary_size = config.vocab_size
        self.limits = limits
        adapters = getattr(model, "adapters", None)
        self.adapter_names: tuple[str, ...] = adapters.names if adapters else ()
        self._tokenizer = tokenizer
        context_id = tokenizer("a", add_special_tokens=False).input_ids[0]
        self._names = TokenNames(self._decode_with_special_tokens, context_id)
        self.engine = BatchingEngine(model, eos_token_ids=_eos_token_ids(model, tokenizer), **engine_options)

    def parse(self, payload) -> tuple[GenerationRequest, list[Sequence]]:
        """Check a decoded request body against the limits and the model's context.

        Raises:
            ValueError: for the client; see `parse_request`.
        """
        request = parse_request(payload, self.limits, self.adapter_names)
        parameters = request.parameters
        if parameters.top_n_tokens > self.vocabulary_size:
            raise ValueError(
                f'"top_n_tokens" is {parameters.top_n_tokens}, but the vocabulary has {self.vocabulary_size} tokens.'
            )
        seed = parameters.seed if parameters.seed is not None else random.SystemRandom().randrange(2**32)
        sequences = [self._sequence(request, index, seed + index) for index in range(len(request.prompts))]
        top_tokens = parameters.top_n_tokens * sum(sequence.max_new_tokens for sequence in sequences)
        if top_tokens > self.limits.max_top_tokens_total:
            raise ValueError(
                f'"top_n_tokens" times the tokens to generate is {top_tokens}, more than '
                f'{self.limits.max_top_tokens_total}; lower "top_n_tokens", "max_new_tokens" or the number of prompts.'
            )
        return request, sequences

    def generate(self, request: GenerationRequest, sequences: list[Sequence]) -> dict | list[dict]:
        """The answer to a request that is not streamed; a list for a list of prompts."""
        self.engine.submit(sequences)
        try:
            for sequence in sequences:
                sequence.wait()
        except BaseException:
            for sequence in sequences:
                sequence.cancel()
            raise
        answers = [
            self.answer(request, prompt, sequence) for prompt, sequence in zip(request.prompts, sequences, strict=True)
        ]
        return answers if request.is_list else answers[0]

    def stream(self, request: GenerationRequest, sequences: list[Sequence]) -> "TokenStream":
        """Start to generate; the tokens come through the returned iterator."""
        self.engine.submit(sequences)
        return TokenStream(self, request, sequences[0])

    def _sequence(self, request: GenerationRequest, index: int, seed: int) -> Sequence:
        parameters, prompt = request.parameters, request.prompts[index]
        name = f'"inputs"[{index}]' if request.is_list else '"inputs"'
        prompt_ids = self._tokenizer(prompt, verbose=False).input_ids
        if not prompt_ids:
            raise ValueError(f"{name} contains no token that the model knows.")
        room = self.context_length - len(prompt_ids)
        if room < (parameters.max_new_tokens or 1):
            asked = f' and "max_new_tokens" is {parameters.max_new_tokens}' if parameters.max_new_tokens else ""
            raise ValueError(
                f"{name} has {len(prompt_ids)} tokens{asked}; the model's context holds {self.context_length} tokens, "
                "prompt and answer together. Shorten the prompt"
                + (f" or ask for at most {room} new tokens." if asked and room > 0 else ".")
            )
        sampler = TokenSampler(parameters, prompt_ids, seed, log_probs=parameters.details or request.stream)
        assembler = TextAssembler(self._decode, prompt_ids, parameters.stop)
        max_new_tokens = parameters.max_new_tokens or min(DEFAULT_NEW_TOKENS, room)
        adapter = request.adapters[index] if request.adapters else None
        return Sequence(prompt_ids, sampler, assembler, max_new_tokens, request.stream, adapter)

    def answer(self, request: GenerationRequest, prompt: str, sequence: Sequence, with_tokens: bool = True) -> dict:
        """The response object of one finished prompt."""
        parameters = request.parameters
        answer: dict = {"generated_text": (prompt if parameters.return_full_text else "") + sequence.text}
        if not parameters.details:
            return answer
        details = {
            "finish_reason": sequence.finish_reason,
            "generated_tokens": len(sequence.tokens),
            "seed": sequence.sampler.seed if parameters.do_sample else None,
            "prefill": [],
        }
        if with_tokens:
            details["tokens"] = [_token(token) for token in sequence.tokens]
            if parameters.top_n_tokens:
                details["top_tokens"] = [self.top_tokens(token) for token in sequence.tokens]
        return answer | {"details": details}

    def top_tokens(self, token: GeneratedToken) -> list[dict]:
        """The most probable tokens at one position, best first."""
        return [{"id": id, "text": self._names[id], "log_prob": log_prob} for id, log_prob in token.top]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _decode_with_special_tokens(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class TokenStream:
    """Iterator over the lines of a streamed answer, dicts: one per token, the last one with the whole answer.

    Closing it, or dropping it, cancels the generation.
    """

    def __init__(self, generator: TextGenerator, request: GenerationRequest, sequence: Sequence):
        self._generator, self._request, self._sequence = generator, request, sequence
        self._tokens = iter(sequence)

    def __iter__(self) -> "TokenStream":
        return self

    def __next__(self) -> dict:
        token = next(self._tokens)
        line = {"token": _token(token)}
        if self._request.parameters.top_n_tokens:
            line["top_tokens"] = self._generator.top_tokens(token)
        if token.last:
            line |= self._generator.answer(self._request, self._request.prompts[0], self._sequence, with_tokens=False)
        return line

    def close(self) -> None:
        """Stop generating; nothing happens if all tokens have come."""
        self._sequence.cancel()

    __del__ = close


def _token(token: GeneratedToken) -> dict:
    return {"id": token.token_id, "text": token.text, "log_prob": token.log_prob}


def _eos_token_ids(model, tokenizer) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return frozenset()
    return frozenset(configured if isinstance(configured, list) else [configured])
