"""Large S3 objects in moto: read by range without copying the object, joined from parts on disk.

moto reads a whole object into memory for every ranged GET (a 1 GB download by boto3 makes 128 of them), and joins the
parts of an upload in memory. Two of its methods are replaced here; everything else (conditions, ranges, versions,
checksums, errors) stays moto's.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import moto.s3.models
from moto.s3 import exceptions, notifications
from moto.s3.models import FakeKey, FakeMultipart, S3Backend, s3_backends
from moto.s3.responses import S3Response
from moto.s3.utils import compute_checksum
from moto.settings import S3_UPLOAD_PART_MIN_SIZE

from .state import ACCOUNT

_CHUNK = 1 << 20


class _Slice:
    """A part of an object's file that is read while it is sent: has a length, can be sliced again, iterates chunks."""

    def __init__(self, key: FakeKey, start: int, stop: int):
        self._key = key
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, part: slice) -> _Slice:
        start, stop, _ = part.indices(len(self))
        return _Slice(self._key, self._start + start, self._start + max(start, stop))

    def __iter__(self) -> Iterator[bytes]:
        # A descriptor of its own: the object may be deleted or replaced while it is sent.
        descriptor = os.dup(self._key._value_buffer.fileno())
        return self._chunks(descriptor)

    def _chunks(self, descriptor: int) -> Iterator[bytes]:
        try:
            position = self._start
            while position < self._stop:
                chunk = os.pread(descriptor, min(_CHUNK, self._stop - position), position)
                if not chunk:
                    raise OSError(f"object ended at byte {position}, expected {self._stop}")
                position += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)


class _LargeKey:
    """A moto key whose value is a `_Slice`, all else being the key's own."""

    def __init__(self, key: FakeKey):
        self._key = key

    @property
    def value(self) -> _Slice:
        return _Slice(self._key, 0, self._key.size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._key, name)


_get_key_of_moto = S3Response._get_key


def _get_key(self: S3Response, validate_storage_class: bool = True) -> tuple[Any, bool]:
    key, not_modified = _get_key_of_moto(self, validate_storage_class)
    large = isinstance(key, FakeKey) and key.size > key._max_buffer_size
    return (_LargeKey(key) if large else key), not_modified


def _complete_multipart_upload(
    self: S3Backend, bucket_name: str, multipart_id: str, body: Iterator[tuple[int, str]]
) -> FakeKey | None:
    bucket = self.get_bucket(bucket_name)
    multipart = bucket.multiparts.get(multipart_id)
    if multipart is None:
        raise exceptions.NoSuchUpload(upload_id=multipart_id)
    parts = _chosen_parts(multipart, body)
    del bucket.multiparts[multipart_id]
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    content, checksum = _join(parts, multipart.metadata)
    key = self.put_object(
        bucket_name,
        multipart.key_name,
        b"",
        storage=multipart.storage,
        etag=f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}",
        multipart=multipart,
        encryption=multipart.sse_encryption,
        kms_key_id=multipart.kms_key_id,
        disable_notification=True,
    )
    with key.lock:
        key._value_buffer.close()
        key._value_buffer = content
        key.contentsize = content.tell()
    key.set_metadata(multipart.metadata)
    if checksum is not None:
        key.checksum_algorithm = multipart.metadata.get("x-amz-checksum-algorithm")
        key.checksum_type, key.checksum_value, key.checksum_parts = checksum
    self.put_object_tagging(key, multipart.tags)
    self.put_object_acl(bucket_name, key.name, multipart.acl, disable_notification=True)
    notifications.send_event(
        self.account_id,
        notifications.S3NotificationEvent.OBJECT_CREATED_COMPLETE_MULTIPART_UPLOAD_EVENT,
        bucket,
        key,
    )
    return key


def _chosen_parts(multipart: FakeMultipart, body: Iterator[tuple[int, str]]) -> list[FakeKey]:
    parts: list[FakeKey] = []
    for number, etag in body:
        part = multipart.parts.get(number)
        if part is None or part.etag.strip('"') != etag.strip('"'):
            raise exceptions.InvalidPart()
        if parts and parts[-1].contentsize < S3_UPLOAD_PART_MIN_SIZE:
            raise exceptions.EntityTooSmall()
        parts.append(part)
    if not parts:
        raise exceptions.MalformedXML()
    return parts


def _join(parts: list[FakeKey], metadata: Any) -> tuple[IO[bytes], tuple[str, str, int] | None]:
    """One file of all parts, and moto's (type, value, parts) of its checksum where the upload asked for one."""
    algorithm = metadata.get("x-amz-checksum-algorithm")
    composite = algorithm is not None and metadata.get("x-amz-checksum-type", "COMPOSITE") == "COMPOSITE"
    part_checksums = bytearray()
    crc = 0
    joined = moto.s3.models.tempfile.SpooledTemporaryFile(parts[0]._max_buffer_size)
    try:
        for part in parts:
            content = part.value
            joined.write(content)
            if composite:
                part_checksums += compute_checksum(content, algorithm, encode_base64=False)
            elif algorithm == "CRC32":
                crc = zlib.crc32(content, crc)
            # Freed at once, so that the disk holds the object and one part, not the object twice.
            part.dispose()
    except BaseException:
        joined.close()
        raise
    if composite:
        return joined, ("COMPOSITE", compute_checksum(bytes(part_checksums), algorithm).decode(), len(parts))
    if algorithm == "CRC32":
        return joined, ("FULL_OBJECT", b64encode(crc.to_bytes(4, "big")).decode(), 1)
    return joined, None


def install(folder: Path) -> None:
    """Put the two methods in moto's place, and keep the contents of large objects in `folder`."""
    S3Response._get_key = _get_key
    S3Backend.complete_multipart_upload = _complete_multipart_upload
    moto.s3.models.tempfile = SimpleNamespace(
        SpooledTemporaryFile=functools.partial(tempfile.SpooledTemporaryFile, dir=folder)
    )


def exists(url: str) -> bool:
    """Whether the object of an s3:// URL is there."""
    return _find(url) is not None


def fetch(url: str, path: Path) -> None:
    """Write the object of an s3:// URL to `path`. Raises FileNotFoundError where bucket or object is missing."""
    key = _find(url)
    if key is None:
        raise FileNotFoundError(f"no such object: {url}")
    try:
        with path.open("wb") as file:
            if key.size > key._max_buffer_size:
                for chunk in _Slice(key, 0, key.size):
                    file.write(chunk)
            else:
                file.write(key.value)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _find(url: str) -> FakeKey | None:
    bucket_name, _, key_name = url.removeprefix("s3://").partition("/")
    bucket = s3_backends[ACCOUNT]["aws"].buckets.get(bucket_name)
    if bucket is None or not key_name:
        return None
    key = bucket.keys.get(key_name)
    return key if isinstance(key, FakeKey) else None
