"""The instance types that this workshop uses: memory, accelerator, and a dated price.

For these types the price of an hour of training is that of an hour of real-time inference.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3

PRICING_PAGE = "https://aws.amazon.com/sagemaker/ai/pricing/"
PRICE_REGION = "us-east-1"
PRICE_DATE = "2025-10"
PRICE_NOTE = (
    f"US dollars per hour for real-time inference in {PRICE_REGION}, noted {PRICE_DATE}. "
    f"Prices change and differ by region: check {PRICING_PAGE}"
)
TRAINING_PRICE_NOTE = (
    f"US dollars per hour in {PRICE_REGION}, noted {PRICE_DATE} for real-time inference and taken to be the same for "
    f"training. Prices change and differ by region: check {PRICING_PAGE}"
)
STORAGE_PRICE = 0.023  # USD for a GB and month in S3 Standard, same region and date


@dataclass(frozen=True)
class Instance:
    """An instance type: `memory` and `gpu_memory` (of all its GPUs) in GiB, `price` in USD per hour."""

    type: str
    vcpus: int
    memory: int
    gpu: str | None
    gpu_memory: int
    price: float


INSTANCES = {
    instance.type: instance
    for instance in (
        Instance("ml.m5.xlarge", 4, 16, None, 0, 0.23),
        Instance("ml.m5.2xlarge", 8, 32, None, 0, 0.461),
        Instance("ml.g6.xlarge", 4, 16, "1 x NVIDIA L4", 24, 1.1267),
        Instance("ml.g4dn.xlarge", 4, 16, "1 x NVIDIA T4", 16, 0.736),
        Instance("ml.g5.xlarge", 4, 16, "1 x NVIDIA A10G", 24, 1.408),
        Instance("ml.g5.2xlarge", 8, 32, "1 x NVIDIA A10G", 24, 1.515),
        Instance("ml.g5.12xlarge", 48, 192, "4 x NVIDIA A10G", 96, 7.09),
    )
}


def price_per_hour(instance_type: str) -> float | None:
    """USD per hour of a real-time endpoint or training job on one such instance; None when not in the table."""
    instance = INSTANCES.get(instance_type)
    return instance.price if instance else None


def dollars(price: float) -> str:
    """A price for people: 0.23 USD, 1.515 USD."""
    whole, decimals = f"{price:.3f}".split(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')} USD"
