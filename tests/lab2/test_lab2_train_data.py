"""What train.py reads, what it makes of it, and what it refuses, before anything heavy is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from script_support import save_tiny_model, sentences, write_jsonl
from transformers import AutoTokenizer

CODE = Path(__file__).resolve().parents[2] / "lab2-llm-finetuning" / "code"
sys.path.append(str(CODE))

import training_arguments  # noqa: E402
from text_documents import Document, read_documents, split_documents  # noqa: E402
from token_blocks import IGNORED, pack  # noqa: E402
from training_failure import InputError  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(save_tiny_model(tmp_path_factory.mktemp("model")))


def texts(path, **arguments):
    return [document.text for document in read_documents(path, **arguments).documents]


def test_all_formats_of_a_folder_in_order(tmp_path):
    (tmp_path / "a.txt").write_text("One\nfile, one document.", encoding="utf-8-sig")
    write_jsonl(tmp_path / "b.jsonl", [{"text": "Zwei ü"}, {"text": ""}, {"text": None}])
    (tmp_path / "c.csv").write_text('id,text\n1,"three, with\na line"\n')
    (tmp_path / "d.tsv").write_text("id\ttext\n1\tfour\n")
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "text": ["five"]}), tmp_path / "e.parquet")
    (tmp_path / "README.md").write_text("not data")
    found = read_documents(tmp_path)
    assert [document.text for document in found.documents] == [
        *("One\nfile, one document.", "Zwei ü", "three, with\na line", "four", "five"),
    ]
    assert found.empty == 2
    assert found.ignored_files == ["README.md"]


def test_columns_named_found_and_paired(tmp_path):
    rows = [{"id": "1", "body": "text", "title": "head"}]
    assert texts(write_jsonl(tmp_path / "a.jsonl", rows)) == ["text"]
    assert texts(tmp_path / "a.jsonl", text_column="title") == ["head"]
    assert texts(write_jsonl(tmp_path / "b.jsonl", [{"n": 1, "words": "only"}])) == ["only"]
    paired = [{"prompt": "Q:", "completion": " A", "text": "Q: A"}]
    assert read_documents(write_jsonl(tmp_path / "c.jsonl", paired)).documents == [Document("Q: A", 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"  \n", "is empty"),
        ("a.txt", b"ok\nabc\0def", "zero byte in line 2"),
        ("a.txt", "grün\n".encode("latin1"), "not UTF-8 (byte 0xfc in line 1): convert it"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b'"text"\n', "line 1 is no JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "row 1: column 'text' holds int, not text"),
        (
            "a.jsonl",
            b'{"a": "x", "b": "y"}\n',
            "several columns of text among a, b: name the right one by --text_column",
        ),
        ("a.jsonl", b'{"a": 1}\n', "no column of text among a"),
        ("a.jsonl", b'{"text": ""}\n', "all documents are empty"),
        ("a.csv", b'text\n"open\n', "is not csv"),
        ("a.csv", b"text\n", "has no rows"),
        ("a.parquet", b"PAR1 not really", "is not a parquet file"),
        ("a.pdf", b"x", "no file to train on"),
    ],
)
def test_broken_data_are_refused_with_a_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_documents(tmp_path)
    assert message in str(refused.value)


def test_a_split_is_seeded_and_never_overlaps():
    documents = [Document(text) for text in sentences(50) * 2]
    train, held_out = split_documents(documents, 0.1, seed=1)
    assert len({document.text for document in held_out}) == 5
    assert not {document.text for document in train} & {document.text for document in held_out}
    assert len(train) + len(held_out) == 100
    assert split_documents(documents, 0.1, seed=1) == (train, held_out)
    assert split_documents(documents, 0.1, seed=2) != (train, held_out)


@pytest.mark.parametrize("text", ["".join(f"line {number}\n" for number in range(200)), "word " * 200])
def test_of_one_long_document_a_stretch_is_held_out(text):
    train, held_out = split_documents([Document(text)], 0.1, seed=3)
    assert len(held_out) == 1
    assert sum(len(document.text) for document in [*train, *held_out]) == len(text)
    assert len(held_out[0].text) == pytest.approx(len(text) / 10, rel=0.1)
    assert [document.ends for document in [*train, *held_out]].count(True) == 1
    with pytest.raises(InputError, match="too little text to hold some out"):
        split_documents([Document("three short words")], 0.1, seed=3)


@pytest.mark.parametrize("block_size", [8, 33, 500])
def test_packing_loses_no_token_and_predicts_each_once(tokenizer, block_size):
    documents = [Document(text) for text in ["grün und 🙂", *sentences(20)]]
    blocks = pack(documents, tokenizer, block_size, completion_only=False)
    end = tokenizer.eos_token_id
    stream = [token for document in documents for token in [*tokenizer(document.text).input_ids, end]]
    assert blocks.tokens == len(stream)
    labels = blocks.labels[:, 1:]
    assert labels[labels != IGNORED].tolist() == stream[1:]
    assert blocks.predicted_tokens == len(stream) - 1
    assert torch.equal(blocks.input_ids[1:, 0], blocks.input_ids[:-1, -1])
    first = len(tokenizer.decode(stream[0]))
    assert blocks.predicted_characters == sum(len(document.text) for document in documents) - first
    shuffled = pack(documents, tokenizer, block_size, completion_only=False, shuffle_seed=1)
    assert sorted(shuffled.labels[shuffled.labels != IGNORED].tolist()) != []
    assert shuffled.tokens == blocks.tokens


def test_only_completions_are_learned_when_asked(tokenizer):
    document = Document("Number 1: the cat sat.", len("Number 1:"))
    blocks = pack([document] * 3, tokenizer, 16, completion_only=True)
    learned = tokenizer.decode(blocks.labels[blocks.labels != IGNORED])
    assert learned == (" the cat sat." + tokenizer.eos_token) * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_steps", "many"], "--max_steps: 'many' is not a whole number of -1 or more"),
        (["--learning_rate", "0"], "is not a number above 0"),
        (["--learning_rate", "nan"], "'nan' is not a number"),
        (["--method", "magic"], "--method: invalid choice: 'magic'"),
        (["--block_size", "2.5"], "'2.5' is not a whole number from 8"),
        (["--lora_rank", "0"], "from 1 to 1024"),
        (["--merge_adapters", "yes"], "'yes' is neither true nor false"),
        (["--merge_adapters", "true"], "nothing else can be merged"),
        (["--adapter_name", "../x"], "is not a folder's name"),
        (["--early_stopping_patience", "2"], "say by --eval_steps"),
        (["--fsdp", "true"], "start the script by torchrun"),
        (["--lerning_rate", "1"], "unrecognized arguments: --lerning_rate"),
        (["--train", "/no/such/folder"], "there is no file or folder /no/such/folder"),
        (["--dataset_name", "some/thing"], "both a train channel and --dataset_name"),
    ],
)
def test_every_value_is_checked(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(tmp_path))
    monkeypatch.setenv("SM_CHANNEL_MODEL", str(tmp_path))
    with pytest.raises(InputError) as refused:
        training_arguments.parse(arguments)
    assert message in str(refused.value)


def test_numbers_as_sagemaker_hands_them_over(tmp_path, monkeypatch):
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(tmp_path))
    options = training_arguments.parse(["--max_steps", "1e2", "--model_name_or_path", "distilbert/distilgpt2"])
    assert options.max_steps == 100
    assert options.lora_alpha == 16


def test_without_data_or_model_it_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv("SM_CHANNEL_TRAIN", raising=False)
    with pytest.raises(InputError, match="give the job a channel named train"):
        training_arguments.parse([])
    with pytest.raises(InputError, match="channel named model"):
        training_arguments.parse(["--train", str(tmp_path)])


def test_broken_data_end_the_job_before_torch_is_imported(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data.txt").write_bytes(b"\xff\xfe\x00")
    environment = os.environ | {
        "SM_CHANNEL_TRAIN": str(tmp_path / "train"),
        "SM_CHANNEL_MODEL": str(tmp_path),
        "SM_OUTPUT_DIR": str(tmp_path),
    }
    spied = "import sys, train; code = train.main(); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", spied], cwd=CODE, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    reason = (tmp_path / "failure").read_text()
    assert reason == "data.txt is a binary file or UTF-16 text (a zero byte in line 1): give UTF-8 text"
    assert done.stderr.splitlines()[-1] == f"ERROR: {reason}"
