"""Tokenizer, rows, network and training of the language model, on sizes that take seconds."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.pretraining.checkpoints import OtherRecipe
from shared.pretraining.language import __main__ as command_line
from shared.pretraining.language import card, evaluation, trials
from shared.pretraining.language.corpus import documents
from shared.pretraining.language.data import Packer, encode, train_tokenizer, write_rows
from shared.pretraining.language.export import export, sha256
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.network import build, hidden_states, loss_sum
from shared.pretraining.language.recipe import END_OF_TEXT, Recipe, WorkFolder
from shared.pretraining.language.training import LanguageTrainer

ROOT = Path(__file__).parent.parent
TINY = Recipe(
    vocabulary=512, tokenizer_documents=300, hidden=32, layers=2, heads=2, intermediate=64, context=256,
    steps=30, step_tokens=512, row=128, parts=2, early_steps=8, warmup=2, constant=0.3, checkpoint_every=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TINY)


@pytest.fixture(scope="module")
def work(tmp_path_factory, tokenizer):
    folder = WorkFolder(tmp_path_factory.mktemp("pretraining"))
    tokenizer.save(str(folder.tokenizer))
    write_rows(tokenizer, TINY, folder.rows)
    return folder


def trained(work, tmp_path, until=None, **options):
    trainer = LanguageTrainer(TINY, threads=1, dtype=torch.float32, **options)
    trainer.train(work.rows, tmp_path / "checkpoint.pt", until=until)
    return trainer


@pytest.fixture(scope="module")
def folder(work, tokenizer, tmp_path_factory):
    """A trained tiny model's folder."""
    temporary = tmp_path_factory.mktemp("tiny")
    trainer = trained(work, temporary)
    return export(trainer.model, tokenizer, TINY, temporary / "model")


def assert_same_weights(left, right):
    for name, weights in left.state_dict().items():
        torch.testing.assert_close(weights, right.state_dict()[name], atol=1e-3, rtol=1e-3)


@given(text=st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_tokenizer_is_the_same_each_time(tokenizer):
    assert train_tokenizer(TINY).to_str() == tokenizer.to_str()
    assert tokenizer.token_to_id(END_OF_TEXT) == 0 and tokenizer.get_vocab_size() == TINY.vocabulary


def test_weights_follow_their_tokens(tokenizer):
    ((ids, weights),) = encode(tokenizer, [[("The capital is", 1), (" Paris", 4), (".", 1)]])
    assert tokenizer.decode(ids, skip_special_tokens=False) == "The capital is Paris." + END_OF_TEXT
    answer = [token for token, weight in zip(ids, weights, strict=True) if weight == 4]
    assert tokenizer.decode(answer) == " Paris" and weights[-1] == 1


def documents_of(row, weights):
    """A row's documents as (ids, weights); what fills the rest of the row is left out, and must not count."""
    found, start = [], 0
    for index, (token, weight) in enumerate(zip(row, weights, strict=True)):
        if token == 0 and weight:
            found.append((tuple(row[start : index + 1]), tuple(weights[start : index + 1])))
            start = index + 1
    assert set(row[start:]) <= {0} and not any(weights[start:])
    return found


@pytest.mark.parametrize("shares", ["early", "later", "second", "third"])
def test_rows_hold_whole_documents_and_no_token_is_lost(tokenizer, shares):
    packer = Packer(tokenizer, TINY, seed=4)
    packed, lengths, filled = Counter(), Counter(), 0
    for length, ids, weights in islice(packer.steps(shares), 150):
        assert len(ids) == len(weights) == TINY.step_tokens
        lengths[length] += 1
        for start in range(0, TINY.step_tokens, length):
            row, row_weights = ids[start : start + length], weights[start : start + length]
            found = documents_of(row, row_weights)
            assert found
            packed.update(found)
            filled += sum(len(document) for document, _ in found)
    assert set(lengths) == {TINY.row, TINY.context}
    assert filled > 0.75 * 150 * TINY.step_tokens
    # Every document of the source is packed once, or waits its turn, or is longer than the context.
    taken = packed.total()
    source = [
        (tuple(ids), tuple(weights))
        for ids, weights in encode(tokenizer, list(islice(documents(4, shares=shares), 3 * taken)))
        if len(ids) <= TINY.context
    ]
    assert not packed - Counter(source)
    waiting = Counter(source[:taken]) - packed
    assert sum(len(document) > TINY.row for document, _ in waiting.elements()) <= len(packer.long)
    assert sum(len(document) <= TINY.row for document, _ in waiting.elements()) <= 64


def test_documents_longer_than_the_context_are_left_out(tokenizer):
    small = replace(TINY, context=128, row=64, step_tokens=256)
    long = [ids for ids, _ in encode(tokenizer, list(islice(documents(4), 200))) if len(ids) > 128]
    assert long
    texts = {tuple(ids) for ids in long}
    for length, ids, weights in islice(Packer(tokenizer, small, seed=4).steps("later"), 60):
        for start in range(0, 256, length):
            for document, _ in documents_of(ids[start : start + length], weights[start : start + length]):
                assert document not in texts and len(document) <= 128


def test_rows_on_disk_are_those_of_the_seed(work, tokenizer):
    with np.load(work.rows) as rows:
        assert rows["ids"].shape == rows["weights"].shape == (TINY.steps, TINY.step_tokens)
        assert (rows["ids"].dtype, rows["weights"].dtype) == (np.uint16, np.uint8)
        packer = Packer(tokenizer, TINY, TINY.seed)
        for index, (length, ids, weights) in enumerate(islice(packer.steps("early"), TINY.early_steps)):
            assert rows["lengths"][index] == length
            assert rows["ids"][index].tolist() == ids and rows["weights"][index].tolist() == weights
        later = next(packer.steps("later"))
        assert rows["ids"][TINY.early_steps].tolist() == later[1]
        assert TINY.early_steps < TINY.rounds[0] < TINY.steps == sum(TINY.rounds)
    assert [path.name for path in work.path.iterdir() if "partial" in path.name] == []


def test_forward_pass_is_the_librarys_on_each_document_alone(work):
    model = build(TINY).eval()
    torch.nn.init.normal_(model.model.layers[0].self_attn.o_proj.weight, std=0.2)
    torch.nn.init.normal_(model.model.layers[1].mlp.down_proj.weight, std=0.2)
    with np.load(work.rows) as rows:
        length = int(rows["lengths"][0])
        ids = torch.from_numpy(rows["ids"][:1, :length].astype(np.int64))
        weights = torch.from_numpy(rows["weights"][:1, :length])
    lengths = (torch.nonzero(ids[0] == 0)[:, 0] + 1).tolist()
    starts = [0, *lengths]
    with torch.inference_mode():
        ours = hidden_states(model, ids, torch.float32) @ model.model.embed_tokens.weight.T
        alone = [model(ids[:, start:end]).logits for start, end in zip(starts, lengths, strict=False)]
        expected = torch.cat(alone, dim=1)
        assert len(alone) > 1 and expected.shape == ours[:, : lengths[-1]].shape
        torch.testing.assert_close(ours[:, : lengths[-1]], expected, atol=1e-4, rtol=1e-4)
        losses = torch.nn.functional.cross_entropy(ours[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        wanted = (losses * weights[:, 1:].flatten()).sum()
        torch.testing.assert_close(loss_sum(model, ids, weights, torch.float32), wanted, atol=1e-2, rtol=1e-4)


def test_training_lowers_the_loss(work, tmp_path):
    trainer = trained(work, tmp_path, until=1)
    ((_, first),) = trainer.losses
    assert first == pytest.approx(math.log(TINY.vocabulary), abs=0.5)
    trainer.train(work.rows, tmp_path / "checkpoint.pt")
    assert trainer.step == TINY.steps
    assert trainer.losses[-1][1] < first - 0.4


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(work, tmp_path, threads):
    whole = trained(work, tmp_path)
    path = tmp_path / "interrupted.pt"
    first = LanguageTrainer(TINY, threads=threads, dtype=torch.float32)
    first.train(work.rows, path, until=8)
    second = LanguageTrainer(TINY, threads=threads, dtype=torch.float32)
    second.restore(path)
    assert second.step == 8
    second.train(work.rows, path)
    assert_same_weights(second.model, whole.model)
    assert second.cpu_seconds > first.cpu_seconds > 0


def test_ctrl_c_leaves_a_checkpoint(work, tmp_path, monkeypatch):
    trainer = LanguageTrainer(TINY, threads=1, dtype=torch.float32)
    one_step = trainer._one_step

    def interrupted(*arguments):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return one_step(*arguments)

    monkeypatch.setattr(trainer, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(work.rows, tmp_path / "checkpoint.pt")
    again = LanguageTrainer(TINY, threads=1, dtype=torch.float32)
    again.restore(tmp_path / "checkpoint.pt")
    assert again.step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_recipe_is_refused(work, tmp_path):
    trained(work, tmp_path, until=1)
    with pytest.raises(OtherRecipe, match="seed"):
        LanguageTrainer(replace(TINY, seed=2)).restore(tmp_path / "checkpoint.pt")


def test_rates_rise_stay_and_fall_to_nothing():
    trainer = LanguageTrainer(TINY)
    factors = []
    for step in range(TINY.steps + 1):
        trainer.step = step
        factors.append(trainer._rate_factor())
    first, second, _ = TINY.rounds
    constant = round(TINY.constant * first)
    assert factors[0] == pytest.approx(1 / TINY.warmup)
    assert factors[TINY.warmup - 1 : constant + 1] == pytest.approx([1.0] * (constant - TINY.warmup + 2))
    starts = (0, first, first + second)
    for start, stop, constant_until in zip(starts, (*starts[1:], TINY.steps), (constant, 0, 0), strict=True):
        falling = factors[start + max(TINY.warmup, constant_until) : stop]
        assert all(left > right for left, right in zip(falling, falling[1:], strict=False))
        assert max(factors[start:stop]) <= (TINY.later_rate if start else 1)
        assert factors[stop - 1] < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_tokens": 500}, "step_tokens"),
        ({"row": 100}, "multiple of row"),
        ({"heads": 3}, "heads"),
        ({"vocabulary": 100}, "vocabulary"),
    ],
)
def test_an_impossible_recipe_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_exported_folder_is_complete_fp16_and_reproducible(folder, work, tokenizer, tmp_path):
    from safetensors.torch import load_file

    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    again = export(trained(work, tmp_path).model, tokenizer, TINY, tmp_path / "again")
    weights = load_file(again / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(tensor.float(), weights[name].float(), atol=2e-3, rtol=2e-3)
    assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []


def a_table(share, trials=500):
    """Skills in which every cell has `share`."""
    low, high = evaluation.wilson(round(share * trials), trials)
    names = [*card.GOALS, "question on a context", "a cell without a goal"]
    right = round(share * trials)
    return [
        {"cell": name, "right": right, "trials": trials, "share": right / trials, "low": low, "high": high}
        for name in dict.fromkeys(names)
    ]


def test_skills_and_samples_are_reproducible(folder):
    writer = Writer(folder)
    assert evaluation.skills(writer, 2) == evaluation.skills(writer, 2)
    asked = trials.few_shot(5, 1)
    assert evaluation.score(writer, asked)["trials"] == 5


def test_score_counts_exact_answers():
    class Parrot:
        def answers(self, prompts):
            return ["Tarvel.", "Tarvel", "tarvel", "Tarvel [1]"][: len(prompts)]

    found = evaluation.score(Parrot(), [trials.Trial("Where?", "Tarvel")] * 4)
    assert (found["right"], found["trials"], found["share"]) == (2, 4, 0.5)
    assert (found["low"], found["high"]) == evaluation.wilson(2, 4)


@pytest.mark.parametrize(("share", "verdict"), [(0.999, "reached"), (0.5, "below the least"), (0.82, "ships")])
def test_the_card_says_what_the_figures_say(share, verdict):
    rows = card.skills_table(a_table(share)).splitlines()
    few_shot = next(row for row in rows if "few-shot, fresh labels, k=2" in row)
    assert few_shot.endswith(f"| {verdict} |")
    without = next(row for row in rows if "without the context" in row)
    assert without.endswith("| above the goal |")
    limits = card.limits(a_table(share))
    assert ("few-shot, fresh labels, k=2" in limits) == (verdict != "reached")
    assert "the same question without the context" in limits


def test_the_card_admits_nothing_when_all_goals_are_reached():
    rows = a_table(0.999)
    for row in rows:
        if card.GOALS.get(row["cell"], card.Goal(0)).at_most:
            row.update(right=10, share=0.02, low=0.011, high=0.036)
    assert "reach the goal" in card.limits(rows)


def test_samples_depend_on_the_seed_only(folder):
    writer = Writer(folder)
    torch.manual_seed(5)
    first = writer.sample("Once", seed=1, temperature=1.0, max_new_tokens=10)
    torch.manual_seed(6)
    assert writer.sample("Once", seed=1, temperature=1.0, max_new_tokens=10) == first
    assert writer.sample("Once", seed=2, temperature=1.0, max_new_tokens=10) != first


def test_the_command_line_says_what_is_missing(tmp_path, capsys):
    assert command_line.main(["export", "--work-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "run the command train first" in capsys.readouterr().err
    assert command_line.main(["train", "--work-dir", str(tmp_path)]) == 1
    assert "run the command data first" in capsys.readouterr().err


def test_the_command_line_makes_a_model_and_its_card_from_start_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "Recipe", lambda **options: replace(TINY, **options))
    out = tmp_path / "model"
    folders = ["--work-dir", str(tmp_path / "work"), "--out", str(out)]
    options = [*folders, "--trials", "1", "--steps", "4", "--threads", "1"]
    assert command_line.main(["all", *options, "--dtype", "float32"]) == 0
    results = json.loads((tmp_path / "work" / "evaluation.json").read_text())
    assert {"cell", "right", "trials", "share", "low", "high"} == set(results["skills"][0])
    assert set(card.GOALS) <= {row["cell"] for row in results["skills"]}
    assert all(row["low"] <= row["share"] <= row["high"] for row in results["skills"])
    assert results["tokens_per_second"] > 0 and len(results["samples"]) == 10
    text = (out / "README.md").read_text(encoding="utf-8")
    assert sha256(out / "model.safetensors") in text
    assert all(f"| {row['cell']} | {row['share']:.1%} |" in text for row in results["skills"])
    assert all(f"\n{number}. Seed {number - 1}\n" in text for number in range(1, 11))
    written = text.split("## Ten samples")[0] + text.split("## A reader's judgement")[1]
    assert not re.search(r"\{\w+\}", written)
    capsys.readouterr()
    assert command_line.main(["data", *options]) == 0
    assert "already" in capsys.readouterr().out
    assert command_line.main(["export", *folders, "--steps", "9"]) == 1
    assert "made with another steps" in capsys.readouterr().err


def test_help_names_the_commands():
    output = subprocess.run(
        [sys.executable, "-m", "shared.pretraining.language", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    for command in ("data", "train", "export", "evaluate", "card", "text", "--work-dir", "--out"):
        assert command in output
