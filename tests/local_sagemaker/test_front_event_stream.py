"""The event stream encoder against botocore's decoder; the aws-chunked decoder."""

from __future__ import annotations

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from shared.local_sagemaker import event_stream
from shared.local_sagemaker.aws_chunked import ChunkDecoder
from shared.local_sagemaker.faults import Fault

NAMES = st.text(min_size=1, max_size=40)
HEADERS = st.dictionaries(NAMES, st.text(max_size=80), max_size=6)


def decode(data: bytes) -> list:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return list(buffer)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=500)), max_size=5), st.data())
def test_messages_round_trip_in_any_pieces(messages: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    encoded = b"".join(event_stream.encode_message(headers, payload) for headers, payload in messages)
    buffer = EventStreamBuffer()
    decoded = []
    position = 0
    while position < len(encoded):
        size = data.draw(st.integers(1, len(encoded) - position))
        buffer.add_data(encoded[position : position + size])
        decoded += list(buffer)
        position += size
    assert [(message.headers, message.payload) for message in decoded] == messages


@given(st.binary(max_size=2000))
def test_payload_parts_carry_the_content(content: bytes) -> None:
    messages = decode(event_stream.payload_parts(content))
    assert b"".join(message.payload for message in messages) == content
    assert all(message.headers[":event-type"] == "PayloadPart" for message in messages)


def test_large_content_is_split() -> None:
    content = bytes(range(256)) * 12_000
    messages = decode(event_stream.payload_parts(content))
    assert len(messages) == 3
    assert b"".join(message.payload for message in messages) == content


@pytest.mark.parametrize("headers", [{"": "x"}, {"n" * 256: "x"}, {"n": "x" * 32768}])
def test_headers_that_do_not_fit_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="too long"):
        event_stream.encode_message(headers, b"")


def chunked(pieces: list[bytes], trailers: dict[str, str]) -> bytes:
    chunks = b"".join(b"%x;chunk-signature=abc\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n" + b"".join(f"{name}:{value}\r\n".encode() for name, value in trailers.items()) + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.data())
def test_chunked_bodies_are_decoded_in_any_pieces(pieces: list[bytes], data: st.DataObject) -> None:
    encoded = chunked(pieces, {"x-amz-checksum-crc32": "AAAAAA=="})
    decoder = ChunkDecoder()
    content = b""
    position = 0
    while position < len(encoded):
        size = data.draw(st.integers(1, len(encoded) - position))
        content += decoder.feed(encoded[position : position + size])
        position += size
    decoder.finish()
    assert content == b"".join(pieces)
    assert decoder.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}


@given(st.binary(max_size=200))
def test_malformed_chunked_bodies_are_refused_or_decoded(body: bytes) -> None:
    decoder = ChunkDecoder()
    try:
        decoder.feed(body)
        decoder.finish()
    except Fault as fault:
        assert (fault.code, fault.status) == ("IncompleteBody", 400)


@pytest.mark.parametrize("cut", [1, 5, 12, 30])
def test_a_chunked_body_that_ends_early_is_refused(cut: int) -> None:
    decoder = ChunkDecoder()
    decoder.feed(chunked([b"some content"], {"a": "b"})[:-cut])
    with pytest.raises(Fault):
        decoder.finish()
