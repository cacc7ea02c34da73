"""The state folder: where a server keeps its credentials, its record, its locks, its logs.

Everything that two processes must agree on (the command line and the server, a kernel and its children) is a file here.
The folder is private to its owner (0700), because its credentials let anybody run code through the server.
"""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ACCOUNT = "123456789012"
DEFAULT_REGION = "us-east-1"
ROLE_NAME = "AmazonSageMaker-ExecutionRole-Local"

_ACCESS_KEY_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

# Variables that make a client choose another profile, other keys or another address, and values that do not.
_HARMLESS = {
    "AWS_PROFILE": "default",
    "AWS_DEFAULT_PROFILE": "default",
    "AWS_SESSION_TOKEN": "",
    "AWS_SECURITY_TOKEN": "",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
    "AWS_USE_FIPS_ENDPOINT": "false",
    "AWS_USE_DUALSTACK_ENDPOINT": "false",
}

STATUS_PATH = "/local-sagemaker"
"""Where the server tells who it is; the signing name of that request is `STATUS_SERVICE`."""
STATUS_SERVICE = "local-sagemaker"
INTERRUPT_PATH = f"{STATUS_PATH}/interrupt"
"""Where the server is told to take a spot training job's instances away."""


@dataclass(frozen=True)
class Credentials:
    """The one pair of keys that the server of a state folder accepts."""

    access_key: str
    secret_key: str


@dataclass
class ServerRecord:
    """What a running server tells about itself: `id` is random for each start, `started` is in Unix seconds."""

    id: str
    pid: int
    port: int
    region: str
    started: float
    endpoints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The endpoint URL for AWS clients."""
        return f"http://127.0.0.1:{self.port}"


class StateFolder:
    """The files of one local SageMaker under `root`."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.logs = self.root / "logs"
        self.server_log = self.logs / "server.log"
        self.endpoint_logs = self.logs / "endpoints"
        self.training_logs = self.logs / "training-jobs"
        self.objects = self.root / "objects"
        self.artifacts = self.root / "artifacts"
        self.training = self.root / "training"
        self.training_records = self.root / "training-records"
        self.credentials_file = self.root / "credentials"
        self.config_file = self.root / "config"
        self.sdk_config_file = self.root / "sagemaker-sdk.yaml"
        self._record_file = self.root / "server.json"
        self._port_file = self.root / "port"

    def create(self) -> None:
        """Make the folders, private to their owner. Raises OSError where that is not possible.

        A folder that holds other things is refused: its permissions are not ours to change.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self._lock_file("start")
        if not marker.exists() and any(self.root.iterdir()) and not marker.exists():
            raise OSError("it holds other files; name a new or empty folder")
        self.root.chmod(0o700)
        marker.touch(mode=0o600)
        for folder in (self.logs, self.endpoint_logs, self.training_logs, self.objects, self.training_records):
            folder.mkdir(exist_ok=True)

    # -- who runs ------------------------------------------------------------------------------------------------

    def take_lock(self, name: str, wait_seconds: float = float("inf")) -> int | None:
        """Take the lock `name` ("start" or "server"); None where it stays taken for `wait_seconds`.

        It is held until the returned file descriptor is closed or the process ends. The kernel sees to that, however
        the process ends, so a lock that is held proves a living process, which a process id in a file does not.
        """
        descriptor = os.open(self._lock_file(name), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        return descriptor

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Keep every other start out; waits for one that is under way."""
        descriptor = self.take_lock("start")
        try:
            yield
        finally:
            os.close(descriptor)

    def server_lives(self) -> bool:
        """Whether some process holds the server's lock now."""
        try:
            descriptor = os.open(self._lock_file("server"), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def _lock_file(self, name: str) -> Path:
        return self.root / f"{name}.lock"

    def read_record(self) -> ServerRecord | None:
        """The record of the last server, running or not; None where it ended in order or never ran."""
        try:
            return ServerRecord(**json.loads(self._record_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_record(self, record: ServerRecord) -> None:
        """Publish `record` in one step, so that no reader sees half of it."""
        self._write_private(self._record_file, json.dumps(asdict(record)))

    def remove_record(self) -> None:
        """Forget the server: it ended in order, or its remains have been reported."""
        self._record_file.unlink(missing_ok=True)

    # -- what is remembered --------------------------------------------------------------------------------------

    def write_training_record(self, name: str, content: dict[str, Any]) -> None:
        """Keep what is known of a training job under way, for the next start, should this server be killed."""
        self._write_private(self.training_records / f"{name}.json", json.dumps(content))

    def remove_training_record(self, name: str) -> None:
        """Forget a training job that has ended."""
        (self.training_records / f"{name}.json").unlink(missing_ok=True)

    def take_training_records(self) -> list[dict[str, Any]]:
        """The training jobs that were under way when the last server was killed; forgets them."""
        records = []
        for path in sorted(self.training_records.glob("*.json")):
            try:
                records.append(json.loads(path.read_text()))
            except ValueError:
                records.append({"name": path.stem})
            path.unlink()
        return records

    def remembered_port(self) -> int | None:
        """The port of the last server, so that clients configured then find the next one; None before the first."""
        try:
            return int(self._port_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def remember_port(self, port: int) -> None:
        """Keep `port` for the next start."""
        self._write_private(self._port_file, str(port))

    def credentials(self) -> Credentials:
        """The folder's keys, made at random on first use, kept in AWS's own credentials format."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.credentials_file)
        try:
            section = parser["default"]
            return Credentials(section["aws_access_key_id"], section["aws_secret_access_key"])
        except KeyError:
            made = Credentials(
                "AKIA" + "".join(secrets.choice(_ACCESS_KEY_ALPHABET) for _ in range(16)), secrets.token_hex(20)
            )
            self._write_private(
                self.credentials_file,
                f"[default]\naws_access_key_id = {made.access_key}\naws_secret_access_key = {made.secret_key}\n",
            )
            return made

    def write_client_files(self, record: ServerRecord) -> None:
        """Write the files that the values of `client_environment` name."""
        # Without the last two lines boto3 and awscli presign S3 URLs in us-east-1 by the old signature version 2.
        self._write_private(
            self.config_file,
            f"[default]\nregion = {record.region}\nendpoint_url = {record.url}\ns3 =\n    signature_version = s3v4\n",
        )
        self._write_private(
            self.sdk_config_file,
            "SchemaVersion: '1.0'\n"
            "SageMaker:\n"
            "  PythonSDK:\n"
            "    Modules:\n"
            "      TelemetryOptOut: true\n"
            "      Session:\n"
            f"        DefaultS3Bucket: {default_bucket(record.region)}\n",
        )

    def container_environment(self, record: ServerRecord) -> dict[str, str]:
        """The environment variables that let a container, which sees no file of this folder, call the server."""
        credentials = self.credentials()
        return {
            "AWS_ENDPOINT_URL": record.url,
            "AWS_REGION": record.region,
            "AWS_DEFAULT_REGION": record.region,
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            # Clients and containers of a machine behind a proxy would ask that proxy for 127.0.0.1.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), _hosts_without_proxy()),
        }

    def client_environment(self, record: ServerRecord) -> dict[str, str]:
        """The environment variables that point an AWS client at the server of `record`.

        Variables of this process that would lead it elsewhere all the same are among them, with a value that does not.
        """
        harmless = {name: value for name, value in _HARMLESS.items() if name in os.environ}
        addressed = {name: record.url for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")}
        return (
            self.container_environment(record)
            | harmless
            | addressed
            | {
                "AWS_CONFIG_FILE": str(self.config_file),
                "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file),
                "SAGEMAKER_USER_CONFIG_OVERRIDE": str(self.sdk_config_file),
            }
        )

    @staticmethod
    def _write_private(path: Path, text: str) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _hosts_without_proxy() -> str:
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    return named if "*" in hosts else ",".join(dict.fromkeys([*hosts, "127.0.0.1"]))


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_state_root() -> Path:
    """SAGEMAKER_LOCAL_STATE, else `.sagemaker-local` in the checkout."""
    named = os.environ.get("SAGEMAKER_LOCAL_STATE")
    if named:
        return Path(named)
    return package_root() / ".sagemaker-local"


def package_root() -> Path:
    """The folder from which this package is imported under its full name; in a checkout, its root."""
    return Path(__file__).resolve().parents[__package__.count(".") + 1]


def default_bucket(region: str) -> str:
    """The bucket that the SageMaker SDK uses where none is named."""
    return f"sagemaker-{region}-{ACCOUNT}"


def execution_role_arn() -> str:
    """The role that the server makes at its start."""
    return f"arn:aws:iam::{ACCOUNT}:role/service-role/{ROLE_NAME}"
