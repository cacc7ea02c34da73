"""Starts the server: `python inference_server SOCKET` by its path, or `python -m ...inference_server SOCKET`."""

import importlib
import importlib.util
import sys
from pathlib import Path


def package_name() -> str:
    """The name of this package; started by its path it gets one that cannot meet a module of the model's code."""
    if __package__:
        return __package__
    folder = Path(__file__).resolve().parent
    sys.path.remove(str(folder)) if str(folder) in sys.path else None
    name = "sagemaker_local_inference_server"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return name


if __name__ == "__main__":
    sys.exit(importlib.import_module(f"{package_name()}.server").main(sys.argv[1:]))
