"""The aws-chunked coding, in which S3 clients send bodies whose checksum follows in a trailer."""

from __future__ import annotations

from .faults import Fault

_MAX_LINE = 8192


class ChunkDecoder:
    """Decodes a body piece by piece; `trailers` holds what came after the last chunk.

    Chunk signatures are not checked: the request's own signature was.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._left = 0
        self._state = "size"
        self.trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> bytes:
        """The content in the next piece of the body. Raises a fault where it is malformed."""
        self._pending += data
        content = bytearray()
        while self._step(content):
            continue
        return bytes(content)

    def finish(self) -> None:
        """Raise a fault where the body ended too early."""
        if self._state != "end" and not (self._state == "trailer" and not self._pending):
            raise _malformed()

    def _step(self, content: bytearray) -> bool:
        if self._state == "content":
            taken = min(self._left, len(self._pending))
            content += self._pending[:taken]
            del self._pending[:taken]
            self._left -= taken
            if self._left == 0:
                self._state = "after content"
            return self._left == 0
        if self._state == "end":
            return False
        line = self._line()
        if line is None:
            return False
        if self._state == "after content":
            if line:
                raise _malformed()
            self._state = "size"
        elif self._state == "size":
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise _malformed() from None
            if self._left < 0:
                raise _malformed()
            self._state = "content" if self._left else "trailer"
        elif line:
            name, _, value = line.decode("latin-1").partition(":")
            self.trailers[name.strip().lower()] = value.strip()
        else:
            self._state = "end"
        return True

    def _line(self) -> bytes | None:
        end = self._pending.find(b"\r\n")
        if end < 0:
            if len(self._pending) > _MAX_LINE:
                raise _malformed()
            return None
        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        return line


def _malformed() -> Fault:
    return Fault("IncompleteBody", "The request body is not valid aws-chunked content.")
