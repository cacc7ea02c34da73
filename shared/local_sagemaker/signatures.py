"""Who may call: SigV4 signatures made with the state folder's keys, from this machine, not from a web page.

The server runs code for whoever reaches it, so a request is checked before anything of it is looked at. Signatures are
computed by botocore's own signer.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from starlette.requests import Request

from .faults import Fault
from .state import Credentials

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+)\s*,\s*SignedHeaders=(?P<headers>[^,\s]+)\s*,"
    r"\s*Signature=(?P<signature>[0-9a-f]{64})\s*"
)
_CLOCK_SKEW = timedelta(minutes=15)
_TIMESTAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Claim:
    """What a request says about its signature, before that is believed."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    presigned_seconds: int | None


def read_claim(request: Request) -> Claim | None:
    """The SigV4 claim in `request`'s Authorization header or query string; None where there is no readable one.

    Raises the InvalidRequest fault for signature version 2, by which boto3 presigns S3 URLs in us-east-1 if its
    configuration does not say s3v4.
    """
    header = request.headers.get("authorization")
    if header is not None:
        if header.startswith("AWS "):
            raise _signature_version_2()
        match = _AUTHORIZATION.fullmatch(header)
        if match is None:
            return None
        return _claim(
            match["credential"], match["headers"], match["signature"], request.headers.get("x-amz-date", ""), None
        )
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    if "AWSAccessKeyId" in query:
        raise _signature_version_2()
    if query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" or not query.get("X-Amz-Expires", "").isdecimal():
        return None
    return _claim(
        query.get("X-Amz-Credential", ""),
        query.get("X-Amz-SignedHeaders", ""),
        query.get("X-Amz-Signature", ""),
        query.get("X-Amz-Date", ""),
        int(query["X-Amz-Expires"][:9]),
    )


def _claim(credential: str, headers: str, signature: str, timestamp: str, seconds: int | None) -> Claim | None:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        return None
    access_key, date, region, service, _ = parts
    return Claim(access_key, date, region, service, tuple(headers.split(";")), signature, timestamp, seconds)


class Guard:
    """Refuses every request that does not come from a holder of the keys by way of loopback."""

    def __init__(self, credentials: Credentials, port: int):
        self._access_key = credentials.access_key
        self._signer_credentials = botocore.credentials.Credentials(credentials.access_key, credentials.secret_key)
        self._hosts = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        self._origins = {f"http://{host}" for host in self._hosts}

    def check_sender(self, request: Request) -> None:
        """Refuse a foreign Host or Origin header (a web page that reached loopback by DNS rebinding or a form)."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Fault(
                "AccessDenied",
                "The local SageMaker answers only to the host names localhost and 127.0.0.1 with its own port.",
                status=403,
            )
        for origin in request.headers.getlist("origin"):
            if origin.lower() not in self._origins:
                raise Fault("AccessDenied", "The local SageMaker does not answer web pages of other origins.", 403)

    def check_claim(self, claim: Claim | None) -> Claim:
        """Refuse a request without a claim, or with one for another access key."""
        if claim is None:
            raise Fault("MissingAuthenticationTokenException", "Missing Authentication Token", status=403)
        if not hmac.compare_digest(claim.access_key.encode(), self._access_key.encode()):
            raise Fault(
                "UnrecognizedClientException", "The security token included in the request is invalid.", status=403
            )
        return claim

    def check_signature(self, request: Request, claim: Claim, body: bytes) -> None:
        """Refuse a signature that was not made with our secret key, or that is too old.

        `body` is the request's body, except for S3, where the hash in its header stands for it.
        """
        try:
            signed_at = datetime.strptime(claim.timestamp, _TIMESTAMP).replace(tzinfo=UTC)
        except ValueError:
            raise _signature_fault("The request has no valid X-Amz-Date.") from None
        age = datetime.now(UTC) - signed_at
        allowed = _CLOCK_SKEW if claim.presigned_seconds is None else timedelta(seconds=claim.presigned_seconds)
        if age > allowed or age < -_CLOCK_SKEW:
            raise _signature_fault(f"Signature expired or not yet valid: it was made at {claim.timestamp}.")
        if claim.timestamp[:8] != claim.date or "host" not in claim.signed_headers:
            raise _signature_fault("The credential scope or the signed headers do not fit the request.")
        expected = self._signature(request, claim, body)
        if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
            raise _signature_fault(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method."
            )

    def _signature(self, request: Request, claim: Claim, body: bytes) -> str:
        query = request.scope["query_string"].decode("latin-1")
        if claim.presigned_seconds is not None:
            query = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-Signature="))
        target = request.scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        signed = botocore.awsrequest.AWSRequest(
            method=request.method,
            url=f"http://{request.headers['host']}{target}",
            headers={name: ",".join(request.headers.getlist(name)) for name in claim.signed_headers},
            data=body,
        )
        signed.context["timestamp"] = claim.timestamp
        if claim.service != "s3":
            signer_class = botocore.auth.SigV4Auth
        elif claim.presigned_seconds is None:
            signer_class = botocore.auth.S3SigV4Auth
        else:
            signer_class = botocore.auth.S3SigV4QueryAuth
        signer = signer_class(self._signer_credentials, claim.service, claim.region)
        if claim.service == "s3" and "X-Amz-Content-SHA256" not in signed.headers:
            payload_hash = request.headers.get("x-amz-content-sha256")
            if payload_hash is not None:
                signed.headers["X-Amz-Content-SHA256"] = payload_hash
        canonical = signer.canonical_request(signed)
        return signer.signature(signer.string_to_sign(signed, canonical), signed)


def _signature_version_2() -> Fault:
    return Fault(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def _signature_fault(message: str) -> Fault:
    return Fault("InvalidSignatureException", message, status=403)


def sign(
    credentials: Credentials, service: str, region: str, method: str, url: str, body: bytes = b""
) -> dict[str, str]:
    """The headers that sign a request, for the command line's own calls to the server."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body)
    keys = botocore.credentials.Credentials(credentials.access_key, credentials.secret_key)
    botocore.auth.SigV4Auth(keys, service, region).add_auth(request)
    return dict(request.headers.items())
