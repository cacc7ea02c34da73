"""The GPUs and cores of this machine, and how the hosts of a job share them."""

from __future__ import annotations

import functools
import os
import subprocess

_LIST_SECONDS = 20.0


@functools.cache
def gpus() -> tuple[str, ...]:
    """The GPUs that a container may use, as CUDA_VISIBLE_DEVICES names them; empty where there is none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1")
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=_LIST_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = [line for line in listing.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(found)))


def environment(host: int, hosts: int) -> dict[str, str]:
    """Environment variables that give host number `host` (from 0) of `hosts` its share of this machine.

    One host gets everything. Several get as many GPUs each as all of them can have, and none where there are fewer GPUs
    than hosts: two processes of one job cannot have the same GPU.
    """
    if hosts == 1:
        return {}
    share = len(gpus()) // hosts
    variables = {}
    if gpus():
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus()[host * share : (host + 1) * share])
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // hosts))
    return variables
