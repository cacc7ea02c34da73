"""What the trainings of several recipes share: optimizers, gradients computed side by side, rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn


class Optimizers:
    """Muon for matrices and convolution kernels (as matrices of one row per output channel), AdamW for the rest.

    `groups` has (parameters with names, factor of the rates) for each network. Names in `keep_out` are for AdamW.
    `adjust` is how Muon's rate follows a matrix's shape (torch's `adjust_lr_fn`), `betas` are AdamW's.
    Muon's matrices are divided into `shards` of about the same work, which `step` can do side by side.
    """

    def __init__(
        self, groups: Sequence[tuple[dict[str, nn.Parameter], float]], *,
        muon_rate: float, adamw_rate: float, weight_decay: float, keep_out: Sequence[str] = (),
        shards: int = 1, adjust: str = "match_rms_adamw", betas: tuple[float, float] = (0.9, 0.98),
    ):  # fmt: skip
        self.parameters = [parameter for named, _ in groups for parameter in named.values()]
        self.matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        muon, adamw = [], []
        for named, factor in groups:
            flat, rest = [], []
            for name, parameter in named.items():
                if parameter.ndim < 2 or any(part in name for part in keep_out):
                    rest.append(parameter)
                    continue
                # Shares the weight's memory, so that a step on the matrix is one on the kernel.
                matrix = nn.Parameter(_as_matrix(parameter.data, parameter))
                self.matrices.append((parameter, matrix))
                flat.append(matrix)
            muon.append({"params": flat, "lr": muon_rate * factor})
            adamw.append({"params": rest, "lr": adamw_rate * factor})
        self.optimizers = [
            torch.optim.Muon(shard, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn=adjust)
            for shard in _sharded(muon, shards)
        ]
        self.optimizers.append(torch.optim.AdamW(adamw, betas=betas, weight_decay=0.0))
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, gradients: Sequence[Tensor], factor: float, pool: ThreadPoolExecutor | None = None) -> None:
        """One step with these gradients, in the order of `parameters`, at `factor` times the rates; in `pool`'s threads
        if given."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for parameter, matrix in self.matrices:
            matrix.grad, parameter.grad = _as_matrix(parameter.grad, parameter), None
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        # No parameter belongs to two of them.
        for _ in (pool.map if pool else map)(lambda optimizer: optimizer.step(), self.optimizers):
            pass

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _sharded(groups: list[dict], shards: int) -> list[list[dict]]:
    """The groups `shards` times, each time with other parameters: the largest go where there is the least work yet."""
    work, place = [0] * shards, {}
    every = [parameter for group in groups for parameter in group["params"]]
    for parameter in sorted(every, key=torch.Tensor.numel, reverse=True):
        place[id(parameter)] = work.index(min(work))
        work[place[id(parameter)]] += parameter.numel() * min(parameter.shape)
    sharded = [
        [group | {"params": [p for p in group["params"] if place[id(p)] == shard]} for group in groups]
        for shard in range(shards)
    ]
    return [[group for group in shard if group["params"]] for shard in sharded]


def side_by_side(
    pool: ThreadPoolExecutor, parts: Sequence, loss: Callable[..., Tensor], parameters: Sequence[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    """The sum of `loss` over the parts, and its gradients, every part in a thread of its own.

    Gradients are added in the order of the parts, so the result does not depend on timing.
    """

    def one(part):
        value = loss(*part)
        return value.item(), torch.autograd.grad(value, parameters)

    results = list(pool.map(one, parts))
    gradients = list(results[0][1])
    for _, more in results[1:]:
        torch._foreach_add_(gradients, more)
    return sum(value for value, _ in results), gradients


def rate_factor(step: int, steps: int, warmup: int, constant: float) -> float:
    """The share of the full rate at a step: rises over `warmup` steps, stays, falls along a cosine after `constant`."""
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    falling = max(0.0, (step / steps - constant) / (1 - constant)) if constant < 1 else 0.0
    return rising * (0.5 + 0.5 * math.cos(math.pi * falling))


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """A weight, or its gradient, as a matrix whose rows are output channels; the weight itself without copying."""
    if weight.ndim == 4 and not weight.is_contiguous():
        values = values.permute(0, 2, 3, 1)  # channels last
    return values.reshape(values.shape[0], -1)
