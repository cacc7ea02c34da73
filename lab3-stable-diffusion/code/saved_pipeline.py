"""The result: a folder that deploys as it is, with the pipeline, what was learned, the handler's code and a card."""

import argparse
import ast
import json
import shutil
from pathlib import Path

import torch
from base_pipeline import BasePipeline
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from trained_parts import TrainedParts
from training_failure import InputError

HANDLER = "inference.py"
_OWN = ("code", "README.md")  # of the base's folder; the result has its own
_WORD_FILE = "learned_embeds.safetensors"


def check_target(base_folder: Path, model_dir: Path) -> None:
    """Raises InputError where the result would overwrite the base."""
    if model_dir.resolve() == base_folder.resolve() or model_dir.resolve() in base_folder.resolve().parents:
        raise InputError(f"--model_dir {model_dir} holds the base model and would overwrite it: name another folder")


def save(parts: TrainedParts, base: BasePipeline, options: argparse.Namespace) -> int:
    """Write the result into options.model_dir; returns the bytes of what was trained.

    lora: the base's files, and lora/NAME/. textual_inversion: the base's files, and embeddings/NAME/. dreambooth and
    full: the base's files with the trained networks in place of its own, in its dtype.
    """
    folder = options.model_dir
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(base.folder.iterdir()):
        if path.name in (*_OWN, *parts.whole) or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, folder / path.name)
    trained: list[Path] = []
    for name in parts.whole:
        getattr(base.pipe, name).to(base.dtype).save_pretrained(folder / name)
        trained += (folder / name).glob("*.safetensors")
    if parts.lora:
        trained.append(_save_lora(parts, base, folder / "lora" / options.adapter_name))
    if parts.words:
        kind = "lora" if parts.lora else "embeddings"
        trained.append(_save_word(parts, base, options.placeholder_token, folder / kind / options.adapter_name))
    copy_handler(Path(__file__).parent, folder / "code")
    _write_generation_defaults(folder / "generation_defaults.json", options)
    return sum(path.stat().st_size for path in trained)


def _save_lora(parts: TrainedParts, base: BasePipeline, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    layers, metadata = {}, {}
    for name in parts.lora:
        network = getattr(base.pipe, name)
        state = {key: value.to(base.dtype) for key, value in get_peft_model_state_dict(network).items()}
        # In peft's names. diffusers' older ones are for attention only, and its loader leaves out what is in the one
        # kind of names where the file's first weight is in the other.
        layers[f"{name}_lora_layers"] = state
        metadata[f"{name}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    base.pipe.save_lora_weights(folder, **layers, **metadata)
    return folder / "pytorch_lora_weights.safetensors"


def _save_word(parts: TrainedParts, base: BasePipeline, token: str, folder: Path) -> Path:
    """Textual inversion's format: vectors by token, or with two text encoders by their usual names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"} if base.is_xl else {"text_encoder": token}
    vectors = {names[name]: word.vectors.detach().cpu().contiguous() for name, word in parts.words.items()}
    save_file(vectors, folder / _WORD_FILE, metadata={"token": token, "format": "pt"})
    return folder / _WORD_FILE


def _write_generation_defaults(path: Path, options: argparse.Namespace) -> None:
    """The settings that the handler draws with unless asked otherwise: the base's, or those of the samples."""
    if not path.exists():
        names = ("guidance_scale", "num_inference_steps")
        settings = {name: getattr(options, name) for name in names}
        settings |= {"width": options.resolution, "height": options.resolution}
        path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _clear(folder: Path) -> None:
    """Remove what an earlier run left: the networks that its index names, adapters and code; nothing else."""
    index = folder / "model_index.json"
    if not index.is_file():
        return
    for name in (*json.loads(index.read_text(encoding="utf-8")), "lora", "embeddings", "code"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    (folder / "generation_defaults.json").unlink(missing_ok=True)
    index.unlink()


def copy_handler(code: Path, target: Path) -> None:
    """Copy the handler and, of the modules beside it, those that it needs; not the training's own."""
    waiting, done = [code / HANDLER], set()
    while waiting:
        module = waiting.pop()
        if module in done or not module.is_file():
            continue
        done.add(module)
        target.mkdir(exist_ok=True)
        shutil.copyfile(module, target / module.name)
        nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        waiting += [code / f"{name.split('.')[0]}.py" for name in names]
    if not done:
        print(f"There is no {HANDLER} beside train.py: the model has no code/ and is served by the container's own")


def write_card(metrics: dict, options: argparse.Namespace, folder: Path) -> None:
    """README.md: what the model was made from, and how."""
    training, data = metrics["training"], metrics["data"]
    place = {
        "lora": f"The base's weights are as they were; the adapters are in lora/{options.adapter_name}/.",
        "textual_inversion": (
            f"The base's weights are as they were; the vectors of {options.placeholder_token} are in "
            f"embeddings/{options.adapter_name}/."
        ),
    }.get(options.method, "The trained networks are in the place of the base's own.")
    lines = [
        "---",
        "pipeline_tag: text-to-image",
        "library_name: diffusers",
        "---",
        "",
        f"# {metrics['model']}, fine-tuned",
        "",
        f"{metrics['model']} after {training['steps']} steps of fine-tuning on {data['train']['pictures']:,} pictures, "
        f"method: {training['method']} ({training['trainable_parameters']:,} numbers trained beside or among "
        f"{training['parameters']:,}). {place}",
        "",
        "The base model's licence holds for this one too.",
        "",
        "## Captions",
        "",
        *(f"- {caption}" for caption in data["train"]["captions"]),
        "",
        "## Hyperparameters",
        "",
        "```json",
        json.dumps(metrics["hyperparameters"], indent=1),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def compute_name(dtype: torch.dtype) -> str:
    """bf16, fp16 or fp32."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")
