"""Fine-tune a causal language model, in a SageMaker training job or from a shell: `python train.py --help`.

What it reads: the channels train, validation (or a part of train is held out), model (base weights) and forgetting
(prompts with answers: what the base model could do). What it writes: a model that deploys as it is into SM_MODEL_DIR,
metrics.json into SM_OUTPUT_DATA_DIR, checkpoints into /opt/ml/checkpoints, why it failed into /opt/ml/output/failure.

The log has lines that the job's metric definitions can read, one per logging step and one per evaluation:

    step=20 epoch=0.13 train_loss=2.1234 learning_rate=3.0000e-04 grad_norm=0.5120 train_samples_per_second=85.1 ...
    step=100 epoch=0.65 eval_loss=2.0100 perplexity=7.4633 bits_per_character=1.0100 accuracy=0.5500
    step=0 epoch=0.00 forgetting_accuracy=0.9500
    step=0 epoch=0.00 general_perplexity=9.1000 general_bits_per_character=1.2000

Step 0 is before the training. The last line but one has the forgetting questions, or (without that channel) a page of
general text. A sample is a row of --block_size tokens.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import training_arguments
from training_failure import InputError, report_failure

INTERRUPTED = 143  # exit code after SIGTERM, as a shell has it


def main() -> int:
    """Train as the command line says; returns the exit status."""
    # Threads that wait for each other sleep instead of spinning, which costs several times the processor time where
    # other processes run too. It must be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = training_arguments.parse()
        return _train(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        report_failure(error)
        return 1


def _train(options: argparse.Namespace) -> int:
    # Data first: what is wrong with them is known before torch is imported.
    started = time.monotonic()
    train_documents, validation_documents, data = _read_data(options)
    from forgetting import read_questions

    questions = read_questions(options.forgetting) if options.forgetting else None

    import base_model
    import model_folder
    import torch
    import transformers
    from blockwise_attention import use_blockwise_attention
    from processes import join

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    processes = join()
    torch.manual_seed(options.seed)
    name = _model_name(options)
    source = processes.of_host(lambda: base_model.find_weights(options))
    base = base_model.load_base_model(source, name, options)
    if options.learning_rate is None:
        options.learning_rate = base_model.learning_rate(options.method, base.parameters)
    bf16 = _bf16(options)
    if bf16 and not torch.cuda.is_available():
        use_blockwise_attention(base.model)
    train, validation = _pack(options, base.tokenizer, train_documents, validation_documents, data)
    model = base_model.add_method(base, options)
    trainable = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    if processes.first:
        _say(options, base, data, trainable, bf16, processes)

    from fine_tuning import FineTuner, Interruption

    interruption = Interruption()
    measurement = _Measurement(options, base, questions, validation, bf16, processes)
    trainer = FineTuner(
        model,
        options,
        train,
        validation,
        processes,
        bf16,
        settings=_settings(options, name, train),
        measure_before=measurement.before,
        interruption=interruption,
    )
    checkpoint = _checkpoint(trainer, options, processes)
    trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    stopped = any(processes.gather(interruption.asked))
    before = trainer.before
    after = {} if stopped else measurement.after(trainer)
    divided = trainer.accelerator.get_state_dict(trainer.model_wrapped) if options.fsdp else None
    if processes.first:
        saved = model_folder.save(trainer.model, divided, base, source, options)
        metrics = {
            "before": before["language"],
            "after": after.get("language"),
            "forgetting": {
                "kind": "prompts" if questions else "general_text",
                "before": before["forgetting"],
                "after": after.get("forgetting"),
            },
            "history": trainer.state.log_history,
            "data": data,
            "training": {
                "method": options.method,
                "steps": trainer.state.global_step,
                "epochs": trainer.state.epoch,
                "seconds": time.monotonic() - started,
                "training_seconds": trainer.clock.all_seconds,
                "cpu_seconds": time.process_time(),
                **_throughput(trainer),
                "trainable_parameters": trainable,
                "parameters": base.parameters,
                "bytes_saved": saved.bytes_trained,
                "precision": "bf16" if bf16 else "fp32",
                "world_size": processes.count,
                "resumed_from_step": checkpoint.step if checkpoint else None,
                "interrupted": stopped,
            },
            "hyperparameters": training_arguments.hyperparameters(options),
            "model": name,
        }
        model_folder.write_card(metrics, base, options.model_dir)
        _write_metrics(metrics, options.output_data_dir)
        print(f"Saved: {options.model_dir}, {saved.bytes_trained:,} bytes of trained weights", flush=True)
    processes.wait()
    if processes.count > 1:
        torch.distributed.destroy_process_group()
    return INTERRUPTED if stopped else 0


class _Measurement:
    """The metrics that are taken once before and once after the training."""

    def __init__(self, options, base, questions, validation, bf16, processes):
        self._options, self._base, self._questions = options, base, questions
        self._validation, self._bf16, self._processes = validation, bf16, processes

    def before(self, trainer) -> dict:
        """Of the base model: without the soft prompt, which has not learned anything yet."""
        if self._options.method == "prompt":
            with trainer.model.disable_adapter():
                return self._measure(trainer)
        return self._measure(trainer)

    def after(self, trainer) -> dict:
        """Of what was trained."""
        return self._measure(trainer)

    def _measure(self, trainer) -> dict:
        from fine_tuning import print_metrics
        from forgetting import answer_questions, general_perplexity

        language = trainer.evaluate()
        arguments = (self._options.per_device_eval_batch_size, self._bf16, self._processes)
        if self._questions:
            forgetting = answer_questions(trainer.model, self._base.tokenizer, self._questions, *arguments)
            shown = {"forgetting_accuracy": forgetting["accuracy"]}
        else:
            size = self._options.block_size
            forgetting = general_perplexity(trainer.model, self._base.tokenizer, size, *arguments)
            shown = {f"general_{name}": value for name, value in forgetting.items()}
        if self._processes.first:
            print_metrics(step=trainer.state.global_step, epoch=trainer.state.epoch or 0.0, **shown)
        return {"language": language, "forgetting": forgetting}


def _read_data(options: argparse.Namespace):
    """Documents to train on, held-out documents, and what is to be said of both."""
    from text_documents import read_documents, read_hub_dataset, split_documents

    if options.dataset_name:
        train, validation = read_hub_dataset(options.dataset_name, options.text_column)
    else:
        train, validation = read_documents(options.train, options.text_column), None
    if options.validation:
        validation = read_documents(options.validation, options.text_column)
    documents = train.documents
    if validation:
        held_out = validation.documents
        # What is held out must not be learned.
        known = {document.text for document in held_out}
        documents = [document for document in documents if document.text not in known]
        if not documents:
            raise InputError("every document to train on is in the validation data too: nothing is left")
    else:
        documents, held_out = split_documents(documents, options.validation_fraction, options.seed)
    also_held_out = len(train.documents) - len(documents) if validation else 0
    if options.max_train_documents:
        documents = documents[: options.max_train_documents]
    data = {
        "train": {
            "documents": len(documents),
            "characters": sum(len(document.text) for document in documents),
            "empty_documents": train.empty,
            "also_held_out": also_held_out,
            "ignored_files": train.ignored_files,
        },
        "validation": {
            "documents": len(held_out),
            "characters": sum(len(document.text) for document in held_out),
            "split_from_train": validation is None,
        },
    }
    return documents, held_out, data


def _pack(options: argparse.Namespace, tokenizer, train_documents, validation_documents, data: dict):
    from token_blocks import pack

    paired = all(document.prompt_length is not None for document in [*train_documents, *validation_documents])
    if options.completion_only == "true" and not paired:
        raise InputError("--completion_only true needs rows with a prompt and a completion, in every file")
    completion_only = paired and options.completion_only != "false"
    blocks = []
    for part, documents in (("train", train_documents), ("validation", validation_documents)):
        seed = options.seed if part == "train" else None
        packed = pack(documents, tokenizer, options.block_size, completion_only, seed)
        if not packed.predicted_tokens:
            raise InputError(f"the {part} data hold no token to predict: give more text")
        used = packed if part == "train" else packed.first(options.max_eval_tokens)
        data[part] |= {
            "tokens": packed.tokens,
            "blocks": len(used),
            "predicted_tokens": used.predicted_tokens,
            "predicted_characters": used.predicted_characters,
        }
        blocks.append(used)
    options.completion_only = str(completion_only).lower()
    return blocks


def _say(options, base, data: dict, trainable: int, bf16: bool, processes) -> None:
    print(f"Model: {base.name}, {base.parameters:,} parameters, of which {trainable:,} are trained ({options.method})")
    for part in ("train", "validation"):
        found = data[part]
        line = (
            f"Data, {part}: {found['documents']:,} documents, {found['characters']:,} characters, "
            f"{found['tokens']:,} tokens in {found['blocks']:,} rows of {options.block_size}; "
            f"the loss is taken over {found['predicted_tokens']:,} tokens"
        )
        print(line + (" (completions only)" if options.completion_only == "true" else ""))
    if skipped := data["train"]["empty_documents"]:
        print(f"Left out: {skipped:,} empty documents")
    if same := data["train"]["also_held_out"]:
        print(f"Left out: {same:,} documents that are in the validation data too")
    if ignored := data["train"]["ignored_files"]:
        print(f"Not read: {', '.join(ignored[:5])}{' ...' if len(ignored) > 5 else ''}")
    if data["validation"]["split_from_train"]:
        held_out = data["validation"]["characters"]
        print(f"There is no validation channel: {held_out:,} characters of the training data are held out")
    where = f"in {options.checkpoint_dir}" if options.checkpoint_dir else "none, there is no folder for them"
    print(
        f"Training: learning rate {options.learning_rate:g}, {'bf16' if bf16 else 'fp32'}, "
        f"{processes.count} process{'es' if processes.count > 1 else ''} with "
        f"{options.per_device_train_batch_size} rows a step each, checkpoints: {where}",
        flush=True,
    )


def _bf16(options: argparse.Namespace) -> bool:
    import torch

    if options.precision != "auto":
        return options.precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(name in flags.read_text() for name in ("avx512_bf16", "amx_bf16"))


def _settings(options: argparse.Namespace, name: str, train) -> dict:
    """What a checkpoint must have in common with the run that goes on from it."""
    free = {"resume", "logging_steps", "eval_steps", "save_steps", "max_eval_tokens", "per_device_eval_batch_size"}
    free |= {"merge_adapters", "adapter_name", "model_name_or_path"}
    kept = {key: value for key, value in training_arguments.hyperparameters(options).items() if key not in free}
    return kept | {"model": name, "tokens": train.tokens, "sum_of_tokens": int(train.input_ids.sum())}


def _checkpoint(trainer, options: argparse.Namespace, processes):
    import checkpoints

    folder = options.checkpoint_dir
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        if processes.first_of_host:
            checkpoints.remove_all(folder)
        processes.wait()
        return None
    checkpoint = checkpoints.newest(folder, trainer.settings, trainer.steps, processes)
    if checkpoint:
        trainer.before = checkpoint.before
        if processes.first:
            print(f"Resuming from step {checkpoint.step}: {checkpoint.folder}", flush=True)
    return checkpoint


def _model_name(options: argparse.Namespace) -> str:
    name = options.model_name_or_path
    if name is None:
        return "base model"
    return Path(name).resolve().name if Path(name).exists() else name


def _throughput(trainer) -> dict[str, float]:
    samples = trainer.clock.all_steps * trainer.rows_per_step
    seconds = max(trainer.clock.all_seconds, 1e-9)
    return {
        "tokens": samples * trainer.options.block_size,
        "train_samples_per_second": samples / seconds,
        "train_tokens_per_second": samples * trainer.options.block_size / seconds,
    }


def _write_metrics(metrics: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    os.replace(partial, folder / "metrics.json")


if __name__ == "__main__":
    sys.exit(main())
