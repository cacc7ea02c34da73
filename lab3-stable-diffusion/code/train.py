"""Fine-tune a latent diffusion model, in a SageMaker training job or from a shell: `python train.py --help`.

What it reads: the channels train (pictures with metadata.jsonl), class (pictures of what is to be kept), model (the
base pipeline) and evaluation (prompts). What it writes: a model that deploys as it is into SM_MODEL_DIR; metrics.json,
sample pictures of the way, and one picture of each evaluation prompt into SM_OUTPUT_DATA_DIR; checkpoints into
/opt/ml/checkpoints; why it failed into /opt/ml/output/failure.

The log has lines that the job's metric definitions can read:

    step=20 epoch=2.00 train_loss=0.1234 learning_rate=1.0000e-03 grad_norm=0.5120 train_samples_per_second=12.3

With class pictures they also have prior_loss.
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
        report_failure(_explained(error))
        return 1


def _train(options: argparse.Namespace) -> int:
    # Pictures first: what is wrong with them is known before torch is imported.
    started, cpu_before = time.monotonic(), time.process_time()
    from training_pictures import WORD_PROMPTS, read_evaluation, read_pictures

    prompts = [options.instance_prompt] if options.instance_prompt else None
    if options.method == "textual_inversion" and not prompts and not (options.train / "metadata.jsonl").is_file():
        prompts = [prompt.format(options.placeholder_token) for prompt in WORD_PROMPTS]
    pictures, unused = read_pictures(options.train, prompts=prompts, channel="train")
    _check_word(options, pictures)
    class_pictures = None
    if options.class_pictures:
        class_pictures, _ = read_pictures(options.class_pictures, prompts=options.class_prompt, channel="class")

    evaluation = read_evaluation(options.evaluation) if options.evaluation else None

    import transformers

    transformers.logging.set_verbosity_error()  # before the modules are imported that have something to say
    transformers.logging.disable_progress_bar()
    import base_pipeline
    import sample_pictures
    import saved_pipeline
    import torch
    from fine_tuning import FineTuning, Interruption
    from trained_parts import TrainedParts
    from training_examples import encode

    folder = base_pipeline.find_folder(options)
    name = _model_name(options)
    base_pipeline.check(folder, name)
    saved_pipeline.check_target(folder, options.model_dir)
    interruption = Interruption()
    torch.manual_seed(options.seed)
    base = base_pipeline.load(folder, name, options)
    if options.class_prompt and not class_pictures:
        drawn = options.output_data_dir / "class_pictures"
        sample_pictures.draw_class(base, options, drawn)
        class_pictures, _ = read_pictures(drawn, prompts=None, channel="class")
    if options.evaluate_before:
        sample_pictures.draw_evaluation(base, options, evaluation, "evaluation_before")
    examples = encode(base, pictures, options)
    class_examples = encode(base, class_pictures, options) if class_pictures else None
    parts = TrainedParts(base, options)
    training = FineTuning(
        base, parts, examples, class_examples, options, interruption, _settings(options, name, examples, class_examples)
    )
    _say(options, base, parts, training, pictures, unused)
    training.resume()
    training.train()
    if evaluation and not interruption.asked:
        sample_pictures.draw_evaluation(base, options, evaluation, "evaluation")
    saved = saved_pipeline.save(parts, base, options)
    metrics = {
        "history": training.history,
        "samples": training.samples.rows,
        "data": {
            "train": {
                "pictures": len(pictures),
                "captions": list(dict.fromkeys(examples.captions))[:100],
                "unused_files": unused,
            },
            "class": {"pictures": len(class_pictures), "drawn": options.class_pictures is None}
            if class_pictures
            else None,
        },
        "training": {
            "method": options.method,
            "steps": training.step,
            "epochs": training.epoch,
            "seconds": time.monotonic() - started,
            "training_seconds": training.seconds,
            "cpu_seconds": time.process_time() - cpu_before,
            "train_samples_per_second": training.epoch * len(examples) / max(training.seconds, 1e-9),
            "trainable_parameters": parts.size,
            "parameters": base.parameters,
            "bytes_saved": saved,
            "precision": saved_pipeline.compute_name(base.compute),
            "resumed_from_step": training.resumed_from,
            "interrupted": interruption.asked,
        },
        "hyperparameters": training_arguments.hyperparameters(options),
        "model": name,
    }
    saved_pipeline.write_card(metrics, options, options.model_dir)
    _write_metrics(metrics, options.output_data_dir)
    print(f"Saved: {options.model_dir}, {saved:,} bytes of trained weights", flush=True)
    return INTERRUPTED if interruption.asked else 0


def _say(options, base, parts, training, pictures, unused: int) -> None:
    print(
        f"Model: {base.name}, {base.parameters:,} parameters; {parts.size:,} are trained ({options.method}; "
        f"{', '.join([*parts.whole, *parts.lora] + [f'vectors of {options.placeholder_token}' for _ in parts.words])})"
    )
    small = sum(min(picture.size) < options.resolution for picture in pictures)
    print(f"Data: {len(pictures):,} pictures, {options.resolution} × {options.resolution} pixels")
    if small:
        print(f"Enlarged: {small:,} pictures are smaller than that")
    if unused:
        print(f"Not used: {unused:,} other files in the train channel")
    if training.class_examples:
        print(f"Kept by {len(training.class_examples):,} class pictures, weight {options.prior_loss_weight:g}")
    prediction = {"epsilon": "the noise", "v_prediction": "v"}[base.noise_scheduler.config.prediction_type]
    where = f"in {options.checkpoint_dir}" if options.checkpoint_dir else "none, there is no folder for them"
    print(
        f"Training: {training.steps:,} steps of {training.batch * training.accumulated} pictures, learning rate "
        f"{options.learning_rate:g}, {str(base.compute).removeprefix('torch.')}, the UNet predicts {prediction}, "
        f"checkpoints: {where}",
        flush=True,
    )


def _check_word(options: argparse.Namespace, pictures) -> None:
    word = options.placeholder_token
    without = next((picture for picture in pictures if word and word not in picture.caption), None)
    if without:
        raise InputError(
            f"the caption of {without.path.name}, {without.caption!r}, does not have the new word {word}: put it into "
            "every caption, or give one caption for all by --instance_prompt"
        )


def _settings(options: argparse.Namespace, name: str, examples, class_examples) -> dict:
    """What a checkpoint must have in common with the run that goes on from it."""
    free = {"resume", "logging_steps", "checkpointing_steps", "adapter_name", "model_name_or_path"}
    free |= {name for name in vars(options) if "evaluat" in name or "validation" in name}
    kept = {key: value for key, value in training_arguments.hyperparameters(options).items() if key not in free}
    kept |= {"model": name, "pictures": examples.fingerprint}
    return kept | {"class_pictures": class_examples.fingerprint if class_examples else None}


def _model_name(options: argparse.Namespace) -> str:
    name = options.model_name_or_path
    if name is None:
        return "base model"
    return Path(name).resolve().name if Path(name).exists() else name


def _explained(error: Exception) -> Exception:
    """An error that the caller can do something about, in those words."""
    if type(error).__name__ == "OutOfMemoryError":
        return InputError(
            f"the GPU's memory is full ({str(error).splitlines()[0]}): try a smaller --train_batch_size or "
            "--resolution, --gradient_checkpointing true, --method lora, or a larger instance"
        )
    return error


def _write_metrics(metrics: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    os.replace(partial, folder / "metrics.json")


if __name__ == "__main__":
    sys.exit(main())
