"""train.py: small but real trainings, what they write, and how they go on after a kill."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from random import Random

import pytest
import torch
from script_support import TextTrainings, save_tiny_model, sentences, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training_runs import metrics, outputs

ROOT = Path(__file__).resolve().parents[2]
CODE, LAB_1_CODE = ROOT / "lab2-llm-finetuning" / "code", ROOT / "lab1-llm-inference" / "code"
SMALL = ("--block_size", 32, "--per_device_train_batch_size", 4, "--logging_steps", 2, "--precision", "fp32")


@pytest.fixture(scope="module")
def trainings():
    server = TextTrainings()
    yield server
    server.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train" / "train.jsonl", [{"text": text} for text in sentences(120)])
    write_jsonl(folder / "validation" / "validation.jsonl", [{"text": text} for text in sentences(20, 500)])
    questions = [{"task": "birds", "prompt": "A bird is a", "answer": " bird"}]
    questions += [{"task": "cats", "prompt": f"{number} cats and", "answer": " a dog"} for number in range(4)]
    write_jsonl(folder / "forgetting" / "prompts.jsonl", questions)
    return folder


@pytest.fixture(scope="module")
def flags(base, data):
    return ("--model", base, "--train", data / "train", "--validation", data / "validation", *SMALL)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def full(trainings, flags, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "run"
    trainings.run(folder, *flags, "--max_steps", 12, "--eval_steps", 6, "--forgetting", data / "forgetting")
    return folder


def test_full_fine_tuning_learns_and_says_so(full):
    found = metrics(full)
    assert found["after"]["eval_loss"] < found["before"]["eval_loss"] - 0.3
    for when in ("before", "after"):
        assert found[when]["perplexity"] == pytest.approx(math.exp(found[when]["eval_loss"]))
        assert found[when]["bits_per_character"] > 0
        assert 0 <= found[when]["accuracy"] <= 1
    assert found["forgetting"]["kind"] == "prompts"
    assert found["forgetting"]["before"]["by_task"]["cats"]["prompts"] == 4
    assert found["training"]["steps"] == 12
    assert found["training"]["resumed_from_step"] is None
    assert [row["step"] for row in found["history"] if "train_loss" in row] == [1, 2, 4, 6, 8, 10, 12]


def test_the_log_is_what_metric_definitions_read(full):
    log = full.with_suffix(".log").read_text()
    losses = re.findall(r"train_loss=([0-9.eE+-]+)", log)
    assert len(losses) == 7
    assert float(losses[-1]) < float(losses[0])
    for name in (" perplexity", "eval_loss", "bits_per_character", "accuracy"):
        assert len(re.findall(rf"{name}=([0-9.eE+-]+)", log)) >= 3, name
    assert re.search(r"step=12 epoch=[0-9.]+ train_loss=.* train_samples_per_second=([0-9.eE+-]+)", log)
    assert re.search(r"120 documents, \d,\d+ characters, \d,\d+ tokens", log)
    assert "step=0 epoch=0.00 forgetting_accuracy=" in log


def test_the_saved_folder_is_a_model_with_its_handler(full, base):
    model = full / "model"
    assert (
        AutoTokenizer.from_pretrained(model)("a cat").input_ids
        == AutoTokenizer.from_pretrained(base)("a cat").input_ids
    )
    config = json.loads((model / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["use_cache"] is True
    assert (model / "generation_config.json").is_file()
    assert "| perplexity |" in (model / "README.md").read_text()
    code = {path.name for path in (model / "code").iterdir()}
    assert code == {path.name for path in LAB_1_CODE.glob("*.py")}, "the handler's modules, and none of the training's"


_SERVE = """
import json, sys
sys.path = [path for path in sys.path if "site-packages" in path or path.startswith(sys.base_prefix)]
sys.path.insert(0, sys.argv[1] + "/code")
import inference
served = inference.model_fn(sys.argv[1])
request = inference.input_fn(json.dumps(json.loads(sys.argv[2])).encode(), "application/json")
print(inference.output_fn(inference.predict_fn(request, served), "application/json"))
print(json.dumps([name for name in ("fused_layers", "fused_llama", "train") if name in sys.modules]))
"""


def serve_alone(model, request):
    """The answer of the handler in the model's folder, and which modules it has loaded."""
    command = [sys.executable, "-I", "-c", _SERVE, str(model), json.dumps(request)]
    done = subprocess.run(command, cwd=model, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


def test_the_saved_folder_answers_with_nothing_else_of_the_lab(full, base, tmp_path):
    """In a process that finds modules in the folder's code/ and in the installed packages only."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(full / "model", moved)
    request = {"inputs": "the cat", "parameters": {"max_new_tokens": 6, "do_sample": False}}
    answer, modules = serve_alone(moved, request)
    assert json.loads(modules) == ["fused_layers", "fused_llama"]
    tokenizer = AutoTokenizer.from_pretrained(moved)
    ids = tokenizer("the cat", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32)
    expected = model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert tokenizer.decode(expected, skip_special_tokens=True) in answer


def test_lora_is_kept_beside_the_untouched_base(trainings, flags, base, tmp_path):
    found = trainings.run(tmp_path / "run", *flags, "--method", "lora", "--max_steps", 8, "--adapter_name", "shop")
    assert found["after"]["eval_loss"] < found["before"]["eval_loss"]
    assert found["training"]["trainable_parameters"] < found["training"]["parameters"] / 2
    model = tmp_path / "run" / "model"
    assert same(weights(base), weights(model))
    adapter = model / "adapters" / "shop"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 8
    assert found["training"]["bytes_saved"] == (adapter / "adapter_model.safetensors").stat().st_size


def test_merged_lora_is_one_model_that_predicts_as_measured(trainings, flags, base, tmp_path):
    arguments = ("--method", "lora", "--max_steps", 8, "--merge_adapters", "true")
    found = trainings.run(tmp_path / "run", *flags, *arguments)
    model = tmp_path / "run" / "model"
    assert not (model / "adapters").exists()
    assert not same(weights(base), weights(model))
    again = trainings.run(tmp_path / "again", "--model", model, *flags[2:], "--max_steps", 1, "--learning_rate", 1e-9)
    assert again["before"]["eval_loss"] == pytest.approx(found["after"]["eval_loss"], abs=5e-3)


def test_soft_prompt_trains_a_few_numbers_and_compares_with_the_base(trainings, flags, full, tmp_path):
    arguments = ("--method", "prompt", "--num_virtual_tokens", 4, "--max_steps", 8)
    found = trainings.run(tmp_path / "run", *flags, *arguments)
    assert found["training"]["trainable_parameters"] == 4 * 32
    assert found["before"] == pytest.approx(metrics(full)["before"])
    import peft

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "run" / "model" / "soft_prompt")
    assert loaded.peft_config["default"].num_virtual_tokens == 4


def test_completions_only_where_rows_have_both_parts(trainings, base, tmp_path):
    rows = [{"prompt": f"Number {index}:", "completion": " the cat sat."} for index in range(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    arguments = ("--model", base, "--train", path, *SMALL, "--max_steps", 8)
    found = trainings.run(tmp_path / "completions", *arguments)
    whole = trainings.run(tmp_path / "whole", *arguments, "--completion_only", "false")
    characters = len(" the cat sat.") * found["data"]["validation"]["documents"]
    assert found["data"]["validation"]["predicted_characters"] == characters
    assert found["hyperparameters"]["completion_only"] == "true"
    assert whole["data"]["validation"]["predicted_characters"] > characters
    assert found["data"]["train"]["tokens"] == whole["data"]["train"]["tokens"]


def test_in_a_job_channels_and_folders_come_from_the_environment(trainings, base, data, tmp_path):
    archive = tmp_path / "model" / "model.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for file in base.iterdir():
            tar.add(file, file.name)
    job = tmp_path / "ml"
    (job / "model").mkdir(parents=True)
    (job / "checkpoints").mkdir()
    environment = {
        "SM_CHANNEL_TRAIN": str(data / "train"),
        "SM_CHANNEL_MODEL": str(archive.parent),
        "SM_MODEL_DIR": str(job / "model"),
        "SM_OUTPUT_DATA_DIR": str(job / "output" / "data"),
    }
    running = trainings.start(tmp_path / "log", *SMALL, "--max_steps", "4", "--save_steps", "2", **environment)
    assert running.wait() == 0, running.log
    assert (job / "model" / "model.safetensors").is_file()
    found = json.loads((job / "output" / "data" / "metrics.json").read_text())
    assert found["data"]["validation"]["split_from_train"] is True
    assert found["forgetting"]["kind"] == "general_text"
    assert [path.name for path in (job / "checkpoints").iterdir()] == ["checkpoint-2"]
    # Without a checkpoint folder there are none.
    other = {**environment, "SM_MODEL_DIR": str(tmp_path / "other" / "model")}
    running = trainings.start(tmp_path / "other.log", *SMALL, "--max_steps", "2", "--save_steps", "1", **other)
    assert running.wait() == 0, running.log
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(trainings, flags, tmp_path, method):
    arguments = (*flags, "--method", method, "--max_steps", 24, "--save_steps", 3, "--lora_dropout", 0.1)
    expected = trainings.run(tmp_path / "whole", *arguments)
    rng = Random(method)
    folder = tmp_path / "killed"
    kills = 0
    for attempt in range(20):
        running = trainings.start(tmp_path / f"{attempt}.log", *arguments, *outputs(folder))
        if kills < 4:
            # From the first step on, anywhere: in a step, in a checkpoint, in the final save.
            deadline = time.monotonic() + 60
            while "train_loss" not in running.log and time.monotonic() < deadline and _alive(running.process):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.25))
            os.kill(running.process, signal.SIGKILL)
        status = running.wait()
        if status == 0:
            break
        assert status == -signal.SIGKILL, running.log
        kills += 1
    assert kills >= 1
    found = metrics(folder)
    assert found["after"] == pytest.approx(expected["after"], rel=1e-6)
    assert found["before"] == pytest.approx(expected["before"])
    steps = [row["step"] for row in found["history"] if "train_loss" in row]
    assert steps[-1] == 24
    assert steps == sorted(set(steps))


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_unfinished_checkpoint_is_not_gone_on_from(trainings, flags, tmp_path):
    folder = tmp_path / "run"
    arguments = (*flags, "--max_steps", 8, "--save_steps", 2)
    expected = trainings.run(folder, *arguments)
    newest, older = (folder / "checkpoints" / name for name in ("checkpoint-6", "checkpoint-4"))
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    again = trainings.run(folder, *arguments)
    assert older.is_dir()
    assert again["training"]["resumed_from_step"] == 4
    assert again["after"] == pytest.approx(expected["after"], rel=1e-6)


def test_checkpoints_of_another_run_are_refused(trainings, flags, tmp_path):
    arguments = (*flags, "--max_steps", 4, "--save_steps", 2)
    trainings.run(tmp_path / "run", *arguments)
    other = (*arguments, "--learning_rate", "0.01", *outputs(tmp_path / "run"))
    running = trainings.start(tmp_path / "log", *other)
    assert running.wait() == 1
    assert "is the checkpoint of another run (learning_rate was 0.002, is 0.01)" in running.log
    assert trainings.run(tmp_path / "run", *other, "--resume", "false")["training"]["steps"] == 4


def test_sigterm_leaves_a_checkpoint_and_a_model(trainings, flags, tmp_path):
    folder = tmp_path / "run"
    arguments = (*flags, "--max_steps", 100000, *outputs(folder))
    running = trainings.start(tmp_path / "log", *arguments)
    while "step=2 " not in running.log and _alive(running.process):
        time.sleep(0.01)
    os.kill(running.process, signal.SIGTERM)
    assert running.wait() == 143, running.log
    found = metrics(folder)
    assert found["training"]["interrupted"] is True
    assert found["after"] is None
    assert (folder / "model" / "model.safetensors").is_file()
    step = found["training"]["steps"]
    assert (folder / "checkpoints" / f"checkpoint-{step}" / "whole.json").is_file()


def test_early_stopping_goes_back_to_the_best(trainings, flags, tmp_path):
    arguments = ("--max_steps", 60, "--learning_rate", 0.5, "--eval_steps", 2, "--early_stopping_patience", 2)
    found = trainings.run(tmp_path / "run", *flags, *arguments, "--lr_scheduler_type", "constant")
    losses = [row["eval_loss"] for row in found["history"] if "eval_loss" in row and row["step"]]
    assert found["training"]["steps"] < 60
    assert found["after"]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_a_training_that_blows_up_fails_with_advice(trainings, flags, tmp_path):
    failure = tmp_path / "failure"
    arguments = (*flags, "--max_steps", 30, "--learning_rate", 10, "--max_grad_norm", 1e9, "--warmup_ratio", 0)
    arguments += ("--lr_scheduler_type", "constant", "--weight_decay", 1)
    running = trainings.start(tmp_path / "log", *arguments, *outputs(tmp_path / "run"), SM_OUTPUT_FAILURE=str(failure))
    status = running.wait()
    if status:  # it may also merely be bad
        assert "Try a --learning_rate smaller than 10" in failure.read_text()
        assert status == 1


def _no_model(folder):
    (folder / "notes.md").write_text("nothing here")


def _broken_archive(folder):
    (folder / "model.tar.gz").write_bytes(b"not an archive")


def _no_weights(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_no_model, "holds no model: there is no config.json in it"),
        (_broken_archive, "model.tar.gz in the model channel cannot be unpacked"),
        (_no_weights, "cannot be loaded"),
    ],
)
def test_a_model_channel_without_a_model_fails_with_a_reason(trainings, data, tmp_path, break_it, message):
    (tmp_path / "model").mkdir()
    break_it(tmp_path / "model")
    failure = tmp_path / "failure"
    arguments = ("--model", tmp_path / "model", "--train", data / "train", *outputs(tmp_path / "run"))
    running = trainings.start(tmp_path / "log", *arguments, SM_OUTPUT_FAILURE=str(failure))
    assert running.wait() == 1
    assert message in failure.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--block_size", 500), "reads 128 tokens at most"),
        (("--method", "lora", "--lora_target_modules", "nowhere"), "does not fit this model"),
        (("--completion_only", "true"), "needs rows with a prompt and a completion"),
    ],
)
def test_what_does_not_fit_the_model_or_the_data_is_refused(trainings, flags, tmp_path, arguments, message):
    running = trainings.start(tmp_path / "log", *flags, *arguments, *outputs(tmp_path / "run"))
    assert running.wait() == 1
    last = running.log.splitlines()[-1]
    assert last.startswith("ERROR: ")
    assert message in last


def test_two_processes_are_one_with_twice_the_batch(trainings, base, data, tmp_path):
    flags = ("--model", base, "--train", data / "train", "--validation", data / "validation", "--block_size", 32)
    flags += ("--max_steps", 8, "--precision", "fp32", "--save_steps", 4)
    one = trainings.run(tmp_path / "one", *flags, "--per_device_train_batch_size", 8)
    two = trainings.together(tmp_path / "two", 2, *flags, "--per_device_train_batch_size", 4)
    assert two["training"]["world_size"] == 2
    assert two["before"] == pytest.approx(one["before"], rel=1e-5)
    assert two["after"]["eval_loss"] == pytest.approx(one["after"]["eval_loss"], rel=2e-3)
    small = trainings.run(
        tmp_path / "small", *flags, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2
    )
    assert small["after"]["eval_loss"] == pytest.approx(one["after"]["eval_loss"], rel=2e-3)
    # The first gradient is of the same weights and rows. Adam would hide it if it were a multiple of the right one.
    norms = [run["history"][1]["grad_norm"] for run in (one, two, small)]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def test_two_hosts_go_on_together_from_the_newest_checkpoint_that_both_have(trainings, flags, tmp_path):
    arguments = (*flags, "--max_steps", 8, "--save_steps", 2)
    expected = trainings.together(tmp_path / "hosts", 2, *arguments, hosts=2)
    first, second = (tmp_path / "hosts" / f"host-{number}" for number in (0, 1))
    assert not (second / "model").exists()
    assert (second / "checkpoints" / "checkpoint-6" / "whole.json").is_file()
    (second / "checkpoints" / "checkpoint-6" / "whole.json").unlink()
    again = trainings.together(tmp_path / "hosts", 2, *arguments, hosts=2)
    assert again["training"]["resumed_from_step"] == 4
    assert again["after"] == pytest.approx(expected["after"], rel=1e-5)
    assert (first / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_divided_between_processes_learns_the_same(trainings, flags, tmp_path, method):
    arguments = (*flags, "--max_steps", 6, "--save_steps", 2, "--method", method)
    whole = trainings.together(tmp_path / "whole", 2, *arguments)
    divided = trainings.together(tmp_path / "divided", 2, *arguments, "--fsdp", "true")
    assert divided["after"]["eval_loss"] == pytest.approx(whole["after"]["eval_loss"], rel=2e-3)
    model = tmp_path / "divided" / "host-0" / "model"
    assert AutoModelForCausalLM.from_pretrained(model).num_parameters() == whole["training"]["parameters"]
    again = trainings.together(tmp_path / "divided", 2, *arguments, "--fsdp", "true")
    assert again["training"]["resumed_from_step"] == 4
    assert again["after"]["eval_loss"] == pytest.approx(divided["after"]["eval_loss"], rel=1e-4)


def shell_environment():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
    return environment | {"OMP_NUM_THREADS": "1"}


def test_as_a_program_from_a_shell(base, data, tmp_path):
    command = [
        sys.executable,
        str(CODE / "train.py"),
        "--train",
        str(data / "train"),
        "--model_name_or_path",
        str(base),
    ]
    command += ["--max_steps", "2", "--block_size", "32", "--gradient_checkpointing", "true"]
    done = subprocess.run(command, cwd=tmp_path, env=shell_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert metrics(tmp_path / "out")["training"]["steps"] == 2


def test_by_torchrun(base, data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(CODE / "train.py"), "--train", str(data / "train"), "--model", str(base)]
    command += ["--max_steps", "2", "--block_size", "32"]
    done = subprocess.run(command, cwd=tmp_path, env=shell_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step=2 epoch=") == 2, "one process alone writes the log"
    assert metrics(tmp_path / "out")["training"]["world_size"] == 2
