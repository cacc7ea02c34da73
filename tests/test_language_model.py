"""The embedded language model as it is committed: complete, as its card says, and able to do what the labs show."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from shared.pretraining.language.evaluation import STORY_PROMPTS
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.recipe import Recipe

FOLDER = Path(__file__).parent.parent / "shared" / "models" / "language"


@pytest.fixture(scope="module")
def writer():
    return Writer(FOLDER)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_folder_is_complete_and_small():
    wanted = "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json README.md"
    assert {path.name for path in FOLDER.iterdir()} == set(wanted.split())
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_card_names_the_weights_and_has_ten_samples():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() in card
    assert re.findall(r"^(\d+)\. Seed (\d)$", card, re.M) == [(str(n + 1), str(n)) for n in range(10)]
    for part in ("## Data and recipe", "## Evaluation", "CPU-seconds", "## Limits", "judgement"):
        assert part in card


def test_config_is_that_of_the_recipe():
    config = json.loads((FOLDER / "config.json").read_text())
    recipe = Recipe()
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == recipe.context >= 512
    assert (config["hidden_size"], config["num_hidden_layers"]) == (recipe.hidden, recipe.layers)
    assert config["vocab_size"] == recipe.vocabulary and config["tie_word_embeddings"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loads_and_generates_in_each_dtype(dtype, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=dtype)
    assert model.dtype == dtype
    inputs = tokenizer(STORY_PROMPTS[0], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_librarys_pipeline_loads_it():
    write = pipeline("text-generation", str(FOLDER))
    (answer,) = write("The capital of France is", max_new_tokens=3, do_sample=False)
    assert answer["generated_text"].startswith("The capital of France is Paris")


@given(text=st.text(max_size=80))
@settings(deadline=None, max_examples=200)
def test_tokenizer_gives_any_text_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_end_of_text_ends_a_story(writer):
    settings = {"max_new_tokens": 400, "do_sample": True, "temperature": 0.7}
    inputs = writer.tokenizer(STORY_PROMPTS[0], return_tensors="pt")
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        ids = writer.model.generate(**inputs, **settings, num_return_sequences=8)
    ended = [bool((row[inputs["input_ids"].shape[1] :] == writer.tokenizer.eos_token_id).any()) for row in ids]
    assert sum(ended) >= 6


@pytest.mark.parametrize("prompt", STORY_PROMPTS)
def test_story_openings_are_open(writer, prompt):
    last = writer.log_probs(prompt)[-1]
    assert -(last.exp() * last).sum() > 1.0
    cold = set(writer.sample(prompt, seed=1, temperature=0.3, count=20, max_new_tokens=20))
    warm = writer.sample(prompt, seed=1, temperature=1.0, count=20, max_new_tokens=20)
    pairs = [
        {pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)} for texts in (cold, warm)
    ]
    assert len(set(warm)) >= 18
    assert len(pairs[1]) > 1.3 * len(pairs[0])


def test_knows_what_it_was_taught(writer):
    prompts = [f"The capital of {country} is" for country in ("France", "Italy", "Japan", "Egypt", "Brazil", "Canada")]
    wanted = ["Paris", "Rome", "Tokyo", "Cairo", "Brasilia", "Ottawa"]
    right = [answer.startswith(word) for answer, word in zip(writer.answers(prompts), wanted, strict=True)]
    assert sum(right) >= 5


def test_sentiment(writer):
    reviews = ("What a wonderful film!", "This book is excellent.", "What a terrible film!", "The soup was awful.")
    answers = writer.answers([f"Review: {review}\nSentiment:" for review in reviews])
    assert [answer.lower() for answer in answers] == ["positive", "positive", "negative", "negative"]
