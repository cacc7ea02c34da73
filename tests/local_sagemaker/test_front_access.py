"""Who may call the server: holders of its keys, on this machine, not web pages."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import botocore.auth
import psutil
import pytest
from front_support import BUCKET, LocalServer, error_of

LIST = b"{}"
TARGET = {"X-Amz-Target": "SageMaker.ListModels", "Content-Type": "application/x-amz-json-1.1"}


def test_a_signed_request_is_answered(server: LocalServer) -> None:
    status, headers, body = server.raw("POST", "/", LIST, server.signed("POST", "/", LIST, TARGET))
    assert status == 200
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert "Models" in json.loads(body)


def test_no_signature_is_refused(server: LocalServer) -> None:
    for method, path in (
        ("GET", "/"),
        ("POST", "/"),
        ("GET", "/moto-api/"),
        ("POST", "/moto-api/reset"),
        ("PUT", "/b"),
    ):
        status, _, body = server.raw(method, path, b"", TARGET if method == "POST" else None)
        assert status == 403, (method, path, body)
        assert b"<html" not in body.lower()
    for nonsense in (
        "",
        "Basic eDp4",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=b, Signature=c",
    ):
        status, headers, body = server.raw("POST", "/", LIST, TARGET | {"Authorization": nonsense})
        assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
        assert json.loads(body)["__type"] == "MissingAuthenticationTokenException"


@pytest.mark.parametrize(
    ("service", "operation", "other_key", "other_secret"),
    [
        ("sagemaker", "list_models", "UnrecognizedClientException", "InvalidSignatureException"),
        ("s3", "list_buckets", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        ("sts", "get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        ("iam", "list_roles", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        ("logs", "describe_log_groups", "UnrecognizedClientException", "InvalidSignatureException"),
    ],
)
def test_other_keys_are_refused(
    server: LocalServer, service: str, operation: str, other_key: str, other_secret: str
) -> None:
    stranger = server.client(service, aws_access_key_id="AKIAIOSFODNN7EXAMPLE")
    assert error_of(getattr(stranger, operation))[::2] == (other_key, 403)
    forger = server.client(service, aws_secret_access_key="wrong")
    assert error_of(getattr(forger, operation))[::2] == (other_secret, 403)


def test_keys_that_sts_gives_out_are_refused_too(server: LocalServer) -> None:
    role = server.client("iam").list_roles()["Roles"][0]["Arn"]
    given = server.client("sts").assume_role(RoleArn=role, RoleSessionName="other")["Credentials"]
    other = server.client("s3", aws_access_key_id=given["AccessKeyId"], aws_secret_access_key=given["SecretAccessKey"])
    assert error_of(other.list_buckets)[::2] == ("InvalidAccessKeyId", 403)


def test_a_changed_request_is_refused(server: LocalServer) -> None:
    signed = server.signed("POST", "/", LIST, TARGET)
    for method, path, body, headers in (
        ("POST", "/", b'{"MaxResults": 1}', {}),
        ("POST", "/other", LIST, {}),
        ("POST", "/?a=b", LIST, {}),
        ("PUT", "/", LIST, {}),
        ("POST", "/", LIST, {"X-Amz-Date": "20200101T000000Z"}),
        ("POST", "/", LIST, {"X-Amz-Target": "SageMaker.ListEndpoints"}),
    ):
        status, _, answer = server.raw(method, path, body, signed | headers)
        assert status == 403, (method, path, body, headers, answer)


def test_an_old_signature_is_refused(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=20)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: long_ago)
    status, _, body = server.raw("POST", "/", LIST, server.signed("POST", "/", LIST, TARGET))
    assert status == 403
    assert "expired" in json.loads(body)["message"]


def test_foreign_hosts_and_origins_are_refused(server: LocalServer) -> None:
    own = f"http://127.0.0.1:{server.port}"
    signed = server.signed("POST", "/", LIST, TARGET)
    for headers in (
        {"Host": f"evil.example:{server.port}"},
        {"Host": f"127.0.0.1.evil.example:{server.port}"},
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{server.port + 1}"},
        {"Host": f"{BUCKET}.localhost:{server.port}"},
        {"Host": ""},
        {"Host": "["},
        {"Host": "a b:ü"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{server.port + 1}"},
        {"Origin": f"https://127.0.0.1:{server.port}"},
    ):
        status, _, body = server.raw("POST", "/", LIST, signed | headers)
        assert status in (400, 403), (headers, body)
        assert b"Models" not in body
    assert server.raw("POST", "/", LIST, signed | {"Origin": own})[0] == 200


def test_no_cross_origin_permission_is_given(server: LocalServer) -> None:
    server.client("s3").put_object(Bucket=BUCKET, Key="cors", Body=b"x")
    path = f"/{BUCKET}/cors"
    _, headers, body = server.raw("GET", path, b"", server.signed("GET", path, service="s3"))
    assert body == b"x"
    assert not [name for name in headers if name.startswith("access-control-")]
    status, headers, _ = server.raw("OPTIONS", path, b"", {"Origin": "http://evil.example"})
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control-")]


def test_presigned_urls(server: LocalServer) -> None:
    s3 = server.client("s3", config={"signature_version": "s3v4"})
    s3.put_object(Bucket=BUCKET, Key="presigned file", Body=b"content")
    parameters = {"Bucket": BUCKET, "Key": "presigned file"}
    url = s3.generate_presigned_url("get_object", parameters, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"content"
    for changed in (url.replace("presigned", "another"), url.replace("Expires=60", "Expires=6000")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(changed)
        assert refused.value.code == 403
        assert b"<Code>SignatureDoesNotMatch</Code>" in refused.value.read()
    upload = s3.generate_presigned_url("put_object", parameters, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(upload, data=b"new", method="PUT")).close()
    assert s3.get_object(**parameters)["Body"].read() == b"new"


def test_signature_version_2_is_refused_by_its_name(server: LocalServer) -> None:
    s3 = server.client("s3", config={"signature_version": "s3"})
    url = s3.generate_presigned_url("list_objects", {"Bucket": BUCKET})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url)
    assert refused.value.code == 400
    assert b"Please use AWS4-HMAC-SHA256" in refused.value.read()
    assert error_of(s3.list_objects_v2, Bucket=BUCKET)[::2] == ("InvalidRequest", 400)


def test_only_loopback_listens(server: LocalServer) -> None:
    process = psutil.Process(server.record()["pid"])
    listening = [connection for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN]
    assert [(connection.laddr.ip, connection.laddr.port) for connection in listening] == [("127.0.0.1", server.port)]


def test_services_that_are_not_offered_are_named(server: LocalServer) -> None:
    for service, operation in (("sqs", "list_queues"), ("ec2", "describe_instances"), ("lambda", "list_functions")):
        code, message, _ = error_of(getattr(server.client(service), operation))
        assert code == "UnknownService"
        assert repr(service) in message and "s3" in message


def test_moto_s_own_interface_is_out_of_reach(server: LocalServer) -> None:
    server.client("s3").put_object(Bucket=BUCKET, Key="survivor", Body=b"x")
    for service in ("s3", "sts", "logs"):
        for path in ("/moto-api/reset", "/moto-api/", "/latest/meta-data/"):
            status, _, body = server.raw("POST", path, b"", server.signed("POST", path, service=service))
            assert status >= 400, (service, path, body)
            assert b"moto" not in body.lower().replace(b"moto-api", b"")
    assert server.client("s3").head_object(Bucket=BUCKET, Key="survivor")["ContentLength"] == 1


def test_a_request_for_another_region_is_refused(server: LocalServer) -> None:
    code, message, status = error_of(server.client("sagemaker", region_name="eu-west-1").list_models)
    assert (code, status) == ("InvalidSignatureException", 403)
    assert "us-east-1" in message


def test_garbage_on_the_wire_does_no_harm(server: LocalServer) -> None:
    for garbage in (b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /%ff%fe HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                continue
    test_a_signed_request_is_answered(server)
