"""The `torchrun` of a training container. Run as a script, with the container's Python; imported by nobody.

All hosts of a job are processes of one machine, and torch's own sockets resolve names in ways that no file of a
container reaches everywhere. So here the name of a host stands for 127.0.0.1, and the job's meeting point is a port of
its own, where on AWS each job has a network of its own.
"""

from __future__ import annotations

import argparse
import os
import re

from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.run import parse_args, run

HOST = re.compile(r"algo-\d+")
LOOPBACK = "127.0.0.1"


@record
def main() -> None:
    """torchrun, with addresses that hold on this machine."""
    arguments = parse_args(None)
    make_local(arguments, os.environ["LOCAL_SAGEMAKER_MASTER_PORT"])
    run(arguments)


def make_local(arguments: argparse.Namespace, port: str) -> None:
    """Let the rendezvous of the job's hosts be at `port` of this machine."""
    if HOST.fullmatch(arguments.master_addr or ""):
        arguments.master_addr = LOOPBACK
        arguments.master_port = int(port)
    if HOST.fullmatch(arguments.rdzv_endpoint.partition(":")[0]):
        arguments.rdzv_endpoint = f"{LOOPBACK}:{port}"
    arguments.local_addr = arguments.local_addr or LOOPBACK


if __name__ == "__main__":
    main()
