"""The result: a folder that deploys as it is, with the model, its tokenizer, the handler's code and a card."""

import argparse
import ast
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from base_model import BaseModel

HANDLER = "inference.py"


@dataclass(frozen=True)
class SavedModel:
    """What was written: `trained` holds the files of what was trained (adapters, or the whole model)."""

    folder: Path
    trained: Path
    bytes_trained: int


def save(
    trained: torch.nn.Module, state: dict | None, base: BaseModel, source: str, options: argparse.Namespace
) -> SavedModel:
    """Write the model into options.model_dir. `state` holds all weights where `trained` is divided among processes.

    full: the weights in the base's dtype. lora: the base's weights and the adapter in adapters/NAME, or one model if
    options.merge_adapters. prompt: the base's weights and the soft prompt in soft_prompt.
    """
    from transformers import AutoModelForCausalLM

    folder = options.model_dir
    folder.mkdir(parents=True, exist_ok=True)
    base.tokenizer.save_pretrained(folder)
    copy_handler(Path(__file__).parent, folder / "code")
    if options.method == "full":
        if state is not None:
            trained = AutoModelForCausalLM.from_config(trained.config)
            trained.load_state_dict(state)
        _save_whole(trained, base, folder)
        return SavedModel(folder, folder, _bytes(folder, "*.safetensors"))
    adapter = folder / ("soft_prompt" if options.method == "prompt" else f"adapters/{options.adapter_name}")
    # Embeddings stay as they are in the base; asked to find out, peft would look for it on the Hub.
    trained.save_pretrained(adapter, state_dict=state, save_embedding_layers=False)
    (adapter / "README.md").unlink(missing_ok=True)  # peft's empty card
    size = _bytes(adapter, "*.safetensors")
    # The base anew from its files: not a bit of it has changed.
    if options.merge_adapters:
        import peft

        fresh = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(fresh, adapter).merge_and_unload(safe_merge=True)
        _save_whole(merged, base, folder)
        shutil.rmtree(adapter.parent)
        return SavedModel(folder, folder, size)
    _save_whole(AutoModelForCausalLM.from_pretrained(source, dtype=base.dtype), base, folder)
    return SavedModel(folder, adapter, size)


def _save_whole(model: torch.nn.Module, base: BaseModel, folder: Path) -> None:
    model.config.use_cache = True
    model.to(base.dtype).save_pretrained(folder)


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def copy_handler(code: Path, target: Path) -> None:
    """Copy the handler and, of the modules beside it, those that it needs; not the training's own."""
    target.mkdir(exist_ok=True)
    waiting, done = [code / HANDLER], set()
    while waiting:
        module = waiting.pop()
        if module in done or not module.is_file():
            continue
        done.add(module)
        shutil.copyfile(module, target / module.name)
        nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
        names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        if "importlib" in names:  # it loads modules by their names: any text that is a module's name may be one
            names += [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
        waiting += [code / f"{name.split('.')[0]}.py" for name in names if name.replace(".", "").isidentifier()]


def write_card(metrics: dict, base: BaseModel, folder: Path) -> None:
    """README.md: what the model was made from, how, and how well it predicts the held-out text."""
    rows = []
    for name in ("eval_loss", "perplexity", "bits_per_character", "accuracy"):
        values = [(metrics[when] or {}).get(name) for when in ("before", "after")]
        rows.append(f"| {name} | " + " | ".join("-" if value is None else f"{value:.4f}" for value in values) + " |")
    data, training = metrics["data"], metrics["training"]
    lines = [
        "---",
        "pipeline_tag: text-generation",
        "library_name: transformers",
        "---",
        "",
        f"# {base.name}, fine-tuned",
        "",
        f"{base.name} after {training['steps']} steps of fine-tuning, method: {training['method']} "
        f"({training['trainable_parameters']:,} of {training['parameters']:,} parameters trained).",
        "",
        "## Data",
        "",
        f"Trained on {data['train']['documents']:,} documents ({data['train']['tokens']:,} tokens); "
        f"held out: {data['validation']['documents']:,} ({data['validation']['tokens']:,} tokens).",
        "",
        "## Held-out text",
        "",
        "| | before | after |",
        "|---|---|---|",
        *rows,
        "",
        "## Forgetting",
        "",
        "```json",
        json.dumps(metrics["forgetting"], indent=1),
        "```",
        "",
        "## Hyperparameters",
        "",
        "```json",
        json.dumps(metrics["hyperparameters"], indent=1),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
