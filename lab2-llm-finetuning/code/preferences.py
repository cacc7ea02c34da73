"""Direct preference optimization (DPO) of a causal language model, by trl's DPOTrainer; in a training job or alone.

Input is pairs of answers to a prompt, of which one was preferred: files *.jsonl with the columns `prompt`, `chosen` and
`rejected`. A SageMaker job's environment names the channels: SM_CHANNEL_TRAIN, SM_CHANNEL_VALIDATION (optional),
SM_CHANNEL_MODEL (the model to begin with; else --model_name_or_path). The model goes to SM_MODEL_DIR, metrics.json to
SM_OUTPUT_DATA_DIR. Every logging step prints a line such as

    step=20 epoch=0.80 train_loss=0.5121 preference_accuracy=0.762 reward_margin=0.913 learning_rate=1.2e-04

and every evaluation `step=50 epoch=2.00 eval_loss=0.5533 eval_accuracy=0.705 eval_margin=0.744`.
Method: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from base_model import find_weights
from training_failure import InputError, report_failure

COLUMNS = ("prompt", "chosen", "rejected")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked; the environment of a training job gives the defaults of the folders."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    folder = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("--train", default=os.environ.get("SM_CHANNEL_TRAIN"), help="pairs to learn from", **folder)
    parser.add_argument("--validation", default=os.environ.get("SM_CHANNEL_VALIDATION"), help="other pairs", **folder)
    parser.add_argument("--model", default=os.environ.get("SM_CHANNEL_MODEL"), help="the model to begin with", **folder)
    parser.add_argument("--model_name_or_path", help="the same as a Hub id, where there is no --model")
    parser.add_argument("--model_dir", default=os.environ.get("SM_MODEL_DIR", "out/model"), **folder)
    parser.add_argument("--output_data_dir", default=os.environ.get("SM_OUTPUT_DATA_DIR", "out/data"), **folder)
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="train all weights, or an adapter")
    parser.add_argument("--lora_rank", type=int, default=16)
    parser.add_argument("--beta", type=float, default=0.1, help="how dear it is to move away from the first model")
    parser.add_argument("--label_smoothing", type=float, default=0.0, help="share of labels taken for wrong, below 0.5")
    parser.add_argument("--num_train_epochs", type=float, default=2.0)
    parser.add_argument("--max_steps", type=int, default=-1, help="ends training earlier, if positive")
    parser.add_argument("--learning_rate", type=float, help="default: 3e-4 for lora, 4e-5 for full")
    parser.add_argument("--per_device_train_batch_size", type=int, default=16, help="pairs in a step")
    parser.add_argument("--max_length", type=int, default=256, help="tokens of prompt and answer; the rest is cut off")
    parser.add_argument("--logging_steps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.learning_rate is None:
        options.learning_rate = 3e-4 if options.method == "lora" else 4e-5
    positive = ("lora_rank", "beta", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "max_length",
                "logging_steps")  # fmt: skip
    for name in positive:
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be greater than 0, not {getattr(options, name)}")
    if not 0 <= options.label_smoothing < 0.5:
        parser.error(f"--label_smoothing must be from 0 to below 0.5, not {options.label_smoothing}")
    if options.train is None:
        parser.error("--train: where are the pairs? In a training job it is the channel `train`")
    if options.model is None and options.model_name_or_path is None:
        parser.error("--model or --model_name_or_path: which model? In a training job it is the channel `model`")
    return options


def read_pairs(folder: Path) -> list[dict[str, str]]:
    """The pairs in a folder's *.jsonl files, or in one file.

    Raises InputError, with file and line, for what is no pair of two different answers.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [folder]
    pairs = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise InputError(f"{file} does not exist") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not text in UTF-8 ({error}); save it as UTF-8") from None
        pairs += [_pair(line, f"{file.name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise InputError(
            f"there are no pairs in {folder}: it needs a file *.jsonl with the columns {', '.join(COLUMNS)}"
        )
    return pairs


def _pair(line: str, where: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error}); write one object a line") from None
    missing = [name for name in COLUMNS if not (isinstance(row, dict) and isinstance(row.get(name), str))]
    if missing:
        raise InputError(f"{where}: no text in the column(s) {', '.join(missing)}; a pair has {', '.join(COLUMNS)}")
    if row["chosen"] == row["rejected"]:
        raise InputError(f"{where}: chosen and rejected are the same text; leave the pair out")
    return {name: row[name] for name in COLUMNS}


def line_printer(start: float):
    """A Trainer callback that prints each log entry as one line of name=value, which metric definitions can read."""
    from transformers import TrainerCallback

    names = {
        "loss": "train_loss", "rewards/accuracies": "preference_accuracy", "rewards/margins": "reward_margin",
        "learning_rate": "learning_rate", "eval_loss": "eval_loss", "eval_rewards/accuracies": "eval_accuracy",
        "eval_rewards/margins": "eval_margin",
    }  # fmt: skip

    class Lines(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            shown = [f"{name}={logs[key]:.4g}" for key, name in names.items() if key in logs]
            if shown and "train_runtime" not in logs:  # that entry only sums up
                seconds = time.monotonic() - start
                print(
                    f"step={state.global_step} epoch={state.epoch or 0:.2f}",
                    *shown,
                    f"seconds={seconds:.1f}",
                    flush=True,
                )

    return Lines()


def make_trainer(options: argparse.Namespace, model_id: str, pairs, held_out, start: float):
    """A DPOTrainer over the pairs. The reference model is a frozen copy, or with LoRA the model without its adapter."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from transformers.utils import logging
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()  # a log is no place for them
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_id)
    model = AutoModelForCausalLM.from_pretrained(model_id, dtype=torch.float32)
    gpu = torch.cuda.is_available()
    config = DPOConfig(
        output_dir=str(options.output_data_dir / "trainer"),
        beta=options.beta,
        label_smoothing=options.label_smoothing,
        num_train_epochs=options.num_train_epochs,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=5,
        per_device_train_batch_size=options.per_device_train_batch_size,
        per_device_eval_batch_size=2 * options.per_device_train_batch_size,
        max_length=options.max_length,
        precompute_ref_log_probs=True,  # the reference never changes: one pass before training instead of one a step
        gradient_checkpointing=gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        logging_steps=options.logging_steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        seed=options.seed,
    )
    adapter = LoraConfig(r=options.lora_rank, lora_alpha=2 * options.lora_rank, target_modules="all-linear")
    trainer = DPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(pairs),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        peft_config=adapter if options.method == "lora" else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(line_printer(start))
    return trainer, tokenizer


def save(trainer, tokenizer, model_id: str, folder: Path) -> None:
    """The tuned model as a folder that `from_pretrained` reads, in the number format of the model it began with."""
    import torch
    from transformers import AutoConfig

    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.to(getattr(AutoConfig.from_pretrained(model_id), "dtype", None) or torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train, measure before and after on the validation pairs, save. Returns what metrics.json holds."""
    start = time.monotonic()
    pairs = read_pairs(options.train)
    held_out = read_pairs(options.validation) if options.validation else []
    model_id = find_weights(options)
    print(f"{len(pairs)} pairs to learn from, {len(held_out)} to test on; model {model_id}", flush=True)
    os.environ.setdefault("TQDM_DISABLE", "1")  # read at the imports below: a log is no place for progress bars
    from transformers import set_seed

    set_seed(options.seed)
    trainer, tokenizer = make_trainer(options, model_id, pairs, held_out, start)
    names = {"eval_loss": "loss", "eval_rewards/accuracies": "accuracy", "eval_rewards/margins": "margin"}

    def measured() -> dict[str, float]:
        values = trainer.evaluate() if held_out else {}
        return {name: values[key] for key, name in names.items() if key in values}

    metrics = {"before": measured()}
    trainer.train()
    metrics["after"] = measured()
    save(trainer, tokenizer, model_id, options.model_dir)
    metrics["seconds"] = round(time.monotonic() - start, 1)
    options.output_data_dir.mkdir(parents=True, exist_ok=True)
    (options.output_data_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Run, and on a failure leave its reason where SageMaker looks for it. Returns the exit status."""
    options = parse_arguments(arguments)
    try:
        print(json.dumps(run(options)))
    except Exception as error:  # whatever it is, it belongs into the job's FailureReason
        report_failure(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
