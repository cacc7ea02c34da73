"""S3: large objects by file, ranges, conditions, uploads in parts, checksums."""

from __future__ import annotations

import base64
import hashlib
import os
import urllib.request
from pathlib import Path

import botocore.auth
import psutil
import pytest
from boto3.s3.transfer import TransferConfig
from front_support import BUCKET, LocalServer, error_of

MB = 1 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(3 * MB + 17)


@pytest.fixture
def large(server: LocalServer, content: bytes) -> str:
    server.client("s3").put_object(Bucket=BUCKET, Key="large", Body=content, ContentType="text/x-test")
    return "large"


def test_a_large_file_goes_up_and_down_without_filling_the_memory(server: LocalServer, tmp_path: Path) -> None:
    size = 120
    s3 = server.client("s3")
    block = os.urandom(MB)
    with (tmp_path / "up").open("wb") as file:
        for number in range(size):
            file.write(number.to_bytes(4, "big") + block[4:])
    before = psutil.Process(server.record()["pid"]).memory_info().rss
    s3.upload_file(str(tmp_path / "up"), BUCKET, "large file")
    s3.download_file(BUCKET, "large file", str(tmp_path / "down"))
    with (tmp_path / "up").open("rb") as file:
        s3.put_object(Bucket=BUCKET, Key="in one piece", Body=file)
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource=f"{BUCKET}/large file")
    grown = psutil.Process(server.record()["pid"]).memory_info().rss - before
    digests = [hashlib.file_digest((tmp_path / name).open("rb"), "sha256").digest() for name in ("up", "down")]
    assert digests[0] == digests[1]
    assert grown < size * MB
    for key in ("large file", "in one piece", "copy"):
        assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == size * MB
        s3.delete_object(Bucket=BUCKET, Key=key)


def test_ranges(server: LocalServer, large: str, content: bytes) -> None:
    s3 = server.client("s3")
    for wanted, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=5-1000005", 5, 1000006),
        (f"bytes={2 * MB}-", 2 * MB, len(content)),
        ("bytes=-3", len(content) - 3, len(content)),
        (f"bytes=10-{len(content) + 99}", 10, len(content)),
    ):
        answer = s3.get_object(Bucket=BUCKET, Key=large, Range=wanted)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{len(content)}"
        assert answer["Body"].read() == content[start:stop]
    assert error_of(s3.get_object, Bucket=BUCKET, Key=large, Range=f"bytes={len(content)}-")[::2] == (
        "InvalidRange",
        416,
    )


def test_conditions_and_headers(server: LocalServer, large: str, content: bytes) -> None:
    s3 = server.client("s3")
    head = s3.head_object(Bucket=BUCKET, Key=large)
    assert head["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
    assert (head["ContentLength"], head["ContentType"]) == (len(content), "text/x-test")
    full = s3.get_object(Bucket=BUCKET, Key=large, IfMatch=head["ETag"], ResponseContentType="a/b")
    assert (full["ContentType"], full["Body"].read()) == ("a/b", content)
    assert error_of(s3.get_object, Bucket=BUCKET, Key=large, IfMatch='"0"')[::2] == ("PreconditionFailed", 412)
    assert error_of(s3.get_object, Bucket=BUCKET, Key=large, IfNoneMatch=head["ETag"])[2] == 304
    assert error_of(s3.get_object, Bucket=BUCKET, Key="nothing")[::2] == ("NoSuchKey", 404)
    assert error_of(s3.get_object, Bucket="nowhere-at-all", Key="k")[::2] == ("NoSuchBucket", 404)


def test_an_object_that_is_replaced_while_it_is_read_is_read_to_its_end(server: LocalServer, content: bytes) -> None:
    s3 = server.client("s3")
    long = content * 8
    s3.put_object(Bucket=BUCKET, Key="replaced", Body=long)
    body = s3.get_object(Bucket=BUCKET, Key="replaced")["Body"]
    start = body.read(100)
    s3.put_object(Bucket=BUCKET, Key="replaced", Body=b"new")
    s3.delete_object(Bucket=BUCKET, Key="replaced")
    assert start + body.read() == long


def test_uploads_in_parts(server: LocalServer, content: bytes) -> None:
    s3 = server.client("s3")
    pieces = [content + content[: 3 * MB], b"the end"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", Metadata={"made_by": "a test"})["UploadId"]
    where = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload}
    parts = [
        {"PartNumber": number, "ETag": s3.upload_part(**where, PartNumber=number, Body=piece)["ETag"]}
        for number, piece in enumerate(pieces, 1)
    ]
    wrong = [parts[0], {"PartNumber": 2, "ETag": '"0"'}]
    assert error_of(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": wrong})[0] == "InvalidPart"
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    answer = s3.get_object(Bucket=BUCKET, Key="parts")
    digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    assert answer["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert answer["Metadata"] == {"made_by": "a test"}
    assert answer["Body"].read() == b"".join(pieces)
    again = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    assert again["ETag"] == answer["ETag"]
    unknown = where | {"UploadId": "unknown", "Key": "other"}
    assert error_of(s3.complete_multipart_upload, **unknown, MultipartUpload={"Parts": parts})[0] == "NoSuchUpload"


@pytest.mark.parametrize("checksum", [{}, {"ChecksumAlgorithm": "SHA256"}, {"ChecksumAlgorithm": "CRC32"}])
def test_checksums_of_uploads_are_accepted_by_downloads(
    server: LocalServer, tmp_path: Path, content: bytes, checksum: dict[str, str]
) -> None:
    s3 = server.client("s3", config={"response_checksum_validation": "when_supported"})
    (tmp_path / "up").write_bytes(content * 5)
    config = TransferConfig(multipart_threshold=8 * MB, multipart_chunksize=6 * MB)
    s3.upload_file(str(tmp_path / "up"), BUCKET, "sums", ExtraArgs=checksum, Config=config)
    s3.download_file(BUCKET, "sums", str(tmp_path / "down"), Config=config)
    assert (tmp_path / "down").read_bytes() == content * 5
    assert s3.get_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")["Body"].read() == content * 5
    s3.put_object(Bucket=BUCKET, Key="sums", Body=content, **checksum)
    assert s3.get_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")["Body"].read() == content


@pytest.mark.parametrize("size", [0, 5, 70_000, 2 * MB])
def test_a_chunked_body_with_a_trailing_checksum(
    server: LocalServer, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = b"x" * size
    parts = [piece[at : at + 65536] for at in range(0, size, 65536)]
    checksum = base64.b64encode(hashlib.sha256(piece).digest())
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    body += b"0\r\nx-amz-checksum-sha256:%s\r\n\r\n" % checksum
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(size),
        "x-amz-trailer": "x-amz-checksum-sha256",
        "x-amz-sdk-checksum-algorithm": "SHA256",
    }
    path = f"/{BUCKET}/chunked"
    monkeypatch.setattr(
        botocore.auth.S3SigV4Auth, "payload", lambda signer, request: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )
    status, _, answer = server.raw("PUT", path, body, server.signed("PUT", path, b"", headers, service="s3"))
    assert status == 200, answer
    monkeypatch.undo()
    stored = server.client("s3").get_object(Bucket=BUCKET, Key="chunked", ChecksumMode="ENABLED")
    assert stored["ChecksumSHA256"] == checksum.decode()
    assert stored["Body"].read() == piece
    assert "aws-chunked" not in stored.get("ContentEncoding", "")


def test_a_checksum_that_is_announced_and_missing_is_refused(server: LocalServer) -> None:
    path = f"/{BUCKET}/no-sum"
    signed = server.signed("PUT", path, b"x", {"x-amz-sdk-checksum-algorithm": "CRC32"}, service="s3")
    status, _, answer = server.raw("PUT", path, b"x", signed)
    assert status == 400
    assert b"<Code>InvalidRequest</Code>" in answer


def test_versions_listing_and_batch_deletion(server: LocalServer, content: bytes) -> None:
    s3 = server.client("s3")
    s3.create_bucket(Bucket="versioned-bucket")
    s3.put_bucket_versioning(Bucket="versioned-bucket", VersioningConfiguration={"Status": "Enabled"})
    versions = [
        s3.put_object(Bucket="versioned-bucket", Key="k", Body=content + suffix)["VersionId"] for suffix in (b"1", b"2")
    ]
    for version, suffix in zip(versions, (b"1", b"2"), strict=True):
        body = s3.get_object(Bucket="versioned-bucket", Key="k", VersionId=version)["Body"]
        assert body.read() == content + suffix
    for number in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"tree/a b/é{number}+.txt", Body=b"x", Tagging="a=b")
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="tree/a b/")["Contents"]
    assert [entry["Key"] for entry in listed] == [f"tree/a b/é{number}+.txt" for number in range(3)]
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": entry["Key"]} for entry in listed]})
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="tree/")


def test_what_is_not_there_says_so(server: LocalServer, large: str) -> None:
    code, message, status = error_of(server.client("s3").get_object, Bucket=BUCKET, Key=large, PartNumber=1)
    assert (code, status) == ("NotImplemented", 501)
    assert "part number" in message


def test_deleted_objects_leave_the_disk(server: LocalServer, content: bytes) -> None:
    process = psutil.Process(server.record()["pid"])
    s3 = server.client("s3")
    before = process.num_fds()
    for number in range(20):
        s3.put_object(Bucket=BUCKET, Key=f"gone{number}", Body=content)
        s3.get_object(Bucket=BUCKET, Key=f"gone{number}")["Body"].read()
        s3.delete_object(Bucket=BUCKET, Key=f"gone{number}")
    assert process.num_fds() <= before + 5
    assert not list((server.state / "objects").iterdir())


def test_a_plain_upload_tool_works(server: LocalServer) -> None:
    url = server.client("s3", config={"signature_version": "s3v4"}).generate_presigned_url(
        "put_object", {"Bucket": BUCKET, "Key": "form"}, ExpiresIn=60
    )
    urllib.request.urlopen(urllib.request.Request(url, data=b"key=value&a=b", method="PUT")).close()
    assert server.client("s3").get_object(Bucket=BUCKET, Key="form")["Body"].read() == b"key=value&a=b"
