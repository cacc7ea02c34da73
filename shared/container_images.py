"""Where the AWS container images of this workshop live: their URI for a region, without importing the SageMaker SDK.

`sagemaker.core.image_uris.retrieve` gives the same answers but takes seconds to import, and an older SDK (such as the
one in a Studio image) does not know the newest versions. A test holds this table against the SDK's.
Source: the lists of AWS Deep Learning Containers, https://aws.github.io/deep-learning-containers/.
"""

from __future__ import annotations

# Accounts that hold the images. Every commercial region that is not listed uses DEFAULT_REGISTRY.
DEFAULT_REGISTRY = "763104351884"
DEFAULT_REGISTRY_REGIONS = frozenset(
    "ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 eu-north-1 "
    "eu-west-1 eu-west-2 eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2".split()
)
REGISTRIES = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
} | dict.fromkeys(DEFAULT_REGISTRY_REGIONS, DEFAULT_REGISTRY)

HUGGINGFACE_CPU = "huggingface-cpu"
HUGGINGFACE_GPU = "huggingface-gpu"
LMI = "lmi"
HUGGINGFACE_TRAINING = "huggingface-training"

IMAGES = {
    HUGGINGFACE_CPU: "huggingface-pytorch-inference:2.6.0-transformers5.5.3-cpu-py312-ubuntu22.04",
    HUGGINGFACE_GPU: "huggingface-pytorch-inference:2.6.0-transformers5.5.3-gpu-py312-cu124-ubuntu22.04",
    LMI: "djl-inference:0.38.0-lmi29.0.0-cu130",
    # For GPUs only: there is no newer one for CPUs.
    HUGGINGFACE_TRAINING: "huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04",
}


def image_uri(image: str, region: str) -> str:
    """The URI of `image` (a key of `IMAGES`) in `region`.

    Raises ValueError for an image or a region that is not in the tables.
    """
    if image not in IMAGES:
        raise ValueError(f"no image {image!r}: the images are {', '.join(IMAGES)}")
    if region not in REGISTRIES:
        raise ValueError(
            f"no registry account is known for the region {region!r}. Use another region, or add its account to "
            "REGISTRIES in shared/container_images.py (https://aws.github.io/deep-learning-containers/)."
        )
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{REGISTRIES[region]}.dkr.ecr.{region}.{domain}/{IMAGES[image]}"
