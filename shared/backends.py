"""On which ground a notebook stands: AWS itself, or the local SageMaker of this checkout.

`enter` sets the process's environment so that every AWS client made afterwards (boto3, the SageMaker SDK, child
processes) talks to the chosen ground. It must run before the SageMaker SDK is imported. The local SageMaker is reached
by its command line only.
"""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LOCAL, SAGEMAKER = "local", "sagemaker"
ROOT = Path(__file__).resolve().parent.parent
METADATA_FILE = Path("/opt/ml/metadata/resource-metadata.json")

# Set by Studio and by notebook instances for their kernels and terminals.
_STUDIO_VARIABLES = ("SAGEMAKER_INTERNAL_IMAGE_URI", "SAGEMAKER_APP_TYPE", "SAGEMAKER_SPACE_NAME")
# Would send a client elsewhere, or sign with other keys, although the local server's values are set.
_CONFLICTING = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
_COMMAND = "python -m shared.local_sagemaker"


class BackendError(RuntimeError):
    """The chosen backend cannot be used; the message says why and what to do."""


class LocalServerDied(BackendError):
    """The local SageMaker that this process was using does not answer any more."""


@dataclass(frozen=True)
class Ground:
    """Where calls go: `backend` is "local" or "sagemaker", `caller` the signer's ARN, `url` the local server's."""

    backend: str
    region: str
    account: str
    caller: str
    url: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether nothing here costs anything."""
        return self.backend == LOCAL


def choose(backend: str) -> str:
    """ "local" or "sagemaker" for "auto", which is "sagemaker" inside Studio and on notebook instances, else "local".

    Raises BackendError for any other word.
    """
    if backend == "auto":
        inside = METADATA_FILE.exists() or any(os.environ.get(name) for name in _STUDIO_VARIABLES)
        return SAGEMAKER if inside else LOCAL
    if backend not in (LOCAL, SAGEMAKER):
        raise BackendError(f'BACKEND = {backend!r}, but it is one of "auto", "local", "sagemaker".')
    return backend


def enter(backend: str, start: bool = True) -> Ground | None:
    """Point this process at `backend`. Without `start` a local server is looked for only; None when none runs.

    Raises BackendError: the server did not start; or AWS credentials or the region are missing, expired or refused.
    """
    if choose(backend) == LOCAL:
        values = _start() if start else local_environment()
        if values is None:
            return None
        _set_environment(values)
        _forget_clients()
        ground = _identify(LOCAL, values["AWS_ENDPOINT_URL"])
        _explain_in_notebook(ground)
        return ground
    _restore_environment()
    _remove_local_leftovers()
    _forget_clients()
    return _identify(SAGEMAKER, None)


def local_environment() -> dict[str, str] | None:
    """The environment variables for clients of the running local server; None when none runs. Starts nothing."""
    answer = _run("env", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def _start() -> dict[str, str]:
    answer = _run("start")
    if answer.returncode:
        raise BackendError(
            f"the local SageMaker did not start ({_COMMAND} start, exit code {answer.returncode}):\n"
            f"{(answer.stderr or answer.stdout).strip()}"
        )
    if answer.stderr.strip():
        print(answer.stderr.strip())  # what an earlier server left behind
    values = local_environment()
    if values is None:
        raise BackendError(f"the local SageMaker ended right after its start. Its logs: see {_COMMAND} status")
    return values


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "shared.local_sagemaker", *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"`{_COMMAND} {' '.join(arguments)}` gave no answer for 180 s") from error


# -- the environment ----------------------------------------------------------------------------------------------

_before: dict[str, str | None] = {}  # what variables that `_set_environment` changed had been


def _set_environment(values: dict[str, str]) -> None:
    changes: dict[str, str | None] = dict.fromkeys(_CONFLICTING)
    changes |= {name: None for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")}
    changes |= values
    # A server on this machine answers at once or is gone; the SDK's ten attempts would hide that for a minute.
    changes |= {"AWS_MAX_ATTEMPTS": "2", "AWS_RETRY_MODE": "standard"}
    # Needed where a proxy is configured, or requests to the loopback address would be sent to the proxy.
    for name in ("NO_PROXY", "no_proxy"):
        changes[name] = ",".join(dict.fromkeys([*filter(None, os.environ.get(name, "").split(",")), "127.0.0.1"]))
    for name, value in changes.items():
        _before.setdefault(name, os.environ.get(name))
        _put(name, value)


def _restore_environment() -> None:
    for name, value in _before.items():
        _put(name, value)
    _before.clear()


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _remove_local_leftovers() -> None:
    """Remove what `eval $(python -m shared.local_sagemaker env)` had set in the shell that this process comes from."""
    removed = []
    if _is_loopback(os.environ.get("AWS_ENDPOINT_URL")):
        removed.append("AWS_ENDPOINT_URL")
    config_file = Path(os.environ.get("AWS_CONFIG_FILE", ""))
    config = _read_ini(config_file)
    if _is_loopback(config.get("endpoint_url")):
        keys = _read_ini(config_file.parent / "credentials")
        state = str(config_file.parent.absolute())
        removed += [
            name
            for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "SAGEMAKER_USER_CONFIG_OVERRIDE")
            if os.environ.get(name, "").startswith(state)
        ]
        if os.environ.get("AWS_ACCESS_KEY_ID") == keys.get("aws_access_key_id"):
            removed += ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"]
        regions = ("AWS_REGION", "AWS_DEFAULT_REGION")
        removed += [name for name in regions if os.environ.get(name) == config.get("region")]
    removed = [name for name in removed if os.environ.pop(name, None) is not None]
    if removed:
        print(f"BACKEND is sagemaker: ignoring {', '.join(removed)}, left over from the local SageMaker.")


def _read_ini(path: Path) -> dict[str, str]:
    """The section [default] of an AWS configuration file, empty where there is none."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    return dict(parser["default"]) if parser.has_section("default") else {}


def _is_loopback(url: str | None) -> bool:
    host = urlsplit(url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _forget_clients() -> None:
    """Drop clients and sessions that boto3 and the SDK keep from before the environment changed."""
    if boto3 := sys.modules.get("boto3"):
        boto3.DEFAULT_SESSION = None
    if sdk := sys.modules.get("sagemaker.core.utils.utils"):
        sdk.SageMakerClient.reset()


# -- who am I -----------------------------------------------------------------------------------------------------


def _identify(backend: str, url: str | None) -> Ground:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    session = boto3.Session()
    if backend == SAGEMAKER and session.get_credentials() is None:
        raise BackendError(
            "no AWS credentials were found. In a terminal run `aws configure` or `aws sso login`, or set AWS_PROFILE; "
            'or choose BACKEND = "local", which needs no account.'
        )
    if not session.region_name:
        raise BackendError(
            "no AWS region is set. Set AWS_REGION, for example to us-east-1, before the notebook starts, or run "
            "`aws configure set region us-east-1` in a terminal."
        )
    try:
        identity = session.client("sts").get_caller_identity()
    except ClientError as error:
        raise BackendError(
            f"AWS refuses the credentials: {error.response['Error'].get('Message')} "
            "Renew them (`aws sso login`, or new keys), restart the kernel, and run this cell again."
        ) from error
    except BotoCoreError as error:
        if url:
            raise LocalServerDied(died(url)) from error
        raise BackendError(f"AWS cannot be reached in {session.region_name}: {error}") from error
    return Ground(backend, session.region_name, identity["Account"], identity["Arn"], url)


# -- when the local server is gone --------------------------------------------------------------------------------


def died(url: str) -> str:
    """What to tell somebody whose local server is gone."""
    status = _run("status").stdout.strip() or "no server"
    return (
        f"The local SageMaker at {url} does not answer any more: it was stopped, it was killed, or it ended by "
        "itself after a long time without requests. Its endpoints ended with it.\n"
        f"({_COMMAND} status says: {status})\n"
        "What to do: run this notebook again from its first cell. Workshop(...) starts a new server, and the cells "
        "that create things create them anew."
    )


@contextmanager
def explained(ground: Ground) -> Iterator[None]:
    """Turn the connection errors of a dead local server into LocalServerDied."""
    from botocore.exceptions import ConnectionClosedError, EndpointConnectionError

    try:
        yield
    except (ConnectionClosedError, EndpointConnectionError) as error:
        if ground.is_local and local_environment() is None:
            raise LocalServerDied(died(ground.url)) from error
        raise


def _explain_in_notebook(ground: Ground) -> None:
    """Make cells that call the SDK or boto3 themselves end with the same explanation, below their traceback."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    from botocore.exceptions import ConnectionClosedError, EndpointConnectionError

    def handler(shell, kind, error, traceback, tb_offset=None):
        if local_environment() is None:
            explanation = LocalServerDied(died(ground.url))
            explanation.__cause__ = error
            kind, error = LocalServerDied, explanation
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((ConnectionClosedError, EndpointConnectionError), handler)
