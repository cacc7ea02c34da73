"""What the handlers refuse, and with which words."""

import json

import inference
import pytest

LONG = "word " * 200


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ([], ["object", '"inputs"', "a list"]),
        ("text", ["object", '"inputs"', "a string"]),
        (None, ["object", "null"]),
        ({}, ['"inputs" is missing']),
        ({"input": "a"}, ['"input"', 'Did you mean "inputs"?']),
        ({"inputs": "a", "zzz": 1}, ['"zzz"', "Known: inputs, parameters, stream"]),
        ({"inputs": 5}, ['"inputs" must be a string or a list of strings', "an integer (5)"]),
        ({"inputs": None}, ['"inputs" must be a string', "null"]),
        ({"inputs": ""}, ['"inputs" is an empty string']),
        ({"inputs": []}, ["empty list"]),
        ({"inputs": ["a", ""]}, ['"inputs"[1] is an empty string']),
        ({"inputs": ["a", 7]}, ['"inputs"[1] must be a string']),
        ({"inputs": ["a"] * 33}, ["33 prompts", "32", "split"]),
        ({"inputs": "\ud800"}, ["not valid Unicode"]),
        ({"inputs": ["a"], "stream": True}, ['"stream"', "single prompt"]),
        ({"inputs": "a", "stream": "yes"}, ['"stream" must be true or false']),
        ({"inputs": "a", "parameters": []}, ['"parameters" must be a JSON object', "a list"]),
        ({"inputs": LONG}, ["tokens", "96", "Shorten the prompt"]),
        ({"inputs": ["a", LONG]}, ['"inputs"[1]', "96"]),
        (
            {"inputs": "The cat", "parameters": {"max_new_tokens": 96}},
            ['"max_new_tokens" is 96', "96 tokens", "at most"],
        ),
    ],
)
def test_bad_requests_are_refused_with_the_reason(llama, payload, words):
    with pytest.raises(ValueError) as refusal:
        inference.predict_fn(payload, llama)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"temprature": 1}, ['"temprature"', 'Did you mean "temperature"?']),
        ({"max_tokens": 5}, ['"max_tokens"', 'Did you mean "max_new_tokens"?']),
        ({"best_of": 2}, ['"best_of"', "Known:", "top_n_tokens"]),
        ({"max_new_tokens": 0}, ["at least 1", "it is 0"]),
        ({"max_new_tokens": 2.5}, ["integer", "a number (2.5)"]),
        ({"max_new_tokens": "5"}, ["integer", 'a string ("5")']),
        ({"max_new_tokens": True}, ["integer", "a boolean (true)"]),
        ({"temperature": -0.1}, ["at least 0", "it is -0.1"]),
        ({"temperature": 101}, ["at most 100"]),
        ({"temperature": "hot"}, ['"temperature" must be a number', '"hot"']),
        ({"temperature": True}, ["number", "boolean"]),
        ({"temperature": float("nan")}, ["at most 100"]),
        ({"top_p": 0}, ["greater than 0"]),
        ({"top_p": 1.01}, ["at most 1"]),
        ({"top_k": -1}, ["at least 0", "keeps all"]),
        ({"repetition_penalty": 0}, ["greater than 0"]),
        ({"presence_penalty": 3}, ["at least -2 and at most 2"]),
        ({"frequency_penalty": [1]}, ["number", "a list"]),
        ({"seed": -1}, ["at least 0"]),
        ({"seed": 2**63}, ["at most"]),
        ({"do_sample": 1}, ["true or false", "an integer (1)"]),
        ({"details": "true"}, ["true or false"]),
        ({"return_full_text": 0}, ["true or false"]),
        ({"stop": [1]}, ["list of strings"]),
        ({"stop": {"a": 1}}, ["list of strings", "an object"]),
        ({"stop": [""]}, ["1 to 100 characters"]),
        ({"stop": ["x" * 101]}, ["one has 101"]),
        ({"stop": [str(i) for i in range(17)]}, ["17 strings", "at most 16"]),
        ({"stop": ["a"], "stop_sequences": ["b"]}, ["mean the same"]),
        ({"top_n_tokens": -1}, ["at least 0"]),
        ({"top_n_tokens": 100_000}, ["the vocabulary has"]),
    ],
)
def test_bad_parameters_are_refused_with_the_reason(llama, parameters, words):
    with pytest.raises(ValueError) as refusal:
        inference.predict_fn({"inputs": "The cat", "parameters": parameters}, llama)
    for word in words:
        assert word in str(refusal.value)


def test_a_seed_must_leave_room_for_every_prompt(llama):
    with pytest.raises(ValueError, match="too large for a list of 2"):
        inference.predict_fn({"inputs": ["a", "b"], "parameters": {"seed": 2**63 - 1}}, llama)


def test_too_many_top_tokens_in_all_are_refused(llama):
    parameters = {"top_n_tokens": llama.vocabulary_size, "max_new_tokens": 64}
    with pytest.raises(ValueError, match='lower "top_n_tokens"'):
        inference.predict_fn({"inputs": ["a"] * 32, "parameters": parameters}, llama)


def test_what_is_null_counts_as_left_out(llama):
    parameters = {"seed": None, "stop": None, "temperature": None, "max_new_tokens": None}
    assert inference.predict_fn({"inputs": "a", "parameters": parameters}, llama) == inference.predict_fn(
        {"inputs": "a", "parameters": None}, llama
    )


def test_whole_numbers_may_be_written_as_floats(llama):
    answer = inference.predict_fn({"inputs": "a", "parameters": {"max_new_tokens": 3.0, "details": True}}, llama)
    assert answer["details"]["generated_tokens"] == 3


def test_without_max_new_tokens_a_long_prompt_gets_what_is_left(llama):
    prompt = "a b " * 24
    answer = inference.predict_fn({"inputs": prompt, "parameters": {"details": True}}, llama)
    assert 1 <= answer["details"]["generated_tokens"] <= 30


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", "application/json", ["empty", '{"inputs"']),
        (b"{", "application/json", ["not valid JSON"]),
        (b"\xff\xfe{", "application/json", ["UTF-8"]),
        (b'{"inputs": "a", "parameters": {"temperature": NaN}}', "application/json", ["NaN"]),
        (b"[" * 100_000, "application/json", ["nested too deeply"]),
        (b"a,b", "text/csv", ["text/csv", "application/json"]),
    ],
)
def test_bad_bodies_are_refused_with_the_reason(body, content_type, words):
    with pytest.raises(ValueError) as refusal:
        inference.input_fn(body, content_type)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "", None])
@pytest.mark.parametrize("body", [b'{"inputs": "\xc3\xa9"}', '{"inputs": "é"}', bytearray(b'{"inputs": "\\u00e9"}')])
def test_json_bodies_are_decoded(body, content_type):
    assert inference.input_fn(body, content_type) == {"inputs": "é"}


def test_a_message_never_breaks_the_json_around_it(llama):
    with pytest.raises(ValueError) as refusal:
        inference.predict_fn({"inputs": "a", "parameters": {"temperature": '"\n' * 500}}, llama)
    assert len(json.dumps(str(refusal.value))) < 500
