"""JupyterLab for the labs: `python -m shared.environment.jupyter`.

It opens the checkout's README.md, rendered, whose links lead to the labs. It reads none of the user's own Jupyter
configuration, which might name other kernels, ports or extensions, and asks nothing of the internet.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from shared.environment.specification import CHECKOUT

SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
KERNEL_CONFIGURATION = "c.IPKernelApp.log_level = 40  # no warning that the kernel speaks unencrypted TCP on loopback\n"


def prepare(folder: Path) -> dict[str, str]:
    """Writes Jupyter's and IPython's configuration under `folder`; returns the variables that make them use it."""
    profile = folder / "ipython" / "profile_default"
    settings = folder / "lab" / "settings"
    for path in (profile, settings, folder / "config", folder / "data", folder / "workspaces"):
        path.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL_CONFIGURATION, encoding="utf-8")
    (settings / "overrides.json").write_text(json.dumps(SETTINGS, indent=1), encoding="utf-8")
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }


def command(python: str, checkout: Path, settings: Path) -> list[str]:
    """The command that starts JupyterLab on loopback, in the checkout."""
    return [
        python,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={checkout}",
        "--LabApp.default_url=/lab/tree/README.md",
        f"--LabApp.app_settings_dir={settings}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--ServerApp.jpserver_extensions={'jupyterlab_jupytext': False}",  # saving a notebook leaves lab*/source alone
        "--ServerApp.allow_root=True",  # in a development container people are root
        "--ServerApp.log_level=WARN",
    ]


def environment(folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables that JupyterLab is started with: the inherited ones but for Jupyter's own."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    return {**kept, **prepare(folder)}


def main() -> None:
    """Replaces this process by JupyterLab."""
    folder = Path(sys.prefix) / "jupyter"
    variables = environment(folder, os.environ)
    run = command(sys.executable, CHECKOUT, folder / "lab" / "settings") + sys.argv[1:]
    print("JupyterLab opens in your browser; Ctrl-C here, twice, ends it.", flush=True)
    os.execve(run[0], run, variables)


if __name__ == "__main__":
    main()
