"""AWS's event stream encoding (application/vnd.amazon.eventstream), of which botocore has the decoder only.

A message: total length, headers length and their CRC-32; headers; payload; the CRC-32 of all before. Numbers are
big-endian.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

_STRING = 7
_MAX_PART = 1 << 20


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message. Raises ValueError for a header name above 255 bytes or a value above 32767."""
    encoded = bytearray()
    for name, value in headers.items():
        name_bytes, value_bytes = name.encode(), value.encode()
        if not 0 < len(name_bytes) < 256 or len(value_bytes) > 32767:
            raise ValueError(f"header {name!r} is too long for an event stream")
        encoded += struct.pack("!B", len(name_bytes)) + name_bytes
        encoded += struct.pack("!BH", _STRING, len(value_bytes)) + value_bytes
    prelude = struct.pack("!II", 16 + len(encoded) + len(payload), len(encoded))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + encoded + payload
    return message + struct.pack("!I", zlib.crc32(message))


def payload_parts(content: bytes) -> bytes:
    """`content` as PayloadPart events of InvokeEndpointWithResponseStream, none of them above 1 MiB."""
    headers = {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    return b"".join(
        encode_message(headers, content[start : start + _MAX_PART]) for start in range(0, len(content), _MAX_PART)
    )


def exception(name: str, **members: str) -> bytes:
    """An exception event such as ModelStreamError, which ends a stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return encode_message(headers, json.dumps(members).encode())
