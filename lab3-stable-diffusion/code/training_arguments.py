"""The script's flags: what they mean, what they default to, and which values are refused before anything is loaded."""

import argparse
import os
from pathlib import Path

from flag_values import existing, existing_folder, folder_name, one_word, real, several, truth, whole, words
from training_failure import InputError

DESCRIPTION = """Fine-tune a latent diffusion model (Stable Diffusion 1.x, SDXL, or a small one of their kind):
LoRA adapters, DreamBooth with prior preservation, textual inversion, or all weights of the UNet.
In a SageMaker training job the channels train, class, model and evaluation are found by themselves;
from a shell name them with --train, --class, --model and --evaluation."""
METHODS = ("lora", "dreambooth", "textual_inversion", "full")
_PATHS = {"train", "class_pictures", "model", "evaluation", "model_dir", "output_data_dir", "checkpoint_dir"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}. `python train.py --help` lists what there is.")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked. Raises InputError that names the flag, its value and what would be right."""
    options = _parser().parse_args(arguments)
    if options.lora_alpha is None:
        options.lora_alpha = float(options.rank)
    if options.use_ema is None:
        options.use_ema = options.method == "full"
    _check_together(options)
    return options


def hyperparameters(options: argparse.Namespace) -> dict:
    """The flags as JSON can hold them, without the folders of this machine."""
    return {name: value for name, value in vars(options).items() if name not in _PATHS}


def _check_together(options: argparse.Namespace) -> None:
    method, placeholder = options.method, options.placeholder_token
    if options.train is None:
        raise InputError(
            "there are no training pictures: give the job a channel named train, or name their folder by --train"
        )
    if options.model is None and options.model_name_or_path is None:
        raise InputError(
            "there is no model to start from: give the job a channel named model with the base pipeline, "
            "or name a folder or a model of the Hugging Face Hub by --model_name_or_path"
        )
    if method == "textual_inversion" and placeholder is None:
        raise InputError("--method textual_inversion learns a word: name it by --placeholder_token, such as <star>")
    if placeholder and method in ("dreambooth", "full"):
        raise InputError(f"--placeholder_token goes with --method textual_inversion or lora, not with {method}")
    if placeholder is None and (options.initializer_token or options.num_vectors > 1):
        raise InputError("--initializer_token and --num_vectors are of a new word: name it by --placeholder_token")
    if placeholder and options.instance_prompt and placeholder not in options.instance_prompt:
        raise InputError(f"--instance_prompt {options.instance_prompt!r} does not have the new word {placeholder}")
    prior = options.class_prompt is not None or options.class_pictures is not None
    if method == "dreambooth" and not prior:
        raise InputError(
            "--method dreambooth keeps the model from forgetting the subject's class: name the class by "
            "--class_prompt, such as 'a dog', or give pictures of it in the channel named class"
        )
    if method == "textual_inversion" and prior:
        raise InputError("textual inversion leaves the model as it is, so there is nothing to keep by class pictures")
    if options.evaluate_before and options.evaluation is None:
        raise InputError("--evaluate_before true: there are no prompts to draw; give them in the channel evaluation")
    if options.max_train_steps and options.num_train_epochs:
        raise InputError("--max_train_steps and --num_train_epochs both say how long to train: give one of them")
    if method == "textual_inversion" and options.train_text_encoder:
        raise InputError("--train_text_encoder true: textual inversion trains the new word's vectors and nothing else")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train.py",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    yes_or_no = {"type": truth, "metavar": "true|false"}
    add = parser.add_argument_group("the model and the method").add_argument
    add("--model_name_or_path", type=words, help="Hub id or folder of the base; with a model channel: its name")
    add("--method", choices=METHODS, default="lora", help="what is trained")
    add("--rank", type=whole(1, 1024), default=8, help="rank of the LoRA adapters")
    add("--lora_alpha", type=real(0, above=True), help="scaling of the adapters; the rank if not given")
    add(
        "--lora_target_modules",
        choices=("attention", "all"),
        help="layers that get adapters; all: feed-forward layers and convolutions too; by model size if not given",
    )
    add("--adapter_name", type=folder_name, default="tuned", help="folder below lora/ that holds what was learned")
    add("--train_text_encoder", **yes_or_no, help="train the text encoder too; by method and model if not given")
    add("--placeholder_token", type=one_word, help="new word whose vectors are learned, such as <star>")
    add("--initializer_token", type=one_word, help="word of the model from whose vector the new one begins")
    add("--num_vectors", type=whole(1, 32), default=1, help="vectors that the new word stands for")

    add = parser.add_argument_group("the pictures").add_argument
    add("--instance_prompt", type=words, help="caption of every training picture, instead of metadata.jsonl")
    add("--class_prompt", type=several, help="captions of the class pictures ('a dog | a cat'): what to keep")
    add("--num_class_images", type=whole(1, 10_000), default=24, help="class pictures to draw if there is no channel")
    add("--prior_loss_weight", type=real(0, 100), default=1.0, help="weight of the class pictures' loss")
    add("--resolution", type=whole(16, 4096), help="side of the training pictures in pixels; the model's if not given")
    add("--random_flip", **yes_or_no, default=False, help="mirror pictures now and then")
    add("--caption_dropout", type=real(0, 0.9), help="share of captions left away; 0.1 for full, else 0")

    add = parser.add_argument_group("the training").add_argument
    add("--max_train_steps", type=whole(1), help="optimizer steps; by method and model if not given")
    add("--num_train_epochs", type=real(0, 100_000, above=True), help="passes over the pictures, instead of steps")
    add("--learning_rate", type=real(0, 10, above=True), help="highest rate; by method and model if not given")
    add("--train_batch_size", type=whole(1, 4096), help="pictures at once; by model size if not given")
    add("--gradient_accumulation_steps", type=whole(1, 4096), default=1, help="batches per optimizer step")
    add("--gradient_checkpointing", **yes_or_no, default=False, help="less memory, more time")
    add("--lr_scheduler", choices=("constant", "linear", "cosine"), default="cosine", help="how the rate falls")
    add("--lr_warmup_steps", type=whole(0), default=5, help="steps in which the rate rises")
    add("--weight_decay", type=real(0, 1), default=0.01, help="of AdamW")
    add("--max_grad_norm", type=real(0, above=True), default=1.0, help="longer gradients are shortened to this")
    add("--snr_gamma", type=real(0, above=True), help="min-SNR weighting of the noise levels; 5 is usual")
    add("--use_ema", **yes_or_no, help="keep the moving average of the weights; true for full, else false")
    add("--ema_decay", type=real(0, 1), default=0.999, help="highest decay of that average")
    add("--precision", choices=("auto", "bf16", "fp16", "fp32"), default="auto", help="auto: what the hardware has")
    add("--seed", type=whole(0, 2**32 - 1), default=42, help="of order, noise and new weights")
    add("--logging_steps", type=whole(1), default=10, help="steps between two lines of metrics")
    add("--checkpointing_steps", type=whole(1), default=100, help="steps between checkpoints")
    add("--resume", **yes_or_no, default=True, help="go on from the newest whole checkpoint")

    add = parser.add_argument_group("the sample pictures").add_argument
    add("--validation_prompts", type=several, help="prompts of the samples ('a | b'); some captions if not given")
    add("--validation_epochs", type=whole(1), help="epochs between samples; if not given, so that there are 4 sets")
    add("--num_validation_images", type=whole(0, 100), default=1, help="samples of each prompt; 0: none at all")
    add("--evaluate_before", **yes_or_no, default=False, help="draw the evaluation prompts before the training too")
    add("--num_inference_steps", type=whole(1, 1000), default=20, help="steps of the sampler, class pictures' too")
    add("--guidance_scale", type=real(0, 100), help="guidance of the samples; by model if not given")

    add = parser.add_argument_group("files and folders").add_argument
    for flag, channel, kind, holds in (
        ("--train", "train", existing_folder, "training pictures; metadata.jsonl in it: file_name and text of each"),
        ("--class", "class", existing_folder, "pictures of the class, to be kept; metadata.jsonl may give captions"),
        ("--model", "model", existing, "base pipeline: its folder, or model.tar.gz in it"),
        ("--evaluation", "evaluation", existing, "jsonl with a prompt a line: what to draw when all is learned"),
    ):
        default = os.environ.get(f"SM_CHANNEL_{channel.upper()}")
        name = {"dest": "class_pictures"} if channel == "class" else {}
        add(flag, type=kind, default=default, metavar="PATH", help=holds, **name)
    for name, default, holds in (
        ("model_dir", os.environ.get("SM_MODEL_DIR", "out/model"), "the result"),
        ("output_data_dir", os.environ.get("SM_OUTPUT_DATA_DIR", "out/data"), "metrics.json and sample pictures"),
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
