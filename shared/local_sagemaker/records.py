"""What exists: models, endpoint configurations, endpoints, with their tags. Kept in memory for the server's life."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .faults import Fault, validation_exception
from .state import ACCOUNT

_DEFAULT_PAGE = 10
_MAX_TAGS = 50


@dataclass(frozen=True)
class Kind:
    """A kind of resource: `noun` stands in AWS's messages, `arn_type` in its ARNs."""

    noun: str
    arn_type: str


@dataclass
class Record:
    """One resource. `fields` are the members of its Describe answer beside name, ARN and times (Unix seconds)."""

    kind: Kind
    name: str
    arn: str
    fields: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)
    created: float = field(default_factory=lambda: round(time.time(), 3))
    modified: float = 0.0

    def __post_init__(self) -> None:
        self.modified = self.created


class Store:
    """All records. `lock` guards them: hold it across a check and the change that depends on it."""

    def __init__(self, region: str):
        self.lock = threading.RLock()
        self._region = region
        self._records: dict[str, Record] = {}

    def arn(self, kind: Kind, name: str) -> str:
        """The ARN of a resource; SageMaker writes names there in lower case, and tells names apart by it."""
        return f"arn:aws:sagemaker:{self._region}:{ACCOUNT}:{kind.arn_type}/{name.lower()}"

    def create(self, kind: Kind, name: str, fields: dict[str, Any], tags: list[dict[str, str]] | None) -> Record:
        """Add a record. Raises the ValidationException fault where the name is taken or the tags are not allowed."""
        record = Record(kind, name, self.arn(kind, name), fields, merged_tags({}, tags or [], new_resource=True))
        with self.lock:
            if record.arn in self._records:
                raise validation_exception(f'Cannot create already existing {kind.noun} "{record.arn}".')
            self._records[record.arn] = record
        return record

    def get(self, kind: Kind, name: str) -> Record:
        """The record of that name. Raises the ValidationException fault where there is none."""
        return self.by_arn(self.arn(kind, name), kind.noun)

    def by_arn(self, arn: str, noun: str = "resource") -> Record:
        """The record with that ARN. Raises the ValidationException fault where there is none."""
        record = self.find(arn)
        if record is None:
            raise validation_exception(f'Could not find {noun} "{arn}".')
        return record

    def find(self, arn: str) -> Record | None:
        """The record with that ARN, or None."""
        return self._records.get(arn)

    def delete(self, record: Record) -> None:
        """Forget `record`; nothing happens where that was done before."""
        with self.lock:
            if self._records.get(record.arn) is record:
                del self._records[record.arn]

    def all(self, kind: Kind) -> list[Record]:
        """The records of one kind, oldest first."""
        with self.lock:
            return [record for record in self._records.values() if record.kind is kind]


def merged_tags(existing: dict[str, str], added: list[dict[str, str]], new_resource: bool = False) -> dict[str, str]:
    """`existing` with the API's list of tags `added` to it. Raises the ValidationException fault as AWS would."""
    keys = [tag["Key"] for tag in added]
    if new_resource and len(set(keys)) != len(keys):
        raise validation_exception("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    if any(key.lower().startswith("aws:") for key in keys):
        raise validation_exception("aws: prefixed tag key names are not allowed for external use.")
    merged = existing | {tag["Key"]: tag["Value"] for tag in added}
    if len(merged) > _MAX_TAGS:
        raise Fault("ResourceLimitExceeded", f"A resource can have at most {_MAX_TAGS} tags.")
    return merged


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags in the API's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def select(records: Iterable[Record], request: dict[str, Any], status_member: str | None = None) -> list[Record]:
    """The records that a List request's filters let through, in the order that it asks for."""
    chosen = [record for record in records if _matches(record, request, status_member)]
    sort_by = request.get("SortBy", "CreationTime")
    if sort_by == "Name":
        chosen.sort(key=lambda record: record.name)
    elif sort_by == "Status":
        chosen.sort(key=lambda record: (record.fields[status_member], record.name))
    else:
        chosen.sort(key=lambda record: (record.created, record.name))
    if request.get("SortOrder", "Descending").lower().startswith("desc"):
        chosen.reverse()
    return chosen


def _matches(record: Record, request: dict[str, Any], status_member: str | None) -> bool:
    return (
        request.get("NameContains", "") in record.name
        and record.created >= request.get("CreationTimeAfter", record.created)
        and record.created < request.get("CreationTimeBefore", float("inf"))
        and record.modified >= request.get("LastModifiedTimeAfter", record.modified)
        and record.modified < request.get("LastModifiedTimeBefore", float("inf"))
        and ("StatusEquals" not in request or record.fields[status_member] == request["StatusEquals"])
    )


def page(
    items: list[Any],
    request: dict[str, Any],
    member: str,
    key: Callable[[Any], str],
    default_size: int = _DEFAULT_PAGE,
) -> dict[str, Any]:
    """One page of `items` as a List answer's `member`, with NextToken where more follow.

    `key` names an item uniquely. A token holds the key of the last item given and what was asked for; one that was not
    made by this operation with these filters raises the ValidationException fault.
    """
    asked = json.dumps({name: value for name, value in request.items() if name not in ("NextToken", "MaxResults")})
    question = hashlib.sha256(f"{member} {asked}".encode()).hexdigest()[:16]
    start = 0
    if "NextToken" in request:
        last = _read_token(request["NextToken"], question)
        keys = [key(item) for item in items]
        # An item that was deleted since the last page is passed over by its place in the order, which the token holds.
        start = keys.index(last["key"]) + 1 if last["key"] in keys else min(last["place"], len(items))
    stop = start + request.get("MaxResults", default_size)
    answer: dict[str, Any] = {member: items[start:stop]}
    if stop < len(items):
        answer["NextToken"] = _write_token({"question": question, "key": key(items[stop - 1]), "place": stop - 1})
    return answer


def _write_token(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _read_token(token: str, question: str) -> dict[str, Any]:
    try:
        content = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
        if content["question"] != question or not isinstance(content["key"], str) or content["place"] < 0:
            raise ValueError
        content["place"] = int(content["place"])
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise validation_exception("Invalid NextToken: it does not belong to this request.") from None
    return content
