"""Faults of the batching engine: cancelled, failing and refused requests, and what they leave to the others."""

import threading
import time

import inference
import pytest
import torch
from batching_engine import BatchingEngine, EngineError, _similar_lengths
from slot_cache import SlotCache
from text_generator import TextGenerator
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

LONG = {"max_new_tokens": 80, "details": True}


@pytest.fixture
def generator(model_dirs):
    """A generator of its own, whose model a test may break."""
    folder = model_dirs["llama"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # No token ends a sequence, so that "long" is long.
    model.generation_config.eos_token_id = -1
    loaded = TextGenerator(model, AutoTokenizer.from_pretrained(folder), inference.Limits(), log=lambda line: None)
    yield loaded
    loaded.engine.close()


class Fault:
    """Stands before a model's forward pass and raises when told to."""

    def __init__(self, generator, when):
        self._forward, self._when = generator.engine._model.forward, when
        self.calls = 0
        generator.engine._model.forward = self
        self.reached = threading.Event()

    def __call__(self, *args, input_ids, **kwargs):
        self.calls += 1
        if error := self._when(self, input_ids):
            self.reached.set()
            raise error
        return self._forward(*args, input_ids=input_ids, **kwargs)


def stream(generator, prompt="The cat", **parameters):
    return inference.predict_fn({"inputs": prompt, "parameters": LONG | parameters, "stream": True}, generator)


def ask(generator, prompt="The cat", **parameters):
    return inference.predict_fn({"inputs": prompt, "parameters": LONG | parameters}, generator)


def ids_of(answers):
    """Tokens only: log probabilities differ in their last digits with the size of the batch."""
    return [[token["id"] for token in answer["details"]["tokens"]] for answer in answers]


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 20 s"
        time.sleep(0.005)


def slow(generator, seconds=0.01):
    """Make every forward pass take at least that long."""
    forward = generator.engine._model.forward
    generator.engine._model.forward = lambda *args, **kwargs: (time.sleep(seconds), forward(*args, **kwargs))[1]


@pytest.mark.parametrize("how", ["close", "drop", "drop before the first token"])
def test_a_stream_that_nobody_reads_is_cancelled(generator, how):
    slow(generator)
    lines = stream(generator)
    if how != "drop before the first token":
        next(lines)
    sequence = lines._sequence
    if how == "close":
        lines.close()
    else:
        del lines
    wait_until(lambda: not generator.engine._running and not generator.engine._waiting)
    assert len(sequence.tokens) < 80
    assert ask(generator)["details"]["generated_tokens"] == 80


def test_a_cancelled_request_leaves_the_others_as_they_are(generator):
    expected = ask(generator)
    slow(generator, 0.002)
    cancelled = [stream(generator, prompt) for prompt in ("a", "blue bird", "x" * 12)]
    result = []
    other = threading.Thread(target=lambda: result.append(ask(generator)))
    other.start()
    for lines in cancelled:
        next(lines)
        lines.close()
    other.join()
    assert ids_of(result) == ids_of([expected])


def test_reading_on_after_close_ends(generator):
    slow(generator)
    lines = stream(generator)
    next(lines)
    lines.close()
    assert len(list(lines)) < 79


def test_a_failed_step_fails_the_running_requests_and_no_later_one(generator):
    expected = ask(generator)
    fault = Fault(generator, lambda fault, ids: RuntimeError("bits fell out") if fault.calls == 5 else None)
    lines = stream(generator)
    with pytest.raises(EngineError, match="bits fell out"):
        list(lines)
    assert fault.reached.is_set()
    assert ids_of([ask(generator)]) == ids_of([expected])


def test_a_prompt_that_cannot_be_read_fails_alone(generator):
    bad_id = generator._tokenizer("z").input_ids[0]
    expected = ask(generator, ["The cat", "The dog"])
    Fault(generator, lambda fault, ids: RuntimeError("no z please") if (ids == bad_id).any() else None)
    request, sequences = generator.parse({"inputs": ["The cat", "z z", "The dog"], "parameters": LONG})
    generator.engine.submit(sequences)
    with pytest.raises(EngineError, match="no z please"):
        sequences[1].wait()
    answers = []
    for index in (0, 2):
        sequences[index].wait()
        answers.append(generator.answer(request, request.prompts[index], sequences[index]))
    assert ids_of(answers) == ids_of(expected)


@pytest.mark.parametrize("step", [1, 3])
def test_a_dead_engine_thread_fails_what_waits_and_is_replaced(generator, step):
    expected = ask(generator)
    first_thread = generator.engine._thread

    def die(fault, ids):
        if fault.calls == step:
            wait_until(lambda: generator.engine._waiting)
            return SystemExit("the thread is gone")

    Fault(generator, die)
    generator.engine._max_batch_size = 1
    running, waiting = stream(generator), stream(generator, "waiting")
    for lines in (running, waiting):
        with pytest.raises(EngineError, match="the thread is gone"):
            list(lines)
    first_thread.join()
    assert ids_of([ask(generator)]) == ids_of([expected])
    assert generator.engine._thread is not first_thread


def test_a_list_that_fails_in_part_leaves_nothing_running(generator):
    bad_id = generator._tokenizer("z").input_ids[0]
    Fault(generator, lambda fault, ids: RuntimeError("no z please") if (ids == bad_id).any() else None)
    with pytest.raises(EngineError, match="no z please"):
        ask(generator, ["z z", "The cat"])
    wait_until(lambda: not generator.engine._running)


def test_a_full_queue_refuses_and_a_closed_engine_too(generator):
    slow(generator)
    engine = generator.engine
    engine._max_waiting, engine._max_batch_size = 2, 1
    held = [stream(generator)]
    wait_until(lambda: engine._running)
    held += [stream(generator), stream(generator)]
    with pytest.raises(EngineError, match="busy: 2 prompts are waiting"):
        stream(generator)
    engine.close()
    for lines in held:
        with pytest.raises(EngineError, match="shut down"):
            list(lines)
    with pytest.raises(EngineError, match="shutting down"):
        stream(generator)


def test_a_batch_never_exceeds_its_limits(generator):
    engine = generator.engine
    engine._max_batch_size, engine._max_batch_tokens = 6, 300
    largest = [0, 0]
    forward = engine._model.forward

    def watched(*args, input_ids, past_key_values, **kwargs):
        if isinstance(past_key_values, SlotCache):
            rows = past_key_values.rows
            largest[0] = max(largest[0], rows)
            largest[1] = max(largest[1], rows * max(past_key_values.lengths))
        return forward(*args, input_ids=input_ids, past_key_values=past_key_values, **kwargs)

    engine._model.forward = watched
    answers = ask(generator, ["The cat", "a", "b", "blue"] * 5, max_new_tokens=40)
    assert [answer["details"]["generated_tokens"] for answer in answers] == [40] * 20
    assert 1 < largest[0] <= 6 and largest[1] <= 300


def test_prompts_of_similar_length_are_read_together(generator):
    _, sequences = generator.parse({"inputs": ["x" * 40, "a", "b", "x" * 30, "cc"]})
    groups = [[len(sequence.prompt_ids) for sequence in group] for group in _similar_lengths(sequences)]
    assert groups == [[40, 30], [2, 1, 1]]
    assert [len(group) for group in _similar_lengths(sequences, most_tokens=40)] == [1, 1, 3]


def test_cache_rows_move_grow_and_leave():
    cache, generator = SlotCache(), torch.Generator().manual_seed(0)
    expected: list[torch.Tensor] = []
    for step in range(400):
        if cache.rows < 9 and (step % 7 == 0 or not cache.rows):
            length = int(torch.randint(1, 150, (), generator=generator))
            states = torch.randn(1, 2, length, 3, generator=generator)
            prefilled = DynamicCache()
            prefilled.update(states, -states, 0)
            cache.append_rows(prefilled, [length])
            expected.append(states[0])
        cache.prepare_step()
        new = torch.randn(cache.rows, 2, 1, 3, generator=generator)
        mask = cache.attention_mask("cpu")
        keys, values = cache.update(new, -new, 0)
        cache.finish_step()
        expected = [torch.cat([old, row], dim=1) for old, row in zip(expected, new, strict=True)]
        for row, states in enumerate(expected):
            length = states.shape[1]
            assert torch.equal(keys[row, :, -length:], states)
            assert torch.equal(values[row, :, -length:], -states)
            shown = torch.ones(keys.shape[2]) if mask is None else mask[row]
            assert shown.sum() == length and shown[-length:].all()
        if step % 5 == 0:
            row = int(torch.randint(cache.rows, (), generator=generator))
            cache.remove_row(row)
            expected[row] = expected[-1]
            expected.pop()
        assert cache.lengths == [states.shape[1] for states in expected]


def test_a_row_that_held_nan_does_not_reach_the_next_one():
    cache = SlotCache()
    for value, length in ((float("nan"), 9), (1.0, 3)):
        prefilled = DynamicCache()
        states = torch.full((1, 1, length, 2), value)
        prefilled.update(states, states, 0)
        cache.append_rows(prefilled, [length])
    cache.remove_row(0)
    assert cache.lengths == [3]
    assert not cache.layers[0].keys.isnan().any()


def test_an_engine_without_work_has_no_thread(model_dirs):
    model = AutoModelForCausalLM.from_pretrained(model_dirs["gpt2"])
    engine = BatchingEngine(model)
    assert engine._thread is None
    engine.close()
