"""Generation through the handlers, against transformers' own `generate` and plain reference computations."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import inference
import pytest
import torch
from generation_request import GenerationParameters
from token_sampling import TokenSampler, _truncate, choose_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PROMPTS = [
    "Once upon a time",
    "The cat",
    "你好，世界",
    "a",
    "The dog ran to the river and the river was cold and old and",
    "Grüße 🙂",
    "blue bird",
    "x" * 40,
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gptj", "mistral"])
def both(request, model_dirs, generators):
    """A generator, and the same model and tokenizer as transformers loads them."""
    folder = model_dirs[request.param]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return generators[request.param], reference, AutoTokenizer.from_pretrained(folder)


def ask(generator, prompt, **parameters):
    return inference.predict_fn({"inputs": prompt, "parameters": {"details": True, **parameters}}, generator)


def token_ids(answer):
    return [token["id"] for token in answer["details"]["tokens"]]


def log_probs(answer):
    return [token["log_prob"] for token in answer["details"]["tokens"]]


def reference_ids(model, tokenizer, prompt, **options):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    return model.generate(ids, pad_token_id=0, **options)[0, ids.shape[1] :].tolist()


def concurrently(calls):
    """Results of calls that all start at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_greedy_tokens_are_those_of_generate_alone_and_together(both):
    generator, model, tokenizer = both
    expected = [reference_ids(model, tokenizer, p, do_sample=False, max_new_tokens=20) for p in PROMPTS]
    alone = [token_ids(ask(generator, prompt, max_new_tokens=20)) for prompt in PROMPTS]
    together = concurrently([lambda p=p: token_ids(ask(generator, p, max_new_tokens=20)) for p in PROMPTS])
    as_list = [token_ids(answer) for answer in ask(generator, PROMPTS, max_new_tokens=20)]
    assert alone == expected
    assert together == expected
    assert as_list == expected


def test_requests_that_join_and_leave_at_any_time_do_not_disturb_each_other(both):
    generator, model, tokenizer = both
    lengths = [3, 25, 7, 50, 11, 30, 2, 17] * 3
    prompts = PROMPTS * 3
    calls = [
        lambda p=prompt, n=length: token_ids(ask(generator, p, max_new_tokens=n))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    expected = [
        reference_ids(model, tokenizer, p, do_sample=False, max_new_tokens=n)
        for p, n in zip(prompts, lengths, strict=True)
    ]
    assert concurrently(calls) == expected


def test_text_is_what_the_pipeline_would_give(llama, model_dirs):
    tokenizer = AutoTokenizer.from_pretrained(model_dirs["llama"])
    answer = ask(llama, "The cat", max_new_tokens=12, return_full_text=True)
    prompt_ids = tokenizer("The cat").input_ids
    assert answer["generated_text"] == tokenizer.decode(prompt_ids + token_ids(answer), skip_special_tokens=True)
    assert answer["generated_text"].startswith("The cat")


def test_defaults_are_thirty_greedy_tokens_without_details(llama):
    answer = inference.predict_fn({"inputs": "The cat"}, llama)
    assert list(answer) == ["generated_text"]
    assert answer["generated_text"] == ask(llama, "The cat", max_new_tokens=30)["generated_text"]
    listed = inference.predict_fn({"inputs": ["The cat"]}, llama)
    assert listed == [answer]


def test_sampling_depends_on_the_seed_only(llama):
    settings = [
        {"temperature": 0.7, "seed": 1},
        {"top_k": 5, "seed": 1},
        {"top_p": 0.8, "seed": 3},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.95, "seed": 2**62},
        {"temperature": 1.0, "seed": 9, "repetition_penalty": 1.4, "presence_penalty": 0.5},
        {"do_sample": False},
        {"do_sample": True, "seed": 4, "frequency_penalty": 1.0},
    ]
    alone = [token_ids(ask(llama, "The cat", max_new_tokens=24, **setting)) for setting in settings]
    mixed = concurrently(
        [lambda s=setting: token_ids(ask(llama, "The cat", max_new_tokens=24, **s)) for setting in settings]
        + [lambda p=prompt: token_ids(ask(llama, p, max_new_tokens=9, temperature=2.0)) for prompt in PROMPTS]
    )
    assert mixed[: len(settings)] == alone
    assert len({tuple(ids) for ids in alone}) == len(settings)


def test_without_a_seed_samples_differ_and_the_answer_names_the_seed_it_used(llama):
    answers = [ask(llama, "The cat", max_new_tokens=20, temperature=1.0) for _ in range(4)]
    assert len({answer["generated_text"] for answer in answers}) > 1
    again = ask(llama, "The cat", max_new_tokens=20, temperature=1.0, seed=answers[0]["details"]["seed"])
    assert again == answers[0]


def test_prompts_of_a_list_use_consecutive_seeds(llama):
    listed = ask(llama, ["The cat"] * 3, temperature=1.0, max_new_tokens=16, seed=5)
    single = [ask(llama, "The cat", temperature=1.0, max_new_tokens=16, seed=seed) for seed in (5, 6, 7)]
    assert [token_ids(answer) for answer in listed] == [token_ids(answer) for answer in single]
    for together, alone in zip(listed, single, strict=True):
        assert together["generated_text"] == alone["generated_text"]
        assert together["details"]["seed"] == alone["details"]["seed"]
        # The last bits of a product depend on the size of the batch.
        assert log_probs(together) == pytest.approx(log_probs(alone), abs=1e-4)
    assert len({answer["generated_text"] for answer in listed}) == 3


@pytest.mark.parametrize("parameters", [{"temperature": 1e-6}, {"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_the_limits_of_sampling_are_greedy(llama, parameters):
    greedy = token_ids(ask(llama, "The cat", max_new_tokens=24))
    assert token_ids(ask(llama, "The cat", max_new_tokens=24, do_sample=True, seed=3, **parameters)) == greedy


def test_do_sample_false_wins_over_a_temperature(llama):
    greedy = token_ids(ask(llama, "The cat"))
    assert token_ids(ask(llama, "The cat", do_sample=False, temperature=2.0)) == greedy


def test_repetition_penalty_is_the_one_of_generate(both):
    generator, model, tokenizer = both
    for prompt in PROMPTS[:4]:
        expected = reference_ids(model, tokenizer, prompt, do_sample=False, max_new_tokens=20, repetition_penalty=1.3)
        assert token_ids(ask(generator, prompt, max_new_tokens=20, repetition_penalty=1.3)) == expected


def test_penalties_against_a_plain_computation():
    parameters = GenerationParameters(repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.2)
    prompt_ids, output_ids = [1, 2, 2], [2, 5, 5, 5]
    sampler = TokenSampler(parameters, prompt_ids, seed=0, log_probs=False)
    logits = torch.randn(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampler.penalize(logits)[3:], logits[3:])
    for token_id in output_ids:
        sampler.observe(token_id)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([prompt_ids + output_ids]), logits[None].clone())[0]
    for token_id in set(output_ids):
        expected[token_id] -= 0.7 + 0.2 * output_ids.count(token_id)
    torch.testing.assert_close(sampler.penalize(logits), expected)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (40, 0.9), (1, 0.5), (0, 0.999), (9999, 0.4)]
)
def test_top_k_and_top_p_keep_what_transformers_keeps(top_k, top_p):
    for seed in range(20):
        logits = 3 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(seed))
        warped = logits.clone()
        if top_k:
            warped = TopKLogitsWarper(top_k)(None, warped)
        if top_p < 1:
            warped = TopPLogitsWarper(top_p)(None, warped)
        expected = warped.softmax(-1)[0]
        kept, probabilities = _truncate(logits[0] - logits.max(), top_k, top_p)
        assert kept.tolist() == expected.nonzero()[:, 0].tolist()
        torch.testing.assert_close(probabilities / probabilities.sum(), expected[kept], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parameters", [{}, {"top_k": 4}, {"top_p": 0.8}, {"temperature": 0.5}])
def test_samples_follow_the_distribution(parameters):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    sampler = TokenSampler(GenerationParameters(do_sample=True, **parameters), [0], seed=7, log_probs=False)
    draws = 4000
    counts = torch.zeros(6)
    for _ in range(draws):
        counts[sampler.sample(logits)] += 1
    expected = torch.zeros(6)
    scaled = logits / parameters.get("temperature", 1.0)
    kept, probabilities = _truncate(scaled - scaled.max(), parameters.get("top_k", 0), parameters.get("top_p", 1.0))
    expected[kept] = probabilities / probabilities.sum()
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert ((counts - draws * expected).abs() <= 4 * deviation + 1e-6).all()


def test_log_probabilities_are_the_models_own(both):
    generator, model, tokenizer = both
    answer = ask(
        generator, "The cat", max_new_tokens=6, temperature=0.3, seed=1, repetition_penalty=1.5, top_n_tokens=7
    )
    ids = tokenizer("The cat").input_ids + token_ids(answer)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)[-7:-1]
    for row, token, top in zip(expected, answer["details"]["tokens"], answer["details"]["top_tokens"], strict=True):
        assert token["log_prob"] == pytest.approx(float(row[token["id"]]), abs=1e-4)
        values, best = row.topk(7)
        assert [item["id"] for item in top] == best.tolist()
        assert [item["log_prob"] for item in top] == pytest.approx(values.tolist(), abs=1e-4)


def test_the_whole_next_token_distribution_can_be_had(llama):
    answer = ask(llama, "The cat", max_new_tokens=1, top_n_tokens=llama.vocabulary_size)
    (top,) = answer["details"]["top_tokens"]
    assert len(top) == llama.vocabulary_size
    assert sum(2.718281828459045 ** item["log_prob"] for item in top) == pytest.approx(1, abs=1e-4)


def test_generation_ends_at_the_end_of_text_token(llama, model_dirs):
    # Whatever token comes fifth becomes the end-of-text token of a copy of the model.
    plain = ask(llama, "The cat", max_new_tokens=20)
    ids = token_ids(plain)
    model = AutoModelForCausalLM.from_pretrained(model_dirs["llama"])
    model.generation_config.eos_token_id = [ids[4], 399]
    generator = inference.TextGenerator(model, AutoTokenizer.from_pretrained(model_dirs["llama"]), llama.limits)
    answer = ask(generator, "The cat", max_new_tokens=20)
    generator.engine.close()
    assert token_ids(answer) == ids[: ids.index(ids[4]) + 1]
    assert answer["details"]["finish_reason"] == "eos_token"
    assert plain["details"]["finish_reason"] == "length"
    assert plain["details"]["generated_tokens"] == 20


def test_stop_strings_end_the_text_before_them(llama):
    plain = ask(llama, "The cat", max_new_tokens=40)["generated_text"]
    stop = plain[7:10]
    answer = ask(llama, "The cat", max_new_tokens=40, stop=["never in there", stop])
    assert answer["generated_text"] == plain[: plain.index(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert "".join(token["text"] for token in answer["details"]["tokens"]) == answer["generated_text"]
    assert ask(llama, "The cat", max_new_tokens=40, stop_sequences=[stop]) == answer


def test_a_streamed_answer_is_the_same_answer(llama):
    parameters = {"max_new_tokens": 40, "temperature": 1.2, "seed": 11, "details": True, "top_n_tokens": 3}
    whole = inference.predict_fn({"inputs": "你好", "parameters": parameters}, llama)
    lines = list(inference.predict_fn({"inputs": "你好", "parameters": parameters, "stream": True}, llama))
    assert "".join(line["token"]["text"] for line in lines) == whole["generated_text"]
    assert [line["token"] for line in lines] == whole["details"]["tokens"]
    assert [line["top_tokens"] for line in lines] == whole["details"]["top_tokens"]
    assert all("generated_text" not in line and "details" not in line for line in lines[:-1])
    assert lines[-1]["generated_text"] == whole["generated_text"]
    assert lines[-1]["details"] == {
        key: value for key, value in whole["details"].items() if key not in ("tokens", "top_tokens")
    }
    json.dumps(lines)


def test_a_row_with_broken_logits_fails_alone():
    samplers = [TokenSampler(GenerationParameters(), [0], seed=0, log_probs=True) for _ in range(3)]
    logits = torch.randn(3, 10)
    logits[1, 4] = float("nan")
    first, broken, last = choose_tokens(logits, samplers)
    assert isinstance(broken, RuntimeError) and "not finite" in str(broken)
    assert first.token_id == int(logits[0].argmax()) and last.token_id == int(logits[2].argmax())
