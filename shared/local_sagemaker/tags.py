"""AddTags, ListTags, DeleteTags."""

from __future__ import annotations

from typing import Any

from .context import Context, Operation
from .records import merged_tags, page, tag_list

_TAGS_PAGE = 50


def _add_tags(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = context.store.by_arn(request["ResourceArn"])
        record.tags = merged_tags(record.tags, request["Tags"])
        return {"Tags": tag_list(record.tags)}


def _list_tags(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    tags = tag_list(context.store.by_arn(request["ResourceArn"]).tags)
    return page(tags, request, "Tags", key=lambda tag: tag["Key"], default_size=_TAGS_PAGE)


def _delete_tags(context: Context, request: dict[str, Any]) -> dict[str, Any]:
    with context.store.lock:
        record = context.store.by_arn(request["ResourceArn"])
        record.tags = {key: value for key, value in record.tags.items() if key not in request["TagKeys"]}
    return {}


OPERATIONS: dict[str, Operation] = {"AddTags": _add_tags, "ListTags": _list_tags, "DeleteTags": _delete_tags}
