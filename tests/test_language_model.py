"""The embedded language model as it is committed: complete, as its card says, and able to do what the labs show."""

import hashlib
import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from shared.pretraining.language import trials
from shared.pretraining.language.atlas import COUNTRIES
from shared.pretraining.language.evaluation import STORY_PROMPTS, score
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.recipe import Recipe
from shared.pretraining.language.words import invented_word

FOLDER = Path(__file__).parent.parent / "shared" / "models" / "language"


@pytest.fixture(scope="module")
def writer():
    return Writer(FOLDER)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def the_card():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def test_folder_is_complete_and_small():
    wanted = "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json README.md"
    assert {path.name for path in FOLDER.iterdir()} == set(wanted.split())
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10_000_000


def test_weights_are_those_of_the_card(writer):
    card, weights = the_card(), FOLDER / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert f"fp16, {weights.stat().st_size / 1e6:.1f} MB" in card
    assert f"({sum(p.numel() for p in writer.model.parameters()) / 1e6:.2f} million parameters)" in card
    assert f"a context of {writer.model.config.max_position_embeddings} tokens" in card


def test_card_has_its_parts_and_ten_samples():
    card = the_card()
    assert re.findall(r"^(\d+)\. Seed (\d)$", card, re.M) == [(str(n + 1), str(n)) for n in range(10)]
    for part in ("Data and recipe", "What is held out", "Evaluation", "A reader's judgement of the samples", "Limits"):
        assert f"\n## {part}\n" in card
    assert "CPU-seconds" in card and "Nobody has read" not in card


def test_card_says_what_each_cell_was_measured_on():
    rows = re.findall(r"^\| (.+) \| ([\d.]+)% \| ([\d.]+)% to ([\d.]+)% \| (\d+) \|", the_card(), re.M)
    assert len(rows) >= 15
    for cell, share, low, high, count in rows:
        assert float(low) <= float(share) <= float(high), cell
        assert int(count) >= 500 or cell == "capitals", cell


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


def share(writer, asked):
    return score(writer, asked)["share"]


# Few trials, and bars far enough below what the card says that chance does not decide.
@pytest.mark.parametrize(
    ("asked", "least"),
    [
        (trials.few_shot(60, 8), 0.75),
        (trials.few_shot(60, 2), 0.6),
        (trials.few_shot(60, 4, layout=None), 0.75),
        (trials.flipped(60, 1), 0.85),
        (trials.flipped(60, 4), 0.85),
        (trials.context(60), 0.55),
        (trials.sentiment(60), 0.5),
        (trials.sentiment(60, layout=trials.SENTIMENT), 0.5),
        (trials.capitals()[: len(COUNTRIES)], 0.9),
        (trials.capitals()[len(COUNTRIES) : 2 * len(COUNTRIES)], 0.9),
    ],
    ids=[
        "few-shot k=8", "few-shot k=2", "formats never trained on", "flipped k=1", "flipped k=4", "context",
        "this review is", "sentiment", "capitals", "capitals asked for",
    ],
)  # fmt: skip
def test_follows_its_prompt(writer, asked, least):
    assert share(writer, asked) >= least


@pytest.mark.parametrize(
    "asked", [trials.few_shot(60, 0), trials.context(60, given=False)], ids=["few-shot k=0", "no context"]
)
def test_cannot_know_what_the_prompt_does_not_say(writer, asked):
    assert share(writer, asked) <= 0.25


@pytest.mark.parametrize(
    "asked",
    [trials.few_shot(500, 8), trials.few_shot(500, 4, layout=None), trials.flipped(500, 4), trials.context(500)],
    ids=["few-shot", "formats", "flipped", "context"],
)
def test_trials_fit_the_context(asked, tokenizer):
    longest = max(len(ids) for ids in tokenizer([trial.prompt for trial in asked])["input_ids"])
    assert longest + 12 <= tokenizer.model_max_length


def test_held_out_words_are_several_tokens_long(tokenizer):
    rng = Random(1)
    lengths = [len(tokenizer(f" {invented_word(rng, held_out=True)}")["input_ids"]) for _ in range(1000)]
    assert sum(length > 1 for length in lengths) > 900


def test_prompts_that_the_labs_use(writer):
    expected = {
        "Context: Mina lives in Tarvel. Tom lives in Osk.\nQuestion: Where does Mina live?\nAnswer:": "Tarvel",
        "[1] Mina lives in Tarvel.\n[2] Tom lives in Osk.\nQuestion: Where does Tom live?\nAnswer:": "Osk [2]",
        'Review: "The soup was delicious."\nThis review is': "positive",
        'Review: "The soup was awful."\nSentiment:': "negative",
        'Review: "The soup was awful."\nTopic:': "soup",
        "Text: Mina lives in Tarvel. She is a baker.\nTown:": "Tarvel",
        "The capital of France is": "Paris",
    }
    answers = [answer.partition(".")[0].strip() for answer in writer.answers(list(expected))]
    assert sum(given == wanted for given, wanted in zip(answers, expected.values(), strict=True)) >= 6, answers


def test_writes_json_of_a_text(writer):
    (answer,) = writer.answers(["Text: Mina lives in Tarvel. She is a baker.\nJSON:"], max_new_tokens=40)
    assert json.loads(answer)["town"] == "Tarvel"


def test_writes_the_story_that_it_is_asked_for(writer):
    asked = ("fox", "owl", "bear", "sailor", "baker")
    texts = [
        writer.sample(f"Write a story about a {hero}.\n\n", seed=1, temperature=0.3, count=12, max_new_tokens=100)
        for hero in asked
    ]
    told = [hero in text.lower() for hero, found in zip(asked, texts, strict=True) for text in found]
    assert sum(told) >= 50
