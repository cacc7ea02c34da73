"""Large S3 objects in moto, kept in files and never in memory.

moto reads a whole object for every ranged GET (a 1 GB download by boto3 makes 128 of them), joins the parts of an
upload in memory, and copies what it stores. Here an object above one megabyte is an unnamed file that is never changed
after it was written; moto is handed a `Content`, a range of such a file, wherever it works with bytes. Four of its
functions are replaced for that, see `install`; everything else (conditions, ranges, versions, checksums, errors) stays
moto's.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moto.s3.responses
from moto.s3 import exceptions, notifications
from moto.s3.models import FakeKey, FakeMultipart, S3Backend, s3_backends
from moto.s3.responses import S3Response
from moto.s3.utils import compute_checksum
from moto.settings import S3_UPLOAD_PART_MIN_SIZE

from .state import ACCOUNT

LARGE = 1 << 20
"""Bytes above which an object lies in a file."""

CONTENT_KEY = "local_sagemaker.content"
"""Where a WSGI environment holds the `Content` that stands for the body of a request."""

_CHUNK = 1 << 20


class ObjectFile(io.RawIOBase):
    """An unnamed file of `size` bytes with a read position of its own. Gone from the disk when nobody has it open."""

    def __init__(self, descriptor: int, size: int):
        self._descriptor = descriptor
        self._position = 0
        self.size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class Content:
    """A range of an `ObjectFile`: has a length, can be sliced, and is read in chunks while it is iterated."""

    def __init__(self, file: ObjectFile, start: int, stop: int):
        self._file = file
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, part: slice) -> Content:
        start, stop, _ = part.indices(len(self))
        return Content(self._file, self._start + start, self._start + max(start, stop))

    def __iter__(self) -> Iterator[bytes]:
        # A descriptor of its own: the object may be deleted or replaced while it is sent.
        return self._chunks(os.dup(self._file.fileno()))

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

    def shared(self, folder: Path) -> ObjectFile:
        """A file of this content alone: the same one where the range is all of it, else a copy in `folder`."""
        if (self._start, self._stop) == (0, self._file.size):
            return ObjectFile(os.dup(self._file.fileno()), self._file.size)
        return write_file(folder, self)


def write_file(folder: Path, chunks: Iterable[bytes]) -> ObjectFile:
    """An unnamed file in `folder` that holds `chunks`. Raises OSError where the disk is full."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        return ObjectFile(os.dup(file.fileno()), file.tell())


def install(folder: Path) -> None:
    """Teach moto to keep large objects in unnamed files of `folder`."""
    value_of_moto = FakeKey.value
    setup_class_of_moto = S3Response.setup_class

    def read_value(key: FakeKey) -> bytes | Content:
        buffer = key._value_buffer
        return Content(buffer, 0, buffer.size) if isinstance(buffer, ObjectFile) else value_of_moto.fget(key)

    def write_value(key: FakeKey, value: bytes | Content) -> None:
        if len(value) <= LARGE:
            value_of_moto.fset(key, b"".join(value) if isinstance(value, Content) else value)
            return
        key._value_buffer.close()
        key._value_buffer = value.shared(folder) if isinstance(value, Content) else write_file(folder, [value])
        key.contentsize = len(value)

    def setup_class(response: S3Response, request: Any, *arguments: Any) -> None:
        setup_class_of_moto(response, request, *arguments)
        response.body = request.environ.get(CONTENT_KEY, response.body)

    def complete(backend: S3Backend, bucket_name: str, upload: str, body: Iterable[tuple[int, str]]) -> FakeKey:
        return _complete_multipart_upload(backend, bucket_name, upload, body, folder)

    FakeKey.value = property(read_value, write_value)
    S3Response.setup_class = setup_class
    S3Backend.complete_multipart_upload = complete
    moto.s3.responses.compute_checksum = _checksum


def _checksum(body: bytes | Content, algorithm: str, encode_base64: bool = True) -> bytes:
    return compute_checksum(b"".join(body) if isinstance(body, Content) else body, algorithm, encode_base64)


def _complete_multipart_upload(
    backend: S3Backend, bucket_name: str, upload: str, body: Iterable[tuple[int, str]], folder: Path
) -> FakeKey:
    bucket = backend.get_bucket(bucket_name)
    multipart = bucket.multiparts.get(upload)
    if multipart is None:
        raise exceptions.NoSuchUpload(upload_id=upload)
    parts = _chosen_parts(multipart, body)
    digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    checksum = _PartsChecksum(multipart.metadata)
    # Not `del`: moto's dictionary would throw the parts away.
    bucket.multiparts.pop(upload)
    file = write_file(folder, _drained(parts, checksum))
    try:
        key = backend.put_object(
            bucket_name,
            multipart.key_name,
            Content(file, 0, file.size),
            storage=multipart.storage,
            etag=f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}",
            multipart=multipart,
            encryption=multipart.sse_encryption,
            kms_key_id=multipart.kms_key_id,
            disable_notification=True,
        )
    finally:
        file.close()
    key.set_metadata(multipart.metadata)
    checksum.describe(key, len(parts))
    backend.put_object_tagging(key, multipart.tags)
    backend.put_object_acl(bucket_name, key.name, multipart.acl, disable_notification=True)
    notifications.send_event(
        backend.account_id,
        notifications.S3NotificationEvent.OBJECT_CREATED_COMPLETE_MULTIPART_UPLOAD_EVENT,
        bucket,
        key,
    )
    return key


def _chosen_parts(multipart: FakeMultipart, body: Iterable[tuple[int, str]]) -> list[FakeKey]:
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


def _drained(parts: list[FakeKey], checksum: _PartsChecksum) -> Iterator[bytes]:
    for part in parts:
        value = part.value
        content = b"".join(value) if isinstance(value, Content) else value
        checksum.add(content)
        yield content
        # Freed at once, so that the disk holds the object and one part, not the object twice.
        part.dispose()


class _PartsChecksum:
    """The checksum that an upload asked for: of the parts' checksums, or (CRC32 only) of the whole object."""

    def __init__(self, metadata: Any):
        self._algorithm = metadata.get("x-amz-checksum-algorithm")
        self._composite = metadata.get("x-amz-checksum-type", "COMPOSITE") == "COMPOSITE"
        self._parts = bytearray()
        self._crc = 0

    def add(self, part: bytes) -> None:
        if self._algorithm is not None and self._composite:
            self._parts += compute_checksum(part, self._algorithm, encode_base64=False)
        elif self._algorithm == "CRC32":
            self._crc = zlib.crc32(part, self._crc)

    def describe(self, key: FakeKey, parts: int) -> None:
        if self._algorithm is not None and self._composite:
            key.checksum_type, key.checksum_parts = "COMPOSITE", parts
            key.checksum_value = compute_checksum(bytes(self._parts), self._algorithm).decode()
        elif self._algorithm == "CRC32":
            key.checksum_type, key.checksum_parts = "FULL_OBJECT", 1
            key.checksum_value = b64encode(self._crc.to_bytes(4, "big")).decode()
        else:
            return
        key.checksum_algorithm = self._algorithm


def exists(url: str) -> bool:
    """Whether the object of an s3:// URL is there."""
    return _find(url) is not None


def fetch(url: str, path: Path) -> None:
    """Write the object of an s3:// URL to `path`. Raises FileNotFoundError where bucket or object is missing."""
    key = _find(url)
    if key is None:
        raise FileNotFoundError(f"no such object: {url}")
    value = key.value
    try:
        with path.open("wb") as file:
            for chunk in value if isinstance(value, Content) else [value]:
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class StoredObject:
    """An object that a listing found; `size` in bytes."""

    key: str
    size: int


def find_bucket(url: str) -> bool:
    """Whether the bucket of an s3:// URL is there."""
    return split_url(url)[0] in s3_backends[ACCOUNT]["aws"].buckets


def list_prefix(url: str) -> list[StoredObject]:
    """The objects whose URL begins with `url`, sorted by key; none where the bucket is missing."""
    bucket_name, prefix = split_url(url)
    backend = s3_backends[ACCOUNT]["aws"]
    bucket = backend.buckets.get(bucket_name)
    if bucket is None:
        return []
    keys = backend.list_objects(bucket, prefix, None, None, None)[0]
    return [StoredObject(key.name, key.size) for key in keys]


def store(path: Path, url: str) -> None:
    """Make the file `path`, which must not be changed afterwards, the object of an s3:// URL.

    A large one is not copied. Raises FileNotFoundError where the bucket is missing.
    """
    bucket_name, key_name = split_url(url)
    if not find_bucket(url):
        raise FileNotFoundError(f"no such bucket: {bucket_name}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        small = size <= LARGE
        value = file.read() if small else Content(ObjectFile(os.dup(file.fileno()), size), 0, size)
    s3_backends[ACCOUNT]["aws"].put_object(bucket_name, key_name, value)


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of an s3:// URL."""
    bucket_name, _, key_name = url.removeprefix("s3://").partition("/")
    return bucket_name, key_name


def _find(url: str) -> FakeKey | None:
    bucket_name, key_name = split_url(url)
    bucket = s3_backends[ACCOUNT]["aws"].buckets.get(bucket_name)
    if bucket is None or not key_name:
        return None
    key = bucket.keys.get(key_name)
    return key if isinstance(key, FakeKey) else None
