"""Looking at a training job: its way as it happens with a chart drawn live, its metrics, what it cost.

A job's metrics are read from its log lines by its own metric definitions, which is what CloudWatch does with them.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from shared import live_chart
from shared.display import Output, table
from shared.instances import dollars, price_per_hour
from shared.resources import RUNNING, TRAINING_JOB, TRAINING_LOGS
from shared.watching import HEARTBEAT, LogReader, elapsed

_STEP = re.compile(r"\bstep[=: ]+(\d+)")
# The SDK's drivers print the job's whole environment before they start the script, and their commands.
_DRIVERS_BEGIN, _DRIVERS_END = "Starting training script", "Executing command:"

Series = Mapping[str, list[tuple[float, float]]]  # metric name -> (step, value) in the order of the log


class TrainingJobFailed(RuntimeError):
    """The job failed or was stopped; the message has AWS's reason and the last log lines."""


@dataclass
class Metrics:
    """What the metric `definitions` ([{"Name", "Regex"}]) of a job find in its log lines."""

    definitions: Iterable[Mapping[str, str]]
    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self):
        self._patterns = [(item["Name"], re.compile(item["Regex"])) for item in self.definitions]
        self._lines = 0

    def read(self, line: str) -> bool:
        """Take the values of one line: at its `step=`, or counted if it names none. Returns whether there were any."""
        found = [(name, match) for name, pattern in self._patterns if (match := pattern.search(line))]
        if found:
            self._lines += 1
            step = _STEP.search(line)
            for name, match in found:
                try:
                    value = float(match.group(1))
                except ValueError:  # as for "-", which AWS's own pattern of numbers lets through
                    continue
                self.series[name].append((int(step.group(1)) if step else self._lines, value))
        return bool(found)


class _ScriptLines:
    """Tells the script's lines from those of the SDK's drivers, which would hide them, stream by stream."""

    def __init__(self) -> None:
        self._in_drivers: dict[str, bool] = {}
        self.hidden = 0

    def shows(self, stream: str, line: str) -> bool:
        # A spot job that was interrupted begins anew in the same stream.
        if stream not in self._in_drivers or line == _DRIVERS_BEGIN:
            self._in_drivers[stream] = line.startswith(_DRIVERS_BEGIN)
        elif line.startswith(_DRIVERS_END):
            self._in_drivers[stream] = False
            return False
        hidden = self._in_drivers[stream] or line.startswith("++ ")
        self.hidden += hidden
        return not hidden


def log_reader(logs: Any, name: str) -> LogReader:
    """The log of a training job: one stream for each of its hosts."""
    return LogReader(logs, TRAINING_LOGS, prefix=f"{name}/")


def describe(sagemaker: Any, name: str) -> dict[str, Any]:
    """The description of a training job. Raises LookupError when there is none of that name."""
    description = TRAINING_JOB.describe(sagemaker, name)
    if description is None:
        raise LookupError(f"there is no training job {name!r} in this account and region")
    return description


def metrics(sagemaker: Any, logs: Any, name: str) -> dict[str, list[tuple[float, float]]]:
    """All metrics of a training job, as (step, value) lists by name, from its log."""
    found = Metrics(_definitions(describe(sagemaker, name)))
    for line in log_reader(logs, name).new_lines():
        found.read(line)
    return dict(found.series)


def watch(
    sagemaker: Any,
    logs: Any,
    name: str,
    poll: float = 1.0,
    timeout: float = 7200.0,
    most_lines: int = 60,
    chart: str | None = "loss",
    log_delay: float = 0.0,
    say: Callable[[str], None] = print,
) -> None:
    """Show a training job until it ends: a chart above, a line when its status changes, the script's log lines.

    The chart has the metrics whose names contain `chart`; None draws none. Of the log at most `most_lines` lines are
    shown, without those of the SDK's own drivers. A job that has ended already is shown the same way. The last lines
    may come up to `log_delay` seconds after the end.

    Raises TrainingJobFailed when the job fails or is stopped, TimeoutError when it has not ended after `timeout`
    seconds (it goes on then), LookupError when there is no such job.
    """
    description = describe(sagemaker, name)
    found = Metrics(_definitions(description))
    picture = live_chart.LiveChart() if chart and any(chart in item["Name"] for item in found.definitions) else None
    reader, script = log_reader(logs, name), _ScriptLines()
    lines: list[str] = []
    shown = 0
    started = spoken = time.monotonic()
    status = ended = None
    while True:
        now = time.monotonic()
        clock = elapsed(now - started)
        before, status = status, description["SecondaryStatus"]
        if status != before or now - spoken > HEARTBEAT:
            say(f"{clock}  {status}")
            spoken = now
        for stream, line in reader.new_events():
            lines.append(line)
            found.read(line)
            if not script.shows(stream, line):
                continue
            shown += 1
            if shown <= most_lines:
                say(f"{clock}    | {line}")
                spoken = now
            elif shown == most_lines + 1:
                say(f"{clock}    | ... (more in the log group {reader.group})")
        running = description["TrainingJobStatus"] in RUNNING
        if picture:
            series = {name: points for name, points in found.series.items() if chart in name}
            picture.draw(series, _last_step(description), final=not running)
        if not running:
            ended = ended or now
            final = description.get("FinalMetricDataList", [])
            if now - ended >= log_delay or (final and _are_in(found, final)):
                break
        elif now - started > timeout:
            raise TimeoutError(f"training job {name} is still {status} after {timeout:.0f} s; it goes on")
        time.sleep(poll)
        description = describe(sagemaker, name)
    if picture:
        picture.close()
    if description["TrainingJobStatus"] != "Completed":
        last = "\n".join(f"  | {line}" for line in lines[-20:]) or "  (none)"
        raise TrainingJobFailed(
            f"training job {name} is {status}: {description.get('FailureReason', 'no reason given')}\n"
            f"Last lines of its log, group {reader.group}:\n{last}"
        )


def _definitions(description: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return description["AlgorithmSpecification"].get("MetricDefinitions", [])


def _last_step(description: Mapping[str, Any]) -> float | None:
    """The step at which the script will end, if it was told one."""
    value = description.get("HyperParameters", {}).get("max_steps", "").strip('"')
    return float(value) if value.isdigit() and int(value) else None


def _are_in(found: Metrics, final: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the log has shown the last value of every metric that SageMaker knows."""
    return all(
        item["MetricName"] in found.series
        and abs(found.series[item["MetricName"]][-1][1] - item["Value"]) <= 1e-4 * max(1.0, abs(item["Value"]))
        for item in final
    )


# -- a finished one -----------------------------------------------------------------------------------------------


def newest(sagemaker: Any, s3: Any, kind: Any, base_name: str, say: Callable[[str], None] = print) -> str | None:
    """The name of the newest job of `kind` whose name begins with `base_name`, if it runs or has completed.

    One that failed or was stopped is not taken, nor a training job whose model is not in S3 any more.
    """
    for summary in kind.listed(sagemaker, base_name, running=False):
        name, status = summary[f"{kind.word}Name"], summary[f"{kind.word}Status"]
        if name != base_name and not name.startswith(f"{base_name}-"):
            continue
        label = kind.label.removeprefix("running ")
        if status not in ("InProgress", "Completed"):
            say(f"the {label} {name} is {status}: starting another")
            return None
        if status == "Completed" and kind is TRAINING_JOB:
            artifact = describe(sagemaker, name)["ModelArtifacts"]["S3ModelArtifacts"]
            if not _is_there(s3, artifact):
                say(f"the {label} {name} has completed, but its model was deleted from S3: starting another")
                return None
        say(f"re-attached to the {label} {name} ({status})")
        return name
    return None


def _is_there(s3: Any, uri: str) -> bool:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NoSuchBucket"):
            return False
        raise
    return True


def cost(descriptions: Iterable[Mapping[str, Any]]) -> Output:
    """A table of what ended training jobs are billed: seconds of each instance, and USD on AWS by the dated price.

    Raises ValueError for a job that still runs.
    """
    rows = []
    for item in descriptions:
        if item["TrainingJobStatus"] in RUNNING:
            raise ValueError(f"{item['TrainingJobName']} still runs: AWS says what it billed when it has ended")
        usd = dollars_on_aws(item)
        resources = item["ResourceConfig"]
        price = price_per_hour(resources["InstanceType"])
        rows.append(
            (
                item["TrainingJobName"],
                f"{resources['InstanceCount']} x {resources['InstanceType']}",
                item["BillableTimeInSeconds"],
                "unknown" if price is None else dollars(price),
                "unknown" if usd is None else f"{usd:.4f} USD",
            )
        )
    return table(rows, columns=["training job", "instances", "seconds billed", "price per hour", "on AWS"])


def dollars_on_aws(description: Mapping[str, Any]) -> float | None:
    """USD for one ended training job on AWS; None for an instance type without a price in the table."""
    resources = description["ResourceConfig"]
    price = price_per_hour(resources["InstanceType"])
    if price is None:
        return None
    return price / 3600 * description.get("BillableTimeInSeconds", 0) * resources["InstanceCount"]
