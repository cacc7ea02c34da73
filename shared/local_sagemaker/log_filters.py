"""FilterLogEvents by a prefix of the log stream names, which moto leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

OPERATION = "Logs_20140328.FilterLogEvents"
_NO_STREAM = ":none:"  # A colon cannot be in the name of a log stream.


def with_stream_names(body: bytes, stream_names: Callable[[str], Iterable[str]]) -> bytes:
    """The body of a FilterLogEvents request with the streams named that its prefix means.

    `stream_names` gives the names of the streams of a log group.
    """
    try:
        request = json.loads(body)
        prefix, group = request.pop("logStreamNamePrefix"), request["logGroupName"]
    except (ValueError, LookupError, AttributeError, TypeError):
        return body
    names = [name for name in stream_names(group) if name.startswith(prefix)]
    return json.dumps(request | {"logStreamNames": names or [_NO_STREAM]}).encode()
