"""Tokenizer, rows, network and training of the language model, on sizes that take seconds."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.pretraining.language import __main__ as command_line
from shared.pretraining.language import card, evaluation
from shared.pretraining.language.data import encode, packed_rows, train_tokenizer, write_rows
from shared.pretraining.language.export import export, sha256
from shared.pretraining.language.generation import Writer
from shared.pretraining.language.network import build, hidden_states, loss_sum
from shared.pretraining.language.recipe import END_OF_TEXT, Recipe, WorkFolder
from shared.pretraining.language.training import OtherRecipe, Trainer

ROOT = Path(__file__).parent.parent
TINY = Recipe(
    vocabulary=512, tokenizer_documents=300, hidden=32, layers=2, heads=2, intermediate=64, context=128,
    steps=20, batch_rows=4, micro_rows=2, warmup=2, checkpoint_every=5,
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
    trainer = Trainer(TINY, threads=1, dtype=torch.float32, **options)
    trainer.train(work.rows, tmp_path / "checkpoint.pt", until=until)
    return trainer


@pytest.fixture(scope="module")
def folder(work, tokenizer, tmp_path_factory):
    """A trained tiny model's folder."""
    temporary = tmp_path_factory.mktemp("tiny")
    trainer = trained(work, temporary)
    return export(trainer.model, tokenizer, TINY, temporary / "model")


def same_weights(left, right):
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


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


def test_rows_hold_whole_documents(tokenizer):
    for ids, weights in islice(packed_rows(tokenizer, 129, seed=4), 50):
        assert len(ids) == len(weights) == 129
        used = max(index for index, weight in enumerate(weights) if weight) + 1
        assert ids[used - 1] == 0 and set(ids[used:]) <= {0} and not any(weights[used:])
        assert used > 60


def test_rows_on_disk_are_those_of_the_seed(work, tokenizer):
    with np.load(work.rows) as rows:
        assert rows["ids"].shape == rows["weights"].shape == (TINY.steps * TINY.batch_rows, TINY.context + 1)
        expected = next(packed_rows(tokenizer, TINY.context + 1, TINY.seed))
        assert rows["ids"][0].tolist() == expected[0] and rows["weights"][0].tolist() == expected[1]


def test_forward_pass_is_the_librarys_on_each_document_alone(work):
    model = build(TINY).eval()
    torch.nn.init.normal_(model.model.layers[0].self_attn.o_proj.weight, std=0.2)
    torch.nn.init.normal_(model.model.layers[1].mlp.down_proj.weight, std=0.2)
    with np.load(work.rows) as rows:
        ids = torch.from_numpy(rows["ids"][:1].astype(np.int64))
        weights = torch.from_numpy(rows["weights"][:1])
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
    first = Trainer(TINY, threads=threads, dtype=torch.float32)
    first.train(work.rows, path, until=8)
    second = Trainer(TINY, threads=threads, dtype=torch.float32)
    second.restore(path)
    assert second.step == 8
    second.train(work.rows, path)
    assert same_weights(second.model, whole.model)
    assert second.cpu_seconds > first.cpu_seconds > 0


def test_ctrl_c_leaves_a_checkpoint(work, tmp_path, monkeypatch):
    trainer = Trainer(TINY, threads=1, dtype=torch.float32)
    one_step = trainer._one_step

    def interrupted(*arguments):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return one_step(*arguments)

    monkeypatch.setattr(trainer, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(work.rows, tmp_path / "checkpoint.pt")
    again = Trainer(TINY, threads=1, dtype=torch.float32)
    again.restore(tmp_path / "checkpoint.pt")
    assert again.step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_recipe_is_refused(work, tmp_path):
    trained(work, tmp_path, until=1)
    with pytest.raises(OtherRecipe, match="seed"):
        Trainer(replace(TINY, seed=2)).restore(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch_rows": 5}, "multiple of micro_rows"), ({"heads": 3}, "heads"), ({"vocabulary": 100}, "vocabulary")],
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
    assert sha256(folder / "model.safetensors") == sha256(again / "model.safetensors")
    assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []


def test_evaluation_is_reproducible_and_makes_a_card(folder, tmp_path):
    first = evaluation.evaluate(folder, trials=3)
    second = evaluation.evaluate(folder, trials=3)
    assert first.pop("tokens_per_second") > 0 and second.pop("tokens_per_second") > 0
    assert first == second
    results = json.loads(json.dumps({**first, "tokens_per_second": 100.0}))
    run = {"cpu_seconds": 12.0, "wall_seconds": 65.0, "threads": 2, "machine": "2 threads", "final_loss": 4.0}
    text = card.write_card(folder, TINY, results, run).read_text()
    assert sha256(folder / "model.safetensors") in text
    assert text.count("Seed ") >= 10 and "{" not in text.replace("{", "", 0).split("## Limits")[1]
    (folder / "README.md").unlink()


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


def test_the_command_line_makes_a_model_from_start_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "Recipe", lambda **options: replace(TINY, **options))
    out = tmp_path / "model"
    options = [
        "--work-dir",
        str(tmp_path / "work"),
        "--out",
        str(out),
        "--trials",
        "2",
        "--steps",
        "4",
        "--threads",
        "1",
    ]
    assert command_line.main(["all", *options, "--dtype", "float32"]) == 0
    assert sha256(out / "model.safetensors") in (out / "README.md").read_text()
    capsys.readouterr()
    assert command_line.main(["data", *options]) == 0
    assert "already" in capsys.readouterr().out


def test_help_names_the_commands():
    output = subprocess.run(
        [sys.executable, "-m", "shared.pretraining.language", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    for command in ("data", "train", "export", "evaluate", "card", "text", "--work-dir", "--out"):
        assert command in output
