"""What this workshop has made on AWS or on the local SageMaker: found by its tags, deleted in the right order.

Every name begins with `WORKSHOP`, so that listing is one filtered call per kind, and every resource carries the tags of
`Label`. Only what has both is ever deleted. A job costs money only while it runs: running ones are found and stopped,
the records of ended ones stay.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

WORKSHOP = "genai-workshop"
ENDPOINT_LOGS = "/aws/sagemaker/Endpoints/"
TRAINING_LOGS = "/aws/sagemaker/TrainingJobs"
JOBS_FOLDER = "jobs"  # in the lab's place in S3: what training jobs made
DELETION_LIMIT = 900  # seconds

Clients = Callable[[str], Any]  # service name -> boto3 client


@dataclass(frozen=True)
class Label:
    """Whose resources: of one `lab` or, when None, of all; of one `owner` or, when None, of everybody."""

    lab: str | None
    owner: str | None

    def tags(self) -> dict[str, str]:
        """The tags that mark, or select, these resources."""
        tags = {"workshop": WORKSHOP}
        if self.lab is not None:
            tags["workshop-lab"] = self.lab
        if self.owner is not None:
            tags["workshop-owner"] = self.owner
        return tags

    def s3_prefix(self) -> str:
        """The prefix of their S3 objects: genai-workshop/<owner>/lab<lab>/."""
        if self.owner is None:
            return f"{WORKSHOP}/"
        return f"{WORKSHOP}/{self.owner}/" + (f"lab{self.lab}/" if self.lab is not None else "")

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.tags().items())


@dataclass(frozen=True)
class Kind:
    """One kind of SageMaker resource: `word` is its name in operations, as in DeleteEndpoint and EndpointName."""

    label: str
    word: str

    deletion = "deleted"

    @property
    def _snake(self) -> str:
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.word).lstrip("_")

    def listed(self, client: Any) -> Iterator[dict[str, Any]]:
        """The summaries of all whose name has our beginning."""
        for page in client.get_paginator(f"list_{self._snake}s").paginate(NameContains=WORKSHOP):
            yield from page[f"{self.word}s"]

    def describe(self, client: Any, name: str) -> dict[str, Any] | None:
        """Its description, None when there is none of that name."""
        try:
            return getattr(client, f"describe_{self._snake}")(**{f"{self.word}Name": name})
        except ClientError as error:
            if is_missing(error):
                return None
            raise

    def delete(self, client: Any, name: str) -> None:
        """Ask for its deletion; fine when it is gone already."""
        try:
            getattr(client, f"delete_{self._snake}")(**{f"{self.word}Name": name})
        except ClientError as error:
            if not is_missing(error):
                raise

    def is_gone(self, client: Any, name: str) -> bool:
        """Whether `delete` has had its effect."""
        return self.describe(client, name) is None


@dataclass(frozen=True)
class JobKind(Kind):
    """A kind that runs and ends: only those that run are listed, and deletion is stopping."""

    deletion = "stopped"

    def listed(self, client: Any, name: str = WORKSHOP, running: bool = True) -> Iterator[dict[str, Any]]:
        """The summaries of all with `name` in their names, the newest first; without `running` ended ones too."""
        pages = client.get_paginator(f"list_{self._snake}s").paginate(
            NameContains=name, SortBy="CreationTime", SortOrder="Descending"
        )
        for page in pages:
            for summary in page[f"{self.word}Summaries"]:
                if not running or summary[f"{self.word}Status"] in RUNNING:
                    yield summary

    def delete(self, client: Any, name: str) -> None:
        """Ask it to stop; fine when it has ended."""
        try:
            getattr(client, f"stop_{self._snake}")(**{f"{self.word}Name": name})
        except ClientError as error:
            if not is_missing(error) and not self.is_gone(client, name):
                raise

    def is_gone(self, client: Any, name: str) -> bool:
        """Whether it has ended."""
        description = self.describe(client, name)
        return description is None or description[f"{self.word}Status"] not in RUNNING


RUNNING = ("InProgress", "Stopping")
# In the order of deletion: a tuning job starts training jobs, an endpoint uses its configuration, that its models.
KINDS = (
    JobKind("running tuning job", "HyperParameterTuningJob"),
    JobKind("running training job", "TrainingJob"),
    Kind("endpoint", "Endpoint"),
    Kind("endpoint config", "EndpointConfig"),
    Kind("model", "Model"),
)
_, TRAINING_JOB, ENDPOINT, _, MODEL = KINDS


@dataclass(frozen=True)
class Resource:
    """One that was found: its kind, name, ARN, and tags."""

    kind: Kind
    name: str
    arn: str
    tags: dict[str, str]


def is_missing(error: ClientError) -> bool:
    """Whether SageMaker says that there is no such resource (it says so with a ValidationException)."""
    details = error.response["Error"]
    return details["Code"] in ("ResourceNotFound", "ResourceNotFoundException") or (
        details["Code"] == "ValidationException"
        and re.search("could not find|resource not found", details.get("Message", ""), re.IGNORECASE) is not None
    )


def tags_of(client: Any, arn: str) -> dict[str, str]:
    """The tags of an ARN, empty when it is gone."""
    try:
        pages = list(client.get_paginator("list_tags").paginate(ResourceArn=arn))
    except ClientError as error:
        if is_missing(error):
            return {}
        raise
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def find(client: Any, label: Label) -> list[Resource]:
    """Everything that carries the tags of `label`, in the order of deletion. `client` is boto3's for "sagemaker"."""
    found = []
    wanted = label.tags().items()
    for kind in KINDS:
        for summary in kind.listed(client):
            arn = summary[f"{kind.word}Arn"]
            tags = tags_of(client, arn)
            if wanted <= tags.items():
                found.append(Resource(kind, summary[f"{kind.word}Name"], arn, tags))
    return found


def delete(client: Any, resource: Resource, poll: float, say: Callable[[str], None] = print) -> None:
    """Delete one resource that carries our tags, or stop it if it is a job, and wait until it is gone or has ended.

    Raises PermissionError for a resource without our tags, TimeoutError when it stays.
    """
    if tags_of(client, resource.arn).get("workshop") != WORKSHOP and resource.kind.describe(client, resource.name):
        raise PermissionError(f"{resource.kind.label} {resource.name} does not carry this workshop's tags: left alone")
    if resource.kind is ENDPOINT:
        _wait_until_deletable(client, resource.name, poll, say)
    resource.kind.delete(client, resource.name)
    deadline = time.monotonic() + DELETION_LIMIT
    while not resource.kind.is_gone(client, resource.name):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{resource.kind.label} {resource.name} is still there after {DELETION_LIMIT} s")
        time.sleep(poll)


def _wait_until_deletable(client: Any, name: str, poll: float, say: Callable[[str], None]) -> None:
    """AWS refuses to delete an endpoint that is being created or updated: wait for the end of that."""
    said = False
    while (description := ENDPOINT.describe(client, name)) is not None:
        status = description["EndpointStatus"]
        if status not in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
            return
        if not said:
            say(f"endpoint {name} is {status}; it can be deleted after that, waiting ...")
            said = True
        time.sleep(poll)


def is_artifact(key: str) -> bool:
    """Whether an S3 key of ours, genai-workshop/<owner>/lab<lab>/jobs/..., is what a training job made."""
    return key.split("/")[3:4] == [JOBS_FOLDER]


def objects(s3: Any, bucket: str, label: Label) -> list[dict[str, Any]]:
    """The S3 objects (Key, Size) in the places of `label`; empty when there is no bucket."""
    try:
        pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=label.s3_prefix()))
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchBucket":
            return []
        raise
    found = [item for page in pages for item in page.get("Contents", [])]
    # For one lab of everybody the prefix alone is too wide: keys are genai-workshop/<owner>/lab<lab>/...
    return [item for item in found if label.lab is None or item["Key"].split("/")[2:3] == [f"lab{label.lab}"]]


def delete_objects(s3: Any, bucket: str, keys: list[str]) -> None:
    """Delete these objects. Raises RuntimeError when S3 keeps any."""
    for start in range(0, len(keys), 1000):
        batch = [{"Key": key} for key in keys[start : start + 1000]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            raise RuntimeError(f"S3 did not delete s3://{bucket}/{first['Key']}: {first.get('Message')}")


def log_groups(logs: Any, label: Label) -> list[str]:
    """The CloudWatch log groups of this workshop's endpoints, those deleted before included."""
    prefix = f"{ENDPOINT_LOGS}{WORKSHOP}-" + (f"lab{label.lab}-" if label.lab is not None else "")
    pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix)
    names = [group["logGroupName"] for page in pages for group in page["logGroups"]]
    if label.owner is None:
        return names
    ours = re.compile(rf"{WORKSHOP}-lab[a-z0-9]+-[a-z0-9]+-{re.escape(label.owner)}-[0-9a-f]{{8}}")
    return [name for name in names if ours.fullmatch(name.removeprefix(ENDPOINT_LOGS))]
