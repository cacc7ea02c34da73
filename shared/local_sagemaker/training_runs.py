"""A training job's life: hosts prepared, watched, stopped, interrupted, tried again; what they leave is uploaded."""

from __future__ import annotations

import enum
import errno
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .artifacts import merged_files, upload_archive, upload_files
from .channels import ChannelError, Storage, download, find_files, share_of
from .failure_reasons import algorithm_error
from .folder_sync import FolderSync, restore
from .kept_containers import KeptContainer, can_be_kept
from .training_hosts import Surroundings, TrainingHost
from .training_metrics import MetricReader
from .training_plans import TrainingPlan
from .training_progress import TrainingProgress
from .warm_pools import WarmPools

log = logging.getLogger(__name__)


class Wish(enum.Enum):
    """What somebody wants of a job that is under way."""

    STOP = "stop"
    ABANDON = "abandon"
    INTERRUPT = "interrupt"


class Outcome(enum.Enum):
    """How an attempt at a job, or the whole of it, came out."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    MAX_RUNTIME = "runtime exceeded"
    MAX_WAIT = "wait time exceeded"
    INTERRUPTED = "interrupted"
    ABANDONED = "abandoned"


class JobFailure(Exception):
    """The job has failed; the message is its FailureReason."""


class _Wished(Exception):
    """Somebody wants the attempt to end while it is being prepared."""


@dataclass(frozen=True)
class Environs:
    """What runs take from the server. `folder` is for working files, `artifacts` for what is to stay."""

    region: str
    storage: Storage
    folder: Path
    artifacts: Path
    log: Callable[[str, str], None]
    metric: Callable[[str, str, float, float], None]
    flush: Callable[[], None]
    container_environment: dict[str, str]
    grace_seconds: float


class TrainingRun:
    """One job, from `start` to its end, on a thread of its own."""

    def __init__(
        self,
        plan: TrainingPlan,
        progress: TrainingProgress,
        environs: Environs,
        warm_pools: WarmPools,
        on_end: Callable[[], None],
    ) -> None:
        self.plan = plan
        self._warm_pools = warm_pools
        self._kept = warm_pools.take(progress.record)
        self._progress = progress
        self._environs = environs
        self._on_end = on_end
        self._folder = environs.folder / plan.name
        self._created = time.time()
        self._changed = threading.Condition()
        self._wish: Wish | None = None
        self._ended = 0
        self._no_capacity_until = 0.0
        self._metrics = MetricReader(plan.metrics, self._report_metric, self._log_to_first)
        self._hosts: list[TrainingHost] = []
        self._syncs: list[FolderSync] = []
        self._thread = threading.Thread(target=self._run, name=f"training-{plan.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the containers to end, and upload what they have saved; returns at once."""
        self._want(Wish.STOP)

    def abandon(self) -> None:
        """End every process now and leave nothing behind, because the server ends; returns when that is done."""
        self._want(Wish.ABANDON)
        for host in list(self._hosts):
            host.stop(0)
        self.join()

    def interrupt(self, seconds: float) -> bool:
        """Take the instances away, as spot capacity goes, and give new ones after so many seconds.

        False where the job is not in its training phase.
        """
        with self._changed:
            if self._wish is not None or not self._hosts or self._ended:
                return False
            self._no_capacity_until = time.time() + seconds
            self._wish = Wish.INTERRUPT
            self._changed.notify_all()
            return True

    def join(self) -> None:
        """Wait for the end."""
        if self._thread.ident is not None:
            self._thread.join()

    def _want(self, wish: Wish) -> None:
        with self._changed:
            self._wish = wish
            self._changed.notify_all()

    def _run(self) -> None:
        progress = self._progress
        try:
            progress.enter("Starting", "Starting the training job")
            outcome = self._until_decided()
            if outcome is not Outcome.ABANDONED:
                self._upload(outcome)
            # What the job has said must be readable before anybody is told that it has ended.
            self._environs.flush()
            if outcome is Outcome.COMPLETED:
                self._keep_warm()
            self._end(outcome)
        except JobFailure as failure:
            self._upload_output_of_failure()
            self._environs.flush()
            self._finish("Failed", "Failed", "Training job failed", str(failure))
        except Exception as error:
            log.exception("training job %s", self.plan.name)
            self._environs.flush()
            self._finish("Failed", "Failed", "Training job failed", _internal_error(error))
        finally:
            self._stop_hosts(0)
            for container in self._kept:
                container.remove()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._on_end()

    def _keep_warm(self) -> None:
        """Hand the containers over to the warm pool, where the job asks for one."""
        clean = [container for container in self._kept if container.clean()]
        kept = clean if len(clean) == len(self._kept) else []
        if self._warm_pools.keep(self._progress.record, kept) and kept:
            self._kept, self._hosts = [], []

    def _end(self, outcome: Outcome) -> None:
        endings = {
            Outcome.COMPLETED: ("Completed", "Completed", "Training job completed"),
            Outcome.STOPPED: ("Stopped", "Stopped", "Training job stopped"),
            Outcome.ABANDONED: ("Stopped", "Stopped", "Training job stopped: the local SageMaker ends"),
            Outcome.MAX_RUNTIME: (
                "Stopped", "MaxRuntimeExceeded", "Training job runtime exceeded MaxRuntimeInSeconds provided",
            ),
            Outcome.MAX_WAIT: (
                "Stopped", "MaxWaitTimeExceeded", "Training job wait time exceeded MaxWaitTimeInSeconds provided",
            ),
        }  # fmt: skip
        self._finish(*endings[outcome])

    def _finish(self, status: str, secondary: str, message: str, reason: str | None = None) -> None:
        self._warm_pools.release(self._progress.record)
        self._progress.end(status, secondary, message, reason)

    def _until_decided(self) -> Outcome:
        """Attempt the job until it has ended for good. Raises JobFailure."""
        retries = 0
        while True:
            try:
                outcome = self._attempt()
            except JobFailure:
                raise
            except Exception as error:
                if self._wish is Wish.ABANDON:
                    return Outcome.ABANDONED  # A host that ends takes the job's folder with it, while others start.
                if retries == self.plan.max_retries:
                    raise
                retries += 1
                log.exception("training job %s, attempt %d", self.plan.name, retries)
                self._discard()
                self._progress.enter(
                    "Restarting", f"Restarting the training job ({retries} of {self.plan.max_retries}): {error}"
                )
                continue
            if outcome is not Outcome.INTERRUPTED:
                return outcome
            self._discard()
            outcome = self._wait_for_capacity()
            if outcome is not None:
                return outcome

    def _wait_for_capacity(self) -> Outcome | None:
        """What ended the wait for new instances; None when they are there."""
        self._progress.enter("Interrupted", "Training job interrupted: the spot instances were taken back")
        with self._changed:
            if self._wish is Wish.INTERRUPT:
                self._wish = None
            while self._wish is None:
                now = time.time()
                if now >= self._no_capacity_until:
                    break
                if now >= self._wait_deadline():
                    return Outcome.MAX_WAIT
                self._changed.wait(min(self._no_capacity_until, self._wait_deadline()) - now)
            if self._wish is not None:
                return Outcome.STOPPED if self._wish is Wish.STOP else Outcome.ABANDONED
        self._progress.enter("Starting", "Launching requested ML instances")
        return None

    def _attempt(self) -> Outcome:
        """Prepare the hosts and run their containers to their end, however it comes."""
        plan, progress = self.plan, self._progress
        shutil.rmtree(self._folder, ignore_errors=True)
        surroundings = Surroundings(
            region=self._environs.region,
            started=self._created,
            folder=self._folder,
            log=self._environs.log,
            on_line=self._metrics.read,
            grace_seconds=self._environs.grace_seconds,
            master_port=free_port(),
            container_environment=self._environs.container_environment,
        )
        progress.enter("Downloading", "Downloading input data")
        progress.start_clock()
        if plan.keep_alive and not self._kept and can_be_kept():
            self._kept = [KeptContainer(self._environs.folder, surroundings.grace_seconds) for _ in plan.hosts]
        kept = self._kept or [None] * plan.instance_count
        hosts = [
            TrainingHost(plan, name, surroundings, container) for name, container in zip(plan.hosts, kept, strict=True)
        ]
        try:
            self._fill(hosts)
        except ChannelError as error:
            raise JobFailure(f"ClientError: Data download failed: {error}") from error
        except _Wished:
            return self._outcome_wished()
        progress.enter("Training", "Training image download completed. Training in progress.")
        for sync in self._syncs:
            sync.start()
        with self._changed:
            self._ended = 0
            self._hosts = hosts
        for host in hosts:
            host.start(self._host_ended)
        return self._watch()

    def _fill(self, hosts: list[TrainingHost]) -> None:
        """Give every host its input, and what earlier attempts or jobs have left as checkpoints."""
        storage = self._environs.storage
        for channel in self.plan.channels:
            files = find_files(channel, storage, self._folder)
            for number, host in enumerate(hosts):
                share = share_of(files, channel, number, len(hosts))
                download(share, channel, host.channel_folder(channel.name), storage, self._check_wish)
        self._syncs = []
        for copy in (self.plan.checkpoints, self.plan.tensorboard):
            for host in hosts if copy else []:
                folder = host.folder(copy.folder)
                folder.mkdir(parents=True, exist_ok=True)
                if copy is self.plan.checkpoints:
                    restore(copy, folder, storage, self._check_wish)
                scratch = self._folder / f"sync-{len(self._syncs)}"
                self._syncs.append(FolderSync(copy, folder, scratch, storage, self._log_to_first))

    def _check_wish(self) -> None:
        with self._changed:
            if self._wish is not None:
                raise _Wished

    def _host_ended(self) -> None:
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def _watch(self) -> Outcome:
        """Wait for the containers' end, or end them. Raises JobFailure where one of them fails."""
        limits = {Outcome.MAX_RUNTIME: time.time() + self.plan.max_runtime - self._progress.seconds_used}
        if self.plan.max_wait is not None:
            limits[Outcome.MAX_WAIT] = self._wait_deadline()
        exceeded, deadline = min(limits.items(), key=lambda limit: limit[1])
        with self._changed:
            while self._wish is None and not self._all_ended() and not self._failed() and time.time() < deadline:
                self._changed.wait(deadline - time.time())
            wished, all_ended, failed = self._wish, self._all_ended(), self._failed()
        if wished is None and failed is not None:
            self._stop_hosts(0)
            self._finish_syncs()
            raise JobFailure(algorithm_error(failed.failure, list(failed.last_lines), failed.exit_status))
        if wished is None and not all_ended:
            self._progress.enter("Stopping", "Stopping the training job", status="Stopping")
        if wished is not None or not all_ended:
            self._stop_hosts(0 if wished is Wish.ABANDON else None)
        self._finish_syncs(wished is not Wish.ABANDON)
        if wished is not None:
            return self._outcome_wished()
        return Outcome.COMPLETED if all_ended else exceeded

    def _outcome_wished(self) -> Outcome:
        outcomes = {
            Wish.STOP: Outcome.STOPPED,
            Wish.ABANDON: Outcome.ABANDONED,
            Wish.INTERRUPT: Outcome.INTERRUPTED,
        }
        with self._changed:
            return outcomes[self._wish]

    def _all_ended(self) -> bool:
        return self._ended == len(self._hosts)

    def _failed(self) -> TrainingHost | None:
        return next((host for host in self._hosts if host.exit_status), None)

    def _stop_hosts(self, grace_seconds: float | None) -> None:
        stoppers = [threading.Thread(target=host.stop, args=(grace_seconds,)) for host in self._hosts]
        for thread in stoppers:
            thread.start()
        for thread in stoppers:
            thread.join()

    def _finish_syncs(self, last_copy: bool = True) -> None:
        for sync in self._syncs:
            sync.finish(last_copy)

    def _discard(self) -> None:
        """The instances of an attempt are gone, with all that was on them."""
        self._stop_hosts(0)
        for container in self._kept:
            container.remove()
        self._kept = []
        self._finish_syncs(last_copy=False)
        self._progress.stop_clock()
        with self._changed:
            self._hosts = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_deadline(self) -> float:
        return self._created + (self.plan.max_wait or float("inf"))

    def _upload(self, outcome: Outcome) -> None:
        """Upload the model and the output of a job that has not failed."""
        if not self._hosts:
            return
        self._progress.enter("Uploading", "Uploading generated training model")
        model = merged_files([host.folder("/opt/ml/model") for host in self._hosts])
        try:
            if model or outcome is Outcome.COMPLETED:
                self._upload_folder(model, "model")
            self._upload_output()
        except FileNotFoundError as error:
            raise JobFailure(f"ClientError: Artifact upload failed: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JobFailure(
                    "ClientError: Artifact upload failed: the disk of this machine is full "
                    f"({error.strerror}). Free some space."
                ) from error
            raise

    def _upload_output(self) -> None:
        output = merged_files([host.folder("/opt/ml/output/data") for host in self._hosts])
        if output:
            self._upload_folder(output, "output")

    def _upload_folder(self, files: dict[str, Path], name: str) -> None:
        plan, storage = self.plan, self._environs.storage
        if plan.compress_output:
            archive = self._environs.artifacts / plan.name / f"{name}.tar.gz"
            upload_archive(files, f"{plan.output_url}/{name}.tar.gz", archive, storage)
        else:
            upload_files(files, f"{plan.output_url}/{'data' if name == 'output' else name}", storage)

    def _upload_output_of_failure(self) -> None:
        try:
            if self._hosts:
                self._upload_output()
        except OSError as error:
            log.warning("the output of the failed training job %s is not uploaded: %s", self.plan.name, error)

    def _report_metric(self, name: str, value: float, timestamp: float) -> None:
        self._progress.metric(name, value, timestamp)
        self._environs.metric(self.plan.name, name, value, timestamp)

    def _log_to_first(self, line: str) -> None:
        if self._hosts:
            self._hosts[0].log(line)


def _internal_error(error: Exception) -> str:
    return (
        "InternalServerError: We encountered an internal error. Please try again. (The local SageMaker could not run "
        f"the job: {error})"
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
