"""A job's settings as the container finds them, and as the script is to get them: arguments and SM_ variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "sagemaker_"
PROGRAM = "sagemaker_program"
SUBMIT_DIRECTORY = "sagemaker_submit_directory"
TORCHRUN = "sagemaker_torch_distributed_enabled"
TUNING_OBJECTIVE = "_tuning_objective_metric"
"""What a tuning job adds to its training jobs' hyperparameters; no argument of the script."""
OTHER_LAUNCHERS = (
    "sagemaker_mpi_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
)
MASTER_PORT = "7777"


class ToolkitError(Exception):
    """The job cannot go on; the message goes into the failure file, `status` is the exit status."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Settings:
    """What the configuration files below `base` (/opt/ml) say."""

    base: Path
    program: str
    submit_directory: str
    hyperparameters: dict[str, Any]
    framework_parameters: dict[str, Any]
    resources: dict[str, Any]
    channels: dict[str, Any]

    @property
    def code_folder(self) -> Path:
        """Where the script lies."""
        return self.base / "code"

    @property
    def hosts(self) -> list[str]:
        """All hosts of the job, sorted."""
        return sorted(self.resources["hosts"])

    def arguments(self) -> list[str]:
        """The hyperparameters as the script's arguments: -x for names of one letter, --name for others."""
        words = []
        for name, value in sorted(self.hyperparameters.items()):
            words += [f"-{name}" if len(name) == 1 else f"--{name}", "" if value is None else str(value)]
        return words

    def command(self) -> list[str]:
        """The command that runs the script. Raises ToolkitError where it asks for a launcher that is not here."""
        other = [name for name in OTHER_LAUNCHERS if self.framework_parameters.get(name)]
        if other:
            raise ToolkitError(f"The local SageMaker's training container does not support {', '.join(other)}.")
        if not (self.code_folder / self.program).is_file():
            raise ToolkitError(f"There is no {self.program} in {self.submit_directory}, the source of this job.")
        if self.program.endswith(".sh"):
            return ["/bin/sh", self.program, *self.arguments()]
        if not self.program.endswith(".py"):
            raise ToolkitError(f"The script {self.program} is neither a .py nor a .sh file.")
        if not self.framework_parameters.get(TORCHRUN):
            return [sys.executable, self.program, *self.arguments()]
        launcher = ["torchrun", f"--nnodes={len(self.hosts)}", f"--nproc_per_node={count_gpus() or 1}"]
        if len(self.hosts) > 1:
            rank = self.hosts.index(self.resources["current_host"])
            launcher += [f"--master_addr={self.hosts[0]}", f"--master_port={MASTER_PORT}", f"--node_rank={rank}"]
        return [*launcher, self.program, *self.arguments()]

    def environment(self) -> dict[str, str]:
        """The SM_ variables."""
        base, resources = self.base, self.resources
        channel_folders = {name: str(base / "input" / "data" / name) for name in self.channels}
        values: dict[str, Any] = {
            "HOSTS": self.hosts,
            "NETWORK_INTERFACE_NAME": resources["network_interface_name"],
            "HPS": self.hyperparameters,
            "USER_ENTRY_POINT": self.program,
            "FRAMEWORK_PARAMS": self.framework_parameters,
            "RESOURCE_CONFIG": resources,
            "INPUT_DATA_CONFIG": self.channels,
            "OUTPUT_DATA_DIR": base / "output" / "data",
            "CHANNELS": sorted(self.channels),
            "CURRENT_HOST": resources["current_host"],
            "CURRENT_INSTANCE_TYPE": resources["current_instance_type"],
            "CURRENT_INSTANCE_GROUP": resources["current_group_name"],
            "CURRENT_INSTANCE_GROUP_HOSTS": self.hosts,
            "MODULE_NAME": Path(self.program).stem,
            "LOG_LEVEL": self.framework_parameters.get("sagemaker_container_log_level", 20),
            "INPUT_DIR": base / "input",
            "INPUT_CONFIG_DIR": base / "input" / "config",
            "OUTPUT_DIR": base / "output",
            "OUTPUT_INTERMEDIATE_DIR": base / "output" / "intermediate",
            "NUM_CPUS": os.cpu_count() or 1,
            "NUM_GPUS": count_gpus(),
            "NUM_NEURONS": 0,
            "MODEL_DIR": base / "model",
            "MODULE_DIR": self.submit_directory,
            "MASTER_ADDR": self.hosts[0],
            "MASTER_PORT": MASTER_PORT,
            "USER_ARGS": self.arguments(),
            **{f"HP_{name.upper()}": value for name, value in self.hyperparameters.items()},
            **{f"CHANNEL_{name.upper()}": folder for name, folder in channel_folders.items()},
        }
        plain = {name: value for name, value in values.items() if not name.startswith(("HP_", "CHANNEL_"))}
        values["TRAINING_ENV"] = {name.lower(): _plain(value) for name, value in plain.items()} | {
            "hyperparameters": self.hyperparameters,
            "channel_input_dirs": channel_folders,
            "job_name": self.framework_parameters.get("sagemaker_job_name", os.environ.get("TRAINING_JOB_NAME")),
        }
        return {f"SM_{name}": _text(value) for name, value in values.items()}


def read_settings(base: Path) -> Settings:
    """The settings in `base`/input/config. Raises ToolkitError where no script is named."""
    read = {
        name: json.loads((base / "input" / "config" / f"{name}.json").read_text())
        for name in ("hyperparameters", "resourceconfig", "inputdataconfig")
    }
    given = {name: _decoded(text) for name, text in read["hyperparameters"].items()}
    if not given.get(PROGRAM):
        raise ToolkitError(f"The hyperparameter {PROGRAM} names no script.")
    return Settings(
        base=base,
        program=str(given[PROGRAM]),
        submit_directory=str(given.get(SUBMIT_DIRECTORY, base / "code")),
        hyperparameters={name: value for name, value in given.items() if not is_framework(name)},
        framework_parameters={name: value for name, value in given.items() if is_framework(name)},
        resources=read["resourceconfig"],
        channels=read["inputdataconfig"],
    )


def is_framework(name: str) -> bool:
    """Whether a hyperparameter is for the toolkit, not for the script."""
    return name.startswith(PREFIX) or name == TUNING_OBJECTIVE


def count_gpus() -> int:
    """How many GPUs the script may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() and name.strip() != "-1"])
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def _decoded(text: str) -> Any:
    """A hyperparameter's value: clients write it as JSON; what is none is a string as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if isinstance(value, (str, Path)):
        return str(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
