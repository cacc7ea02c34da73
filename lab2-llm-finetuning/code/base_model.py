"""The model to start from: where its files are, how it is loaded, and what is added to it for each method."""

import argparse
import atexit
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from training_failure import InputError

# Best on the embedded model (3.2 million parameters); larger models want less: see learning_rate.
_RATES = {"full": 2e-3, "lora": 5e-3, "prompt": 3e-2}
_RATES_MEASURED_AT = 3.2e6  # parameters


@dataclass
class BaseModel:
    """The base weights with their tokenizer; `dtype` is that of the files, in which results are saved."""

    model: torch.nn.Module
    tokenizer: object
    dtype: torch.dtype
    name: str
    parameters: int


def find_weights(options: argparse.Namespace) -> str:
    """A folder or Hub id that `from_pretrained` takes; a model.tar.gz is unpacked into a temporary folder.

    Raises InputError where the channel holds no model.
    """
    if options.model is None:
        return options.model_name_or_path
    channel = options.model
    folder = channel.parent if channel.is_file() else channel
    archives = [channel] if channel.is_file() else sorted(channel.rglob("*.tar.gz"))
    if not (folder / "config.json").is_file() and archives:
        folder = Path(tempfile.mkdtemp(prefix="base-model-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            with tarfile.open(archives[0]) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{archives[0].name} in the model channel cannot be unpacked: {error}") from error
    configs = sorted(folder.rglob("config.json"), key=lambda path: len(path.parts))
    if not configs:
        raise InputError(
            f"the model channel {channel} holds no model: there is no config.json in it, nor in a model.tar.gz. "
            "It should hold what save_pretrained writes"
        )
    return str(configs[0].parent)


def load_base_model(source: str, name: str, options: argparse.Namespace) -> BaseModel:
    """Load weights and tokenizer. Raises InputError where there is no causal language model at `source`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the model {name} cannot be loaded: {error}") from error
    _check_model(config, tokenizer, name, options)
    stored = config.dtype or torch.float32
    # What is trained needs 32 bits, or small steps are rounded away. What is frozen may stay as a GPU computes with it.
    frozen = options.method != "full" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=torch.bfloat16 if frozen else torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"the weights of {name} cannot be loaded: {error}") from error
    model.config.use_cache = False
    return BaseModel(model, tokenizer, stored, name, sum(weights.numel() for weights in model.parameters()))


def _check_model(config, tokenizer, name: str, options: argparse.Namespace) -> None:
    if config.is_encoder_decoder:
        raise InputError(f"{name} is an encoder-decoder model; this script trains causal language models")
    if not tokenizer.is_fast:
        raise InputError(f"{name} has no fast tokenizer (tokenizer.json), by which characters are counted")
    longest = getattr(config, "max_position_embeddings", None) or 1 << 20
    extra = options.num_virtual_tokens if options.method == "prompt" else 0
    if options.block_size is None:
        options.block_size = min(256, longest - extra)
    if options.block_size + extra > longest:
        virtual = f" and {extra} virtual tokens" if extra else ""
        raise InputError(f"--block_size {options.block_size}{virtual}: {name} reads {longest} tokens at most")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def learning_rate(method: str, parameters: int) -> float:
    """A rate that suits the method and the model: smaller for larger models, but for soft prompts."""
    if method == "prompt":
        return _RATES[method]
    rate = _RATES[method] * min(1.0, (_RATES_MEASURED_AT / parameters) ** 0.6)
    return float(f"{rate:.2g}")


def add_method(base: BaseModel, options: argparse.Namespace) -> torch.nn.Module:
    """The model to train: the base itself, or with adapters or a soft prompt added and the rest frozen.

    Raises InputError where peft cannot add them, such as for layer names that the model does not have.
    """
    if options.method == "full":
        return base.model
    import peft

    if options.method == "lora":
        targets = options.lora_target_modules
        config = peft.LoraConfig(
            task_type=peft.TaskType.CAUSAL_LM,
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
        )
    else:
        config = peft.PromptTuningConfig(
            task_type=peft.TaskType.CAUSAL_LM,
            num_virtual_tokens=options.num_virtual_tokens,
            prompt_tuning_init=peft.PromptTuningInit.RANDOM,
        )
    try:
        model = peft.get_peft_model(base.model, config)
    except ValueError as error:
        raise InputError(f"--method {options.method} does not fit this model: {error}") from error
    # The card and the adapter's own file name the base, not a folder of this machine.
    model.peft_config["default"].base_model_name_or_path = base.name
    if options.gradient_checkpointing:
        model.enable_input_require_grads()
    return model
