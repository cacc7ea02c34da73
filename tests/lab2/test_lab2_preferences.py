"""Notebook 3's parts: letters, their simulated readers, sampling, labels, and the training script for preferences."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

LAB = Path(__file__).parents[2] / "lab2-llm-finetuning"
MODEL = LAB.parent / "shared" / "models" / "language"
SCRIPT = LAB / "code" / "preferences.py"
sys.path.insert(0, str(LAB))

import labelling  # noqa: E402
import letters  # noqa: E402
import readers  # noqa: E402
import sampling  # noqa: E402

WARM = "Dear Anna,\n\nThank you for the lamp. We all miss you. Will you come?\n\nLove,\nMia"
COLD = "Dear Anna,\n\nThank you for the lamp. My cat is ill. I lost my hat.\n\nLove,\nMia"
PAIR = {"prompt": "Dear Anna,\n\nHow are you?", "chosen": " We miss you.", "rejected": " I lost my hat."}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


# -- letters ----------------------------------------------------------------------------------------------------------


def test_openings_are_different_and_the_same_each_time():
    found = letters.openings("train", 200, seed=3)
    assert len(set(found)) == 200
    assert found == letters.openings("train", 200, seed=3) != letters.openings("train", 200, seed=4)


def test_train_and_test_share_no_name_and_no_sentence():
    parts = [[opening.split("\n\n") for opening in letters.openings(split, 300)] for split in letters.SPLITS]
    for place in (0, 1):
        assert not {row[place] for row in parts[0]} & {row[place] for row in parts[1]}


def test_openings_that_cannot_be_given_are_refused():
    with pytest.raises(ValueError, match="train, test"):
        letters.openings("validation", 1)
    with pytest.raises(ValueError, match="there are not"):
        letters.openings("test", 10_000)


@pytest.mark.parametrize(
    ("letter", "expected"),
    [
        (WARM, {"thanks": 1, "thinks of you": 1, "invites you": 1}),
        (COLD, {"thanks": 1, "bad news": 2}),
        ("Dear Tom,\n\nIt is summer here.", {"not signed": 1}),
        ("Dear Tom,\n\nIt is summer here. It is summer here.\n\nYours,\nMia", {"repeats": 2}),
        ("Dear Tom,\n\nIt is summer here. Blorgen.\n\nYours,\nMia", {"broken": 1}),
        ("Dear Tom,\n\nIt is summer here.\nMia: calm\n\nYours,\nMia", {"broken": 2}),
        ("Dear Tom,\n\n" + "It is summer here. " * 12 + "\n\nYours,\nMia", {"repeats": 42, "too long": 7}),
    ],
)
def test_what_a_letter_says(letter, expected):
    assert {kind: count for kind, count in letters.says(letter).items() if count} == expected


def test_thanks_that_are_repeated_word_for_word_count_once():
    assert letters.says("Dear Tom,\n\n" + "Thank you for the lamp. " * 5 + "\n\nLove,\nMia")["thanks"] == 1


# -- readers ----------------------------------------------------------------------------------------------------------


def test_nearly_everybody_prefers_the_warm_letter():
    assert readers.share_preferring(readers.panel(50, seed=1), WARM, COLD) > 0.8


def test_chances_are_complements_and_equal_letters_a_toss_up():
    for reader in readers.panel(20, seed=2):
        assert reader.chance(WARM, COLD) + reader.chance(COLD, WARM) == pytest.approx(1)
        assert reader.chance(WARM, WARM) == 0.5


def test_answers_follow_the_chances():
    reader, rng = readers.panel(1, seed=3)[0], Random(0)
    mild = COLD.replace(" I lost my hat.", "")
    share = sum(reader.chooses_first(mild, COLD, rng) for _ in range(2000)) / 2000
    assert share == pytest.approx(reader.chance(mild, COLD), abs=0.04)


def test_about_a_quarter_would_rather_not_be_invited():
    people = readers.panel(400, seed=4)
    assert 0.18 < sum(reader.quiet for reader in people) / 400 < 0.32
    with_invitation = "Dear Tom,\n\nIt is summer here. Will you come?\n\nLove,\nMia"
    without = with_invitation.replace(" Will you come?", "")
    for reader in people:
        assert (reader.chance(with_invitation, without) < 0.5) == reader.quiet


def test_another_seed_gives_other_people():
    assert readers.panel(3, seed=1) == readers.panel(3, seed=1) != readers.panel(3, seed=2)


def test_no_amount_of_friendly_words_makes_up_for_nonsense():
    nonsense = "Dear Anna,\n\n" + "Thank you please " * 25
    assert readers.share_preferring(readers.panel(30, seed=5), nonsense, COLD) < 0.1


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_by_call():
    mine = labelling.Labels([(WARM, COLD), (COLD, WARM)])
    people = readers.panel(30, seed=1)
    assert mine.agreement(people) is None
    mine.answer(0, "A")
    mine.answer(1, "A")
    assert mine.agreement(people) == 0.5
    mine.answer(1, "B")
    assert mine.answers == {0: "A", 1: "B"} and mine.agreement(people) == 1
    with pytest.raises(ValueError, match="0 to 1"):
        mine.answer(2, "A")
    with pytest.raises(ValueError, match='"A" or "B"'):
        mine.answer(0, "a")


def test_labels_by_buttons_go_from_pair_to_pair():
    mine = labelling.Labels([(WARM, COLD), (COLD, "Dear <b>you</b>")])
    row, buttons, status = mine.widget().children
    assert "We all miss you" in row.children[0].value
    buttons.children[1].click()
    assert mine.answers == {0: "B"}
    assert "My cat is ill" in row.children[0].value and "&lt;b&gt;" in row.children[1].value
    buttons.children[0].click()
    buttons.children[0].click()
    assert mine.answers == {0: "B", 1: "A"} and "2 of 2" in status.value
    assert all(button.disabled for button in buttons.children)


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_and_leaves_the_generator_alone(model, tokenizer):
    prompts = letters.openings("test", 6)
    before = torch.get_rng_state()
    first = sampling.write(model, tokenizer, prompts, seed=1, batch=4)
    assert torch.equal(before, torch.get_rng_state())
    assert first == sampling.write(model, tokenizer, prompts, seed=1, batch=4)
    assert first != sampling.write(model, tokenizer, prompts, seed=2, batch=4)


def test_padding_does_not_change_what_is_written(model, tokenizer):
    prompts = ["Dear Anna,\n\nHow are you?", "Dear Anna,\n\nI am writing to you from a small farm in the hills."]
    cold = {"seed": 1, "temperature": 1e-4, "max_new_tokens": 12}
    together = sampling.write(model, tokenizer, prompts, **cold)
    assert together == [sampling.write(model, tokenizer, [prompt], **cold)[0] for prompt in prompts]


def test_log_probability_is_the_sum_over_the_texts_own_tokens(model, tokenizer):
    prompts, texts = ["Dear Anna,\n\nHow are you?", "Dear Tom,\n\nIt is winter here."], [" Please write soon.", " I"]
    with torch.no_grad():
        found = sampling.log_probability(model, tokenizer, prompts, texts)
        for prompt, text, value in zip(prompts, texts, found, strict=True):
            before = tokenizer(prompt)["input_ids"]
            ids = torch.tensor([before + tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]])
            log_probabilities = model(ids).logits.log_softmax(-1)[0]
            expected = sum(log_probabilities[i - 1, ids[0, i]] for i in range(len(before), ids.shape[1]))
            assert value.item() == pytest.approx(expected.item(), abs=1e-3)


def test_a_text_that_was_cut_off_has_no_end(model, tokenizer):
    prompt, text = ["Dear Anna,\n\nHow are you?"], [" Please write soon."]
    count = len(tokenizer(text[0])["input_ids"])
    with torch.no_grad():
        whole = sampling.log_probability(model, tokenizer, prompt, text)
        cut = sampling.log_probability(model, tokenizer, prompt, text, max_new_tokens=count)
    assert cut > whole


def test_greedy_answers_are_found_by_one_pass(model, tokenizer):
    prompts = ["The capital of France is", "The capital of Japan is"]
    assert sampling.answers_rightly(model, tokenizer, prompts, [" Paris", " Paris"]) == [True, False]


# -- the training script ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    return importlib.import_module("preferences")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory, tokenizer):
    """A random model of one layer with the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=0, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there are no pairs"),
        (b"prompt,chosen\n", "line 1: not JSON"),
        (b'{"prompt": "a", "chosen": "b"}\n', r"no text in the column\(s\) rejected"),
        (b'{"prompt": "a", "chosen": 1, "rejected": "b"}\n', r"no text in the column\(s\) chosen"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n{"prompt": "a", "chosen": "b", "rejected": "b"}',
         "line 3: chosen and rejected are the same"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)  # fmt: skip
def test_pairs_that_are_none_are_refused_with_their_place(script, tmp_path, content, message):
    (tmp_path / "pairs.jsonl").write_bytes(content)
    with pytest.raises(script.InputError, match=message):
        script.read_pairs(tmp_path)


@pytest.mark.parametrize(
    "arguments", [["--beta", "0"], ["--label_smoothing", "0.5"], ["--learning_rate", "-1"], ["--method", "prompt"]]
)
def test_arguments_out_of_range_are_refused_at_once(script, arguments, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--train", "x", "--model", "y", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_a_job_learns_saves_and_reports(tmp_path, tiny_model, tokenizer):
    for channel in ("train", "validation", "output/data"):
        (tmp_path / channel).mkdir(parents=True)
        (tmp_path / channel / "pairs.jsonl").write_text("\n".join([json.dumps(PAIR)] * 8))
    environment = os.environ | {
        "SM_CHANNEL_TRAIN": str(tmp_path / "train"),
        "SM_CHANNEL_VALIDATION": str(tmp_path / "validation"),
        "SM_CHANNEL_MODEL": str(tiny_model),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "output" / "data"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        str(SCRIPT),
        "--num_train_epochs",
        "4",
        "--learning_rate",
        "0.01",
        "--logging_steps",
        "1",
    ]
    command += ["--per_device_train_batch_size", "4"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "%|" not in run.stdout + run.stderr  # no progress bars in a log
    metrics = json.loads((tmp_path / "output" / "data" / "metrics.json").read_text())
    assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy is the reference still
    assert metrics["after"]["loss"] < 0.6 and metrics["after"]["accuracy"] == 1
    lines = [line for line in run.stdout.splitlines() if line.startswith("step=")]
    assert sum("train_loss=" in line for line in lines) == 8 and sum("eval_loss=" in line for line in lines) == 2
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    first = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        gains = [
            sampling.log_probability(tuned, tokenizer, [PAIR["prompt"]], [PAIR[name]])
            - sampling.log_probability(first, tokenizer, [PAIR["prompt"]], [PAIR[name]])
            for name in ("chosen", "rejected")
        ]
    assert gains[0] > gains[1]


def test_a_failed_job_leaves_its_reason(tmp_path, tiny_model):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b"}')
    environment = os.environ | {
        "SM_CHANNEL_TRAIN": str(tmp_path / "train"),
        "SM_CHANNEL_MODEL": str(tiny_model),
        "SM_OUTPUT_DIR": str(tmp_path),
    }
    run = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "pairs.jsonl, line 1" in (tmp_path / "failure").read_text()
    assert "Traceback" not in run.stderr
