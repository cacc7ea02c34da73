"""One instance of a production variant: its model data, its container, its health."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import requirements
from .archives import ArchiveError, extract
from .container_client import ContainerClient, ping
from .containers import ML_FOLDER, Container

MODEL_FOLDER = f"{ML_FOLDER}/model"
CODE_FOLDER = f"{MODEL_FOLDER}/code"
INFERENCE_SERVER = Path(__file__).with_name("inference_server")

PING_SECONDS = 2.0
PING_PAUSE_SECONDS = 0.05
STOP_GRACE_SECONDS = 3.0
RESTARTS = 3
RESTART_PAUSE_SECONDS = 0.25  # Doubled with each restart.
HEALTHY_SECONDS = 60.0  # A container that ran this long may fail RESTARTS times anew.
REASON_LINES = 40

# Of the host's environment a container sees what lets it find programs, the user's model cache and the network. Not the
# rest, and no credentials.
PASSED_ON = {
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SHELL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "TORCH_HOME", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
}  # fmt: skip


@dataclass(frozen=True)
class VariantPlan:
    """What a production variant shall run. Times in seconds."""

    name: str
    weight: float
    instance_count: int
    image: str
    environment: dict[str, str]
    model_data_url: str | None
    startup_timeout: float = 600.0
    download_timeout: float = 600.0


@dataclass(frozen=True)
class Surroundings:
    """What all instances of an endpoint share."""

    endpoint_name: str
    region: str
    account: str
    folder: Path
    fetch: Callable[[str, Path], None]
    log: Callable[[str, str], None]
    container_environment: Mapping[str, str] = field(default_factory=dict)


class StartError(Exception):
    """An instance cannot come into service; the message is the endpoint's FailureReason."""


class Stopped(Exception):
    """The endpoint was stopped meanwhile."""


class ModelInstance:
    """One instance. `run` blocks for its whole life; `stop` may be called from any thread."""

    def __init__(self, plan: VariantPlan, surroundings: Surroundings) -> None:
        self.plan = plan
        self.instance_id = f"i-{secrets.token_hex(9)[:17]}"
        self._surroundings = surroundings
        self._stream = f"{plan.name}/{self.instance_id}"
        self._folder = surroundings.folder / self.instance_id
        self._root = self._folder / "container"
        self._socket_folder: Path | None = None
        self._container: Container | None = None
        self._overlay: Path | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._last_lines: deque[str] = deque(maxlen=REASON_LINES)
        self.client: ContainerClient | None = None  # Set while the container is healthy.

    def run(self, on_in_service: Callable[[], None]) -> None:
        """Prepare, start, and keep the container running until `stop`.

        `on_in_service` is called once, when /ping succeeds for the first time. Raises StartError when it never does, or
        when the container has died too often.
        """
        try:
            self._prepare()
            self._start_container(self.plan.startup_timeout)
            on_in_service()
            self._keep_running()
        except Stopped:
            return
        finally:
            self._clean_up()

    def stop(self) -> None:
        """End the processes; `run` returns soon after. Idempotent."""
        self._stopping.set()
        with self._lock:
            container = self._container
        if container is not None:
            container.stop()

    @property
    def requests_under_way(self) -> int:
        """How many requests the container has not answered in full."""
        client = self.client
        return 0 if client is None else client.under_way

    def log(self, line: str) -> None:
        """Write a line to the instance's log stream."""
        self._surroundings.log(self._stream, line)

    def _prepare(self) -> None:
        self._root.mkdir(parents=True)
        # sockaddr_un holds about 100 characters; the state folder's path may be longer.
        short = "/tmp" if os.access("/tmp", os.W_OK) else None
        self._socket_folder = Path(tempfile.mkdtemp(prefix="sagemaker-", dir=short))
        model = self._root / "ml" / "model"
        model.parent.mkdir()
        url = self.plan.model_data_url
        if url is None:
            model.mkdir()
        else:
            archive = self._folder / "model.tar.gz"
            self._download(url, archive)
            try:
                extract(archive, model)
            except ArchiveError as error:
                raise StartError(
                    f'Failed to extract model data archive for container "container_1" from URL "{url}". Please ensure '
                    f"that the object located at the URL is a valid tar.gz archive. ({error})"
                ) from error
            finally:
                archive.unlink(missing_ok=True)
        self._check_stopping()
        self._install_requirements(model / "code")

    def _download(self, url: str, archive: Path) -> None:
        """Fetch the model data on a thread of its own, so that its time limit holds whatever `fetch` does."""
        failure: list[BaseException] = []

        def fetch() -> None:
            try:
                self._surroundings.fetch(url, archive)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=fetch, name="model-download", daemon=True)
        thread.start()
        deadline = time.monotonic() + self.plan.download_timeout
        while thread.is_alive() and time.monotonic() < deadline:
            self._check_stopping()
            thread.join(PING_PAUSE_SECONDS)
        if thread.is_alive():
            raise StartError(
                f'Failed to download model data for container "container_1" from URL: "{url}" within '
                f"{self.plan.download_timeout:.0f} seconds. Please consider increasing "
                "ModelDataDownloadTimeoutInSeconds."
            )
        if failure and isinstance(failure[0], FileNotFoundError):
            raise StartError(
                f'Failed to download model data for container "container_1" from URL: "{url}". Please ensure that '
                "there is an object located at the URL and that the role passed to CreateModel has permissions to "
                "download the object."
            ) from failure[0]
        if failure:
            raise StartError(
                f'Failed to download model data for container "container_1" from URL: "{url}". ({failure[0]})'
            ) from failure[0]

    def _install_requirements(self, code_folder: Path) -> None:
        file = code_folder / "requirements.txt"
        if not file.is_file():
            return
        missing = requirements.unsatisfied(file)
        if not missing:
            self.log("All packages of code/requirements.txt are installed already.")
            return
        self.log(f"Installing packages of code/requirements.txt, for want of: {', '.join(missing)}")
        try:
            overlay = requirements.Overlay.create(self._root / "overlay")
        except OSError as error:
            raise StartError(f"The packages of code/requirements.txt could not be installed: {error}") from error
        installation = self._container_for(
            overlay.install_command(f"{CODE_FOLDER}/requirements.txt"),
            {**requirements.installer_environment(), "TMPDIR": str(self._folder)},
            working_folder=CODE_FOLDER,
        )
        installation.start()
        status = installation.wait()
        self._check_stopping()
        if status != 0:
            raise StartError(
                f"{self._health_check_failure()} The packages of code/requirements.txt could not be installed: "
                f"{self._last_error()}"
            )
        self._overlay = overlay.packages

    def _start_container(self, timeout: float) -> None:
        """Start the inference server and wait for its /ping. Raises StartError, Stopped."""
        self._last_lines.clear()
        socket_path = self._socket_folder / "socket"
        socket_path.unlink(missing_ok=True)
        container = self._container_for([sys.executable, str(INFERENCE_SERVER), str(socket_path)], {})
        container.relocate(self._root / "ml" / "model" / "code")
        container.start()
        deadline = time.monotonic() + timeout
        while not ping(socket_path, PING_SECONDS):
            self._check_stopping()
            status = container.wait(PING_PAUSE_SECONDS)
            if status is not None:
                self._check_stopping()
                raise StartError(
                    f"{self._health_check_failure()} The container ended with exit status {status}. "
                    f"{self._last_error()}".rstrip()
                )
            if time.monotonic() > deadline:
                container.stop(0)
                raise StartError(f"{self._health_check_failure()} No answer to /ping within {timeout:.0f} seconds.")
        self.client = ContainerClient(socket_path, self.plan.name)

    def _keep_running(self) -> None:
        """Restart the container when it ends. Raises StartError when that happens too often."""
        restarts = 0
        while True:
            started = time.monotonic()
            status = self._container.wait()
            self._close_client()
            self._check_stopping()
            self.log(f"The container ended with exit status {status}.")
            if time.monotonic() - started > HEALTHY_SECONDS:
                restarts = 0
            if restarts == RESTARTS:
                raise StartError(
                    f"The primary container for production variant {self.plan.name} ended {RESTARTS + 1} times, the "
                    f"last time with exit status {status}. Please check CloudWatch logs for this endpoint. "
                    f"{self._last_error()}".rstrip()
                )
            self._stopping.wait(RESTART_PAUSE_SECONDS * 2**restarts)
            self._check_stopping()
            restarts += 1
            self.log(f"Starting the container again ({restarts} of {RESTARTS}).")
            try:
                self._start_container(self.plan.startup_timeout)
            except StartError as error:
                self.log(str(error))

    def _container_for(self, argv: list[str], extra: Mapping[str, str], working_folder: str = ML_FOLDER) -> Container:
        container = Container(
            argv,
            root=self._root,
            environment={**self._environment(), **extra},
            log=self._log_output,
            working_folder=working_folder,
            grace_seconds=STOP_GRACE_SECONDS,
            remove_when_server_dies=(self._folder, self._socket_folder),
        )
        with self._lock:
            self._check_stopping()
            self._container = container
        return container

    def _environment(self) -> dict[str, str]:
        surroundings, plan = self._surroundings, self.plan
        passed_on = {name: text for name, text in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
        python_path = [str(self._overlay)] if self._overlay else []
        return {
            **passed_on,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), passed_on.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([*python_path, CODE_FOLDER]),
            "AWS_REGION": surroundings.region,
            "AWS_DEFAULT_REGION": surroundings.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAGEMAKER_BASE_DIR": ML_FOLDER,
            "SAGEMAKER_REGION": surroundings.region,
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": CODE_FOLDER,
            "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
            "SM_MODEL_DIR": MODEL_FOLDER,
            "SM_NUM_CPUS": str(os.cpu_count() or 1),
            **surroundings.container_environment,
            **plan.environment,
        }

    def _log_output(self, line: str) -> None:
        self._last_lines.append(line)
        self.log(line)

    def _health_check_failure(self) -> str:
        return (
            f"The primary container for production variant {self.plan.name} did not pass the ping health check. "
            "Please check CloudWatch logs for this endpoint."
        )

    def _last_error(self) -> str:
        """The last line that looks like an exception's or an installer's, else the last line, named as such."""
        lines = [line.strip()[:500] for line in self._last_lines if line.strip()]
        marked = [line for line in lines if "Error" in line.split(":")[0] or line.upper().startswith("ERROR")]
        if marked:
            return marked[-1]
        return f"Its last line of output: {lines[-1]}" if lines else ""

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _close_client(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.close()

    def _clean_up(self) -> None:
        self._close_client()
        if self._container is not None:
            self._container.stop(0 if not self._stopping.is_set() else None)
        for folder in (self._folder, self._socket_folder):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
