"""The training itself: transformers' Trainer with this script's metrics, log, checkpoints and reaction to SIGTERM."""

import argparse
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict

import checkpoints
import torch
from language_metrics import measure
from processes import Processes, backend
from token_blocks import TokenBlocks
from training_failure import InputError
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

_FORMATS = {"epoch": "{:.2f}", "learning_rate": "{:.4e}", "step": "{:d}"}
_RATES = ("train_samples_per_second", "train_tokens_per_second")


def print_metrics(**metrics: float | int) -> None:
    """One line `name=value name=value ...`, as the job's metric definitions read it."""
    parts = (
        f"{name}={_FORMATS.get(name, '{:.1f}' if name in _RATES else '{:.4f}').format(value)}"
        for name, value in metrics.items()
    )
    print(" ".join(parts), flush=True)


def total_steps(options: argparse.Namespace, rows: int, processes: Processes) -> int:
    """How many optimizer steps the training has, as the Trainer counts them."""
    if options.max_steps > 0:
        return options.max_steps
    batches = math.ceil(math.ceil(rows / options.per_device_train_batch_size) / processes.count)
    return max(1, math.ceil(math.ceil(batches / options.gradient_accumulation_steps) * options.num_train_epochs))


class Interruption:
    """Notes that SIGTERM has come: SageMaker sends it before it stops a job or takes a spot instance away."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_) -> None:
        self.asked = True


class FineTuner(Trainer):
    """The Trainer, evaluating by `language_metrics` and logging one readable line at a time.

    `measure_before` is called when the model is where it is trained, before the first step; its result goes into every
    checkpoint together with `settings`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: argparse.Namespace,
        train: TokenBlocks,
        validation: TokenBlocks,
        processes: Processes,
        bf16: bool,
        settings: dict,
        measure_before: Callable[["FineTuner"], dict],
        interruption: Interruption,
    ):
        self.processes, self.bf16, self.validation = processes, bf16, validation
        self.options, self.settings, self.measure_before = options, settings, measure_before
        self.before: dict = {}
        self.clock = _Clock()
        self.rows_per_step = options.per_device_train_batch_size * options.gradient_accumulation_steps * processes.count
        self.steps = total_steps(options, len(train), processes)
        super().__init__(
            model=model,
            args=_arguments(options, self.steps, bf16, processes),
            train_dataset=train,
            eval_dataset=validation,
            data_collator=_stack,
            callbacks=[self.clock, _Progress(self, interruption)],
        )
        # The Trainer divides the loss by the tokens of all accumulated batches. Accelerate, told of the accumulation,
        # would divide once more by their number: https://github.com/huggingface/transformers/issues/40052
        self.accelerator.gradient_accumulation_steps = 1
        self.remove_callback(PrinterCallback)
        if options.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(options.early_stopping_patience))

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Metrics of the held-out text, logged. The arguments are the Trainer's own; they are not used."""
        found = asdict(
            measure(self.model, self.validation, self.options.per_device_eval_batch_size, self.bf16, self.processes)
        )
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the metrics in the history and print them. Raises InputError for a loss that is not a finite number."""
        if "train_runtime" in logs:  # the Trainer's summary at the end
            return
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise InputError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: the training has blown up. "
                    f"Try a --learning_rate smaller than {self.args.learning_rate:g}"
                )
            logs = {"train_loss": logs["loss"]} | {name: logs[name] for name in ("learning_rate", "grad_norm")}
            steps, seconds = self.clock.lap()
            samples = steps * self.rows_per_step / max(seconds, 1e-9)
            logs |= dict(zip(_RATES, (samples, samples * self.options.block_size), strict=True))
        if self.processes.first:
            print_metrics(step=self.state.global_step, epoch=self.state.epoch or 0.0, **logs)
        super().log(logs)


class _Clock(TrainerCallback):
    """The time spent in training steps, without evaluations and checkpoints."""

    def __init__(self):
        self.steps = self.all_steps = 0
        self.seconds = self.all_seconds = 0.0
        self._since = time.perf_counter()

    def on_step_begin(self, args, state, control, **_):
        self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        spent = time.perf_counter() - self._since
        self.steps, self.all_steps = self.steps + 1, self.all_steps + 1
        self.seconds, self.all_seconds = self.seconds + spent, self.all_seconds + spent

    def lap(self) -> tuple[int, float]:
        """Steps and seconds since the last call."""
        steps, seconds = self.steps, self.seconds
        self.steps, self.seconds = 0, 0.0
        return steps, seconds


class _Progress(TrainerCallback):
    """Measures before the first step, finishes checkpoints, and ends the training after SIGTERM."""

    def __init__(self, trainer: FineTuner, interruption: Interruption):
        self._trainer, self._interruption = trainer, interruption

    def on_train_begin(self, args, state, control, **_):
        if not self._trainer.before:
            self._trainer.before = self._trainer.measure_before(self._trainer)

    def on_step_end(self, args, state, control, **_):
        trainer = self._trainer
        if any(trainer.processes.gather(self._interruption.asked)):
            control.should_training_stop = True
            control.should_save = trainer.options.checkpoint_dir is not None
        elif state.global_step >= trainer.steps and not trainer.options.early_stopping_patience:
            control.should_save = False  # the model itself is saved next

    def on_save(self, args, state, control, **_):
        trainer = self._trainer
        trainer.processes.wait()
        if trainer.processes.first_of_host:
            folder = trainer.options.checkpoint_dir / f"checkpoint-{state.global_step}"
            checkpoints.seal(folder, trainer.settings, trainer.before)
        trainer.processes.wait()


def _arguments(options: argparse.Namespace, steps: int, bf16: bool, processes: Processes) -> TrainingArguments:
    evaluating, saving = options.eval_steps > 0, options.checkpoint_dir is not None
    best = options.early_stopping_patience > 0
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(options.checkpoint_dir or "out"),
        max_steps=steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler_type.replace("constant", "constant_with_warmup"),
        warmup_steps=round(options.warmup_ratio * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim="adamw_torch_fused",
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        gradient_checkpointing=options.gradient_checkpointing and not options.fsdp,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=bf16,
        use_cpu=not cuda,
        seed=options.seed,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluating else "no",
        eval_steps=options.eval_steps or None,
        # To go back to the best evaluation there must be a checkpoint of each.
        save_strategy="steps" if saving else "no",
        save_steps=options.eval_steps if best else options.save_steps,
        save_total_limit=2,
        save_on_each_node=True,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss" if best else None,
        greater_is_better=False if best else None,
        fsdp="full_shard auto_wrap" if options.fsdp else "",
        fsdp_config=_fsdp(options) if options.fsdp else None,
        ddp_backend=backend() if processes.count > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    )


def _fsdp(options: argparse.Namespace) -> dict:
    return {
        "version": 2,
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
        "activation_checkpointing": options.gradient_checkpointing,
    }


def _stack(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
