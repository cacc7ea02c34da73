"""The product corpus: the files, what is held out of them, and the checks of a description."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from shared.pretraining.language.words import is_held_out

LAB = Path(__file__).parents[2] / "lab2-llm-finetuning"
DATA = LAB / "data"
sys.path.insert(0, str(LAB))

import products  # noqa: E402

MODEL = LAB.parent / "shared" / "models" / "language"
FACTS = {"name": "Denai cup", "colour": "grey", "material": "copper", "country": "China", "price": "52 euros"}
FILES = {split: DATA / "products" / f"{split}.jsonl" for split in ("train", "validation", "test")}
FILES["other_shop"] = DATA / "other_shop" / "train.jsonl"
SENTENCES = (
    "Come in and look: the Denai cup, made of copper. It is grey, and it has come to you from China. "
    "Leave 52 euros on the counter, and it is yours. Our door is open."
)


@pytest.fixture(scope="module")
def splits():
    return {split: products.read_products(path) for split, path in FILES.items()}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def test_the_generator_writes_the_files_that_are_here(tmp_path):
    command = [sys.executable, DATA / "generate.py", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 5
    for name in written:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), f"{name}: run data/generate.py"


def test_the_readme_has_the_checksums():
    listed = re.findall(r"\| `(\S+)` \| ([\d,]+) \| ([\d,]+) \| `(\w+)` \|", (DATA / "README.md").read_text())
    assert len(listed) == 5
    for name, rows, size, checksum in listed:
        content = (DATA / name).read_bytes()
        found = (f"{len(content.splitlines()):,}", f"{len(content):,}")
        assert found == (rows, size)
        assert hashlib.sha256(content).hexdigest().startswith(checksum)


def test_another_seed_and_other_counts(tmp_path):
    sizes = ["--train", "20", "--validation", "3", "--test", "4"]
    for seed in ("1", "2"):
        command = [sys.executable, DATA / "generate.py", "--out", tmp_path / seed, "--seed", seed, *sizes]
        subprocess.run(command, check=True, capture_output=True)
    first, second = (products.read_products(tmp_path / seed / "products" / "train.jsonl") for seed in ("1", "2"))
    assert len(first) == len(second) == 20 and first != second
    refused = subprocess.run([*command, "--test", "0"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--test must be at least 1" in refused.stderr


@pytest.mark.parametrize("split", FILES)
def test_every_description_tells_all_facts_and_no_other_in_the_voice(splits, split):
    voice, other = products.OPEN_DOOR, products.GRUMBLE
    if split == "other_shop":
        voice, other = other, voice
    for row in splits[split]:
        check = products.check_facts(row["completion"], row["facts"])
        assert check == products.FactCheck(products.KINDS, (), ()), row["text"]
        assert all(products.check_voice(row["completion"], voice).values()), row["text"]
        assert not all(products.check_voice(row["completion"], other).values())
        assert row["text"] == row["prompt"] + row["completion"]
        assert row["prompt"] == products.write_prompt(row["facts"])
        assert "\n" not in row["completion"] and not re.search(r"\b[Aa] [aeiou]", row["completion"])


def test_names_and_combinations_of_validation_and_test_are_new(splits):
    def names(split):
        return [row["facts"]["name"].split()[0] for row in splits[split]]

    def combinations(split):
        return {
            (row["facts"]["name"].split()[1], row["facts"]["colour"], row["facts"]["material"]) for row in splits[split]
        }

    everything = names("train") + names("validation") + names("test")
    assert len(set(everything)) == len(everything)
    assert not any(map(is_held_out, names("train")))
    assert all(map(is_held_out, names("validation") + names("test")))
    assert not combinations("train") & (combinations("validation") | combinations("test"))


def test_training_meets_every_word_that_the_test_needs(splits):
    for kind in ("colour", "material", "country"):
        assert {row["facts"][kind] for row in splits["test"]} <= {row["facts"][kind] for row in splits["train"]}


def test_rows_are_short_for_the_embedded_model(splits, tokenizer):
    lengths = [len(ids) for rows in splits.values() for ids in tokenizer([row["text"] for row in rows]).input_ids]
    assert max(lengths) <= 125


def test_prompts_on_forgetting_fit_the_model(tokenizer):
    rows = [json.loads(line) for line in (DATA / "forgetting" / "prompts.jsonl").read_text().splitlines()]
    tasks = [row["task"] for row in rows]
    assert {task: tasks.count(task) for task in tasks} == {
        "capitals": 50, "questions on a context": 50, "sentiment": 50, "few-shot classification": 50,
    }  # fmt: skip
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        assert row["answer"].startswith(" ") and row["answer"].strip()
        assert len(tokenizer(row["prompt"] + row["answer"]).input_ids) < 200


def test_a_whole_description():
    assert products.check_facts(SENTENCES, FACTS) == products.FactCheck(products.KINDS, (), ())


@pytest.mark.parametrize(
    ("change", "missing", "invented"),
    [
        (("Denai", "Denar"), "name", ("name", "Denar")),
        (("Denai cup", "Denai bowl"), "name", ("name", "bowl")),
        (("Denai cup", "cup"), "name", None),
        (("grey", "green"), "colour", ("colour", "green")),
        (("grey", "greyish"), "colour", None),
        (("copper", "tin"), "material", ("material", "tin")),
        (("China", "Peru"), "country", ("country", "Peru")),
        (("52", "25"), "price", ("price", "25")),
        (("52 euros", "52"), "price", None),
        (("52 euros", "152 euros"), "price", ("price", "152")),
    ],
)
def test_a_wrong_fact_is_missing_and_made_up(change, missing, invented):
    check = products.check_facts(SENTENCES.replace(*change), FACTS)
    assert check.missing == (missing,)
    assert check.invented == ((invented,) if invented else ())
    assert set(check.present) == set(products.KINDS) - {missing}


def test_what_is_made_up_beside_the_facts_counts_too():
    check = products.check_facts(SENTENCES + " Mina has a red one for 12 coins, of WOOL.", FACTS)
    assert check.missing == ()
    assert set(check.invented) == {("name", "Mina"), ("colour", "red"), ("price", "12"), ("material", "wool")}


@given(st.text())
def test_any_text_can_be_checked(text):
    check = products.check_facts(text, FACTS)
    assert sorted(check.present + check.missing) == sorted(products.KINDS)
    products.check_voice(text)


@pytest.mark.parametrize(
    "change", [("Come in", "Walk in"), ("Our door is open.", "Our door is shut."), ("on the counter", "here")]
)
def test_a_broken_habit_is_seen(change):
    kept = products.check_voice(SENTENCES)
    assert all(kept.values()) and len(kept) == 4
    broken = products.check_voice(SENTENCES.replace(*change))
    assert sum(broken.values()) == 3


def test_coverage_is_the_share_of_facts():
    checks = [products.check_facts(text, FACTS) for text in (SENTENCES, "", "a grey cup of copper from China")]
    assert products.coverage(checks) == pytest.approx((5 + 0 + 3) / 15)
    with pytest.raises(ValueError, match="no text was checked"):
        products.coverage([])


def test_bad_rows_and_facts_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "prompt": "a", "completion": "", "facts": {}}\n{"text": "a"}\n')
    with pytest.raises(ValueError, match="line 2: no completion, facts, prompt"):
        products.read_products(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        products.read_products(path)
    with pytest.raises(ValueError, match="these are name"):
        products.write_prompt({"name": "Denai cup"})
