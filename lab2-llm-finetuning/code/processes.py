"""The processes that train together: one alone, or those that torchrun started on one or several hosts."""

import os
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Processes:
    """This process among all: `rank` of `count`, and `local_rank` among those of its host."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Is this the one that writes the log and the result?"""
        return self.rank == 0

    @property
    def first_of_host(self) -> bool:
        """Is this the one that writes what each host keeps for itself?"""
        return self.local_rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def gather(self, value) -> list:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def of_host(self, make):
        """Let the first process of each host call `make`, and give its result to the others of that host."""
        result = make() if self.first_of_host else None
        results = self.gather((self.rank, self.local_rank, result))
        return results[self.rank - self.local_rank][2]


def join() -> Processes:
    """Join the others, by NCCL between GPUs and gloo between processors; RuntimeError where they cannot be reached."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    if count > 1 and not distributed.is_initialized():
        distributed.init_process_group(backend())
        # accelerate calls the processor "cpu:0" and the Trainer loads checkpoints to there; torch knows only "cpu".
        torch.serialization.register_package(5, lambda _: None, _restore_on_cpu)
    return Processes(int(os.environ.get("RANK", "0")), count, local_rank)


def _restore_on_cpu(storage, location: str):
    return storage if location.startswith("cpu:") else None


def backend() -> str:
    """The name of what carries tensors between processes here."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
