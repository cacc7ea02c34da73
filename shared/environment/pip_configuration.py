"""pip's configuration, handed on to uv, which reads none of it: a mirror, a proxy's certificate, a folder of wheels."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Mapping

SECTIONS = ("global", "install", ":env:")  # a later one wins


def settings(pip: list[str]) -> dict[str, str]:
    """pip's settings for `pip install`, such as {"index-url": ...}; lists are joined by spaces. Empty without pip."""
    answer = subprocess.run([*pip, "config", "list"], capture_output=True, text=True)
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in answer.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        if section in found and value:
            found[section][name] = " ".join(str(ast.literal_eval(value)).split())
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def for_uv(pip_settings: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that make uv look where pip would. Those that the environment sets for uv itself are left alone."""
    variables = {}
    if "index-url" in pip_settings:
        variables["UV_INDEX_URL"] = pip_settings["index-url"]
    if "extra-index-url" in pip_settings:
        variables["UV_EXTRA_INDEX_URL"] = pip_settings["extra-index-url"]
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's; safe here, since every file has a known hash
    if "find-links" in pip_settings:
        variables["UV_FIND_LINKS"] = ",".join(pip_settings["find-links"].split())
    if "trusted-host" in pip_settings:
        variables["UV_INSECURE_HOST"] = pip_settings["trusted-host"]
    if "cert" in pip_settings:
        variables["SSL_CERT_FILE"] = pip_settings["cert"]
    if environment.keys() & {"UV_INDEX", "UV_DEFAULT_INDEX"}:
        variables.pop("UV_INDEX_URL", None)
        variables.pop("UV_EXTRA_INDEX_URL", None)
    return {name: value for name, value in variables.items() if name not in environment}
