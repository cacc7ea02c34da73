"""The script's flags: what they mean, what they default to, and which values are refused before anything is loaded."""

import argparse
import math
import os
from pathlib import Path

from training_failure import InputError

DESCRIPTION = """Fine-tune a causal language model: all its weights, LoRA adapters, or a soft prompt.
In a SageMaker training job the channels train, validation, model and forgetting are found by themselves;
from a shell name them with --train, --validation, --model and --forgetting."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}. `python train.py --help` lists what there is.")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked. Raises InputError that names the flag, its value and what would be right."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.lora_alpha is None:
        options.lora_alpha = 2.0 * options.lora_rank
    _check_together(options)
    return options


def hyperparameters(options: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    """The flags as JSON can hold them, without the folders of this machine."""
    paths = {"train", "validation", "model", "forgetting", "model_dir", "output_data_dir", "checkpoint_dir"}
    return {name: value for name, value in vars(options).items() if name not in paths}


def _check_together(options: argparse.Namespace) -> None:
    if options.train is None and options.dataset_name is None:
        raise InputError(
            "there is no training data: give the job a channel named train, or a file or folder by --train, "
            "or a dataset of the Hugging Face Hub by --dataset_name"
        )
    if options.train is not None and options.dataset_name is not None:
        raise InputError("there is both a train channel and --dataset_name: leave one of them away")
    if options.model is None and options.model_name_or_path is None:
        raise InputError(
            "there is no model to start from: give the job a channel named model with the base weights, "
            "or name a folder or a model of the Hugging Face Hub by --model_name_or_path"
        )
    if options.early_stopping_patience and not options.eval_steps:
        raise InputError("--early_stopping_patience counts evaluations: say by --eval_steps how often there is one")
    if options.early_stopping_patience and options.checkpoint_dir is None:
        raise InputError(
            "--early_stopping_patience goes back to the best checkpoint, and this job has no checkpoint folder: "
            "give it a CheckpointConfig, or name a folder by --checkpoint_dir"
        )
    if options.fsdp and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise InputError("--fsdp divides the model among processes, and there is one: start the script by torchrun")
    if options.fsdp and options.method == "prompt":
        raise InputError("--fsdp goes with --method full or lora: a soft prompt is too small to be divided")
    if options.merge_adapters and options.method != "lora":
        raise InputError(f"--merge_adapters goes with --method lora, not {options.method}: nothing else can be merged")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train.py",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument_group("the model").add_argument
    add("--model_name_or_path", type=_name, help="Hub id or folder of the base; with a model channel: its name")
    add("--method", choices=("full", "lora", "prompt"), default="full", help="what is trained")
    add("--lora_rank", type=_whole(1, 1024), default=8, help="rank of the adapters")
    add("--lora_alpha", type=_number(0, above=True), help="scaling of the adapters; twice the rank if not given")
    add("--lora_dropout", type=_number(0, 0.9), default=0.0, help="dropout on the adapters' input")
    add("--lora_target_modules", type=_name, default="all-linear", help="names of layers, separated by commas")
    add("--merge_adapters", type=_truth, default=False, metavar="true|false", help="add the adapters to the weights")
    add("--adapter_name", type=_adapter_name, default="tuned", help="the adapter's folder below adapters/")
    add("--num_virtual_tokens", type=_whole(1, 1000), default=20, help="length of the soft prompt")

    add = parser.add_argument_group("the data").add_argument
    add("--dataset_name", type=_name, help="dataset of the Hugging Face Hub, instead of a train channel")
    add("--text_column", type=_name, help="column that holds the documents; found by itself if not given")
    add(
        "--completion_only",
        choices=("auto", "true", "false"),
        default="auto",
        help="learn only the completion of rows that have a prompt and a completion; auto: where all rows have both",
    )
    add("--validation_fraction", type=_number(0, 0.5, above=True), default=0.1, help="held out if no validation data")
    add("--max_train_documents", type=_whole(1), help="train on the first so many documents")
    add("--max_eval_tokens", type=_whole(100), default=100_000, help="evaluate on at most so many tokens")
    add("--block_size", type=_whole(8, 1 << 20), help="tokens in a training row; 256, or the model's length if shorter")

    add = parser.add_argument_group("the training").add_argument
    add("--num_train_epochs", type=_number(0, 10_000, above=True), default=3.0, help="passes over the data")
    add("--max_steps", type=_whole(-1), default=-1, help="optimizer steps; -1: as many as the epochs need")
    add("--learning_rate", type=_number(0, 10, above=True), help="highest rate; by method and model size if not given")
    add("--per_device_train_batch_size", type=_whole(1, 65_536), default=8, help="rows per step and process")
    add("--per_device_eval_batch_size", type=_whole(1, 65_536), default=16, help="rows at once in evaluations")
    add("--gradient_accumulation_steps", type=_whole(1, 65_536), default=1, help="batches per optimizer step")
    add("--gradient_checkpointing", type=_truth, default=False, metavar="true|false", help="less memory, more time")
    add("--lr_scheduler_type", choices=("cosine", "linear", "constant"), default="linear", help="how the rate falls")
    add("--warmup_ratio", type=_number(0, 1), default=0.05, help="share of the steps in which the rate rises")
    add("--weight_decay", type=_number(0, 1), default=0.01, help="of AdamW")
    add("--max_grad_norm", type=_number(0, above=True), default=1.0, help="longer gradients are shortened to this")
    add("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where the hardware has it")
    add("--fsdp", type=_truth, default=False, metavar="true|false", help="divide the model among torchrun's processes")
    add("--seed", type=_whole(0, 2**32 - 1), default=42, help="of the order, the split and the new weights")
    add("--logging_steps", type=_whole(1), default=10, help="steps between two lines of metrics")
    add("--eval_steps", type=_whole(0), default=0, help="steps between evaluations; 0: only before and after")
    add(
        "--early_stopping_patience",
        type=_whole(0),
        default=0,
        help="stop after so many evaluations without a better loss",
    )
    add("--save_steps", type=_whole(1), default=100, help="steps between checkpoints")
    add("--resume", type=_truth, default=True, metavar="true|false", help="go on from the newest whole checkpoint")

    add = parser.add_argument_group("files and folders").add_argument
    for channel, holds in (
        ("train", "documents"),
        ("validation", "held-out documents"),
        ("model", "base weights: a model's folder, or model.tar.gz in it"),
        ("forgetting", "jsonl with prompt, answer and task: what the base model could do"),
    ):
        default = os.environ.get(f"SM_CHANNEL_{channel.upper()}")
        add(f"--{channel}", type=_existing, default=default, metavar="PATH", help=holds)
    for name, default, holds in (
        ("model_dir", os.environ.get("SM_MODEL_DIR", "out/model"), "the result"),
        ("output_data_dir", os.environ.get("SM_OUTPUT_DATA_DIR", "out/data"), "metrics.json"),
        ("checkpoint_dir", _checkpoint_folder(), "checkpoints, to go on from after an interruption"),
    ):
        add(f"--{name}", type=Path, default=default and Path(default), metavar="FOLDER", help=holds)
    return parser


def _checkpoint_folder() -> Path | None:
    """Where SageMaker keeps checkpoints. A job without CheckpointConfig has no such folder: they would be lost."""
    model_dir = os.environ.get("SM_MODEL_DIR")
    if model_dir is None:
        return Path("out/checkpoints")
    folder = Path(model_dir).parent / "checkpoints"
    return folder if folder.is_dir() else None


def _whole(low: int, high: int | None = None):
    def whole(text: str) -> int:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if number != number or number != int(number) or number < low or (high is not None and number > high):
            limits = f"from {low} to {high}" if high is not None else f"of {low} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(number)

    return whole


def _number(low: float, high: float | None = None, above: bool = False):
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (above and value == low) or (high is not None and value > high):
            limits = f"{'above' if above else 'from'} {low}" + ("" if high is None else f", {high} at most")
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return number


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty: leave the flag away instead")
    return text.strip()


def _adapter_name(text: str) -> str:
    if not text or not all(letter.isalnum() or letter in "-_." for letter in text) or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder's name of letters, digits, '-', '_' and '.'")
    return text


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no file or folder {text}")
    return path
