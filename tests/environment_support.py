"""A Python of its own that can import a package called torch: what the tests of .venv take for the machine's Python."""

import venv
from pathlib import Path

TORCH_VERSION = "2.8.0+cu128"
_METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
_FILES = {
    "torch/__init__.py": "from torch import version\n__version__ = version.__version__\nimport nvidia.blas\n",
    "torch/version.py": f"__version__ = '{TORCH_VERSION}'\ncuda = '12.8'\n",
    "torchgen/__init__.py": "",
    "torch-2.8.0.dist-info/METADATA": _METADATA.format("torch", "2.8.0")
    + "Requires-Dist: nvidia-blas>=1; sys_platform != 'none'\nRequires-Dist: unrelated\n",
    "nvidia/blas/__init__.py": "",
    "nvidia_blas-1.0.dist-info/METADATA": _METADATA.format("nvidia-blas", "1.0"),
    "unrelated/__init__.py": "",
    "unrelated-1.0.dist-info/METADATA": _METADATA.format("unrelated", "1.0"),
}
_FOLDERS = {"torch-2.8.0": ("torch", "torchgen"), "nvidia_blas-1.0": ("nvidia",), "unrelated-1.0": ("unrelated",)}


def site_packages(environment: Path) -> Path:
    """Where an environment's packages lie."""
    return next(environment.glob("lib/python3*/site-packages"))


def make_python_with_torch(environment: Path) -> Path:
    """Makes an environment with torch, one of its CUDA packages and another package; returns its interpreter."""
    venv.create(environment, with_pip=False)
    packages = site_packages(environment)
    for name, text in _FILES.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    for distribution, folders in _FOLDERS.items():
        info = f"{distribution}.dist-info"
        names = [name for name in _FILES if name.split("/")[0] in (*folders, info)]
        lines = [f"{name},," for name in [*names, f"{info}/RECORD", "../../../bin/torchrun"]]
        (packages / info / "RECORD").write_text("\n".join(lines) + "\n")
    return environment / "bin" / "python"
