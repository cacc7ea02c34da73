"""Managed warm pools: what a finished job's KeepAlivePeriodInSeconds keeps for the next job that matches it.

https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .kept_containers import KeptContainer
from .records import Record

_MATCHING_MEMBERS = ("InstanceType", "InstanceCount", "VolumeSizeInGB")


@dataclass
class _Pool:
    record: Record
    containers: list[KeptContainer]
    since: float
    timer: threading.Timer


class WarmPools:
    """All warm pools. `lock` is that of the records: it guards what their WarmPoolStatus says, too."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._pools: dict[str, _Pool] = {}
        self._closed = False

    def take(self, record: Record) -> list[KeptContainer]:
        """The containers of the pool that a new job matches, which is the job's from now on; none without a pool.

        A job with a keep-alive period of its own says from now on that its pool is in use.
        """
        with self._lock:
            if record.fields["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
                record.fields["WarmPoolStatus"] = {"Status": "InUse"}
            for arn, pool in self._pools.items():
                if _matches(pool.record, record):
                    pool.timer.cancel()
                    del self._pools[arn]
                    self._close_status(pool, "Reused", ReusedByJob=record.name)
                    found = pool.containers
                    break
            else:
                return []
        if all(container.lives for container in found):
            return found
        for container in found:
            container.remove()
        return []

    def keep(self, record: Record, containers: Sequence[KeptContainer]) -> bool:
        """Keep what a completed job leaves, for its keep-alive period; False where it has none."""
        seconds = record.fields["ResourceConfig"].get("KeepAlivePeriodInSeconds")
        with self._lock:
            if not seconds or self._closed:
                return False
            timer = threading.Timer(seconds, self._expire, [record.arn])
            timer.daemon = True
            self._pools[record.arn] = _Pool(record, list(containers), time.time(), timer)
            record.fields["WarmPoolStatus"] = {"Status": "Available"}
            timer.start()
            return True

    def release(self, record: Record) -> None:
        """A job has ended. Where nothing of it is kept, although it asked for that, its status says so."""
        with self._lock:
            if record.fields.get("WarmPoolStatus", {}).get("Status") == "InUse":
                record.fields["WarmPoolStatus"] = {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": 0}

    def update(self, record: Record, seconds: int) -> bool:
        """Let an available pool end so many seconds after its job did; False where the job has none."""
        with self._lock:
            pool = self._pools.get(record.arn)
            if pool is None:
                return False
            pool.timer.cancel()
            record.fields["ResourceConfig"]["KeepAlivePeriodInSeconds"] = seconds
            left = max(0.0, pool.since + seconds - time.time())
            pool.timer = threading.Timer(left, self._expire, [record.arn])
            pool.timer.daemon = True
            pool.timer.start()
            return True

    def close(self) -> None:
        """End all pools, and every process in them."""
        with self._lock:
            self._closed = True
            pools = list(self._pools)
        for arn in pools:
            self._expire(arn)

    def _expire(self, arn: str) -> None:
        with self._lock:
            pool = self._pools.pop(arn, None)
            if pool is None:
                return
            pool.timer.cancel()
            self._close_status(pool, "Terminated")
        for container in pool.containers:
            container.remove()

    def _close_status(self, pool: _Pool, status: str, **more: str) -> None:
        pool.record.fields["WarmPoolStatus"] = {
            "Status": status,
            "ResourceRetainedBillableTimeInSeconds": round(time.time() - pool.since),
            **more,
        }


def _matches(kept: Record, wanted: Record) -> bool:
    ours, theirs = kept.fields, wanted.fields
    return (
        ours["RoleArn"] == theirs["RoleArn"]
        and ours["EnableInterContainerTrafficEncryption"] == theirs["EnableInterContainerTrafficEncryption"]
        and not theirs["EnableManagedSpotTraining"]
        and all(
            ours["ResourceConfig"].get(member) == theirs["ResourceConfig"].get(member) for member in _MATCHING_MEMBERS
        )
    )
