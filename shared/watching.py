"""Looking at an endpoint: its start as it happens, and its log lines. Through CloudWatch Logs, as on AWS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from shared.resources import ENDPOINT_LOGS

HEARTBEAT = 60.0  # seconds without news after which the status is repeated


class EndpointFailed(RuntimeError):
    """The endpoint did not come into service; the message has AWS's reason and the last log lines."""


class LogReader:
    """The log lines of one endpoint or training job, each given once. `logs` is a boto3 client for "logs".

    `group` is the log group; of it, only streams whose names begin with `prefix`, and only lines after `since`: a log
    group outlives its endpoint, so one of the same name may have written before.
    """

    def __init__(self, logs: Any, group: str, prefix: str = "", since: datetime | None = None):
        self._start = {} if since is None else {"startTime": int(since.timestamp() * 1000)}
        self.group = group
        self._streams = {"logGroupName": group} | ({"logStreamNamePrefix": prefix} if prefix else {})
        self._logs = logs
        self._tokens: dict[str, str] = {}

    def new_lines(self) -> Iterator[str]:
        """The lines since the last call, stream by stream; none while the log group does not exist."""
        yield from (line for _, line in self.new_events())

    def new_events(self) -> Iterator[tuple[str, str]]:
        """The same with each line's log stream: (stream, line)."""
        try:
            pages = list(self._logs.get_paginator("describe_log_streams").paginate(**self._streams))
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return
            raise
        for stream in sorted(item["logStreamName"] for page in pages for item in page["logStreams"]):
            while True:
                token = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
                answer = self._logs.get_log_events(
                    logGroupName=self.group, logStreamName=stream, startFromHead=True, **self._start, **token
                )
                yield from ((stream, event["message"].rstrip("\n")) for event in answer["events"])
                ended = answer["nextForwardToken"] == self._tokens.get(stream)
                self._tokens[stream] = answer["nextForwardToken"]
                if ended:
                    break


def elapsed(seconds: float) -> str:
    """Seconds as minutes and seconds, "  1:07"."""
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


def watch(
    sagemaker: Any,
    logs: Any,
    endpoint_name: str,
    poll: float = 1.0,
    timeout: float = 1800.0,
    most_lines: int = 40,
    say: Callable[[str], None] = print,
) -> None:
    """Show an endpoint's way into service: a line when its status changes, and its log lines as they come.

    One that is in service already is said to be so, without its log.
    At most `most_lines` log lines are shown. Raises EndpointFailed when the endpoint fails or is deleted, TimeoutError
    after `timeout` seconds.
    """
    reader: LogReader | None = None
    lines: list[str] = []
    started = spoken = time.monotonic()
    status = ""
    while True:
        description = sagemaker.describe_endpoint(EndpointName=endpoint_name)
        before, status = status, description["EndpointStatus"]
        now = time.monotonic()
        clock = elapsed(now - started)
        if status == "InService" and not before:
            say(f"{clock}  {status}")
            return
        since = description["LastModifiedTime" if status == "Updating" else "CreationTime"]
        reader = reader or LogReader(logs, ENDPOINT_LOGS + endpoint_name, since=since)
        for line in reader.new_lines():
            lines.append(line)
            if len(lines) <= most_lines:
                say(f"{clock}    | {line}")
                spoken = now
            elif len(lines) == most_lines + 1:
                say(f"{clock}    | ... (more in the log group {reader.group})")
        if status != before or now - spoken > HEARTBEAT:
            say(f"{clock}  {status}")
            spoken = now
        if status == "InService":
            return
        if status in ("Failed", "OutOfService", "Deleting", "UpdateRollbackFailed"):
            last = "\n".join(f"  | {line}" for line in lines[-20:]) or "  (none)"
            raise EndpointFailed(
                f"endpoint {endpoint_name} is {status}: {description.get('FailureReason', 'no reason given')}\n"
                f"Last lines of its log group {reader.group}:\n{last}"
            )
        if now - started > timeout:
            raise TimeoutError(f"endpoint {endpoint_name} is still {status} after {timeout:.0f} s")
        time.sleep(poll)
