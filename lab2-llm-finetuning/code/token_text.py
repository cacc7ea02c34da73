"""Turn token ids into text while they arrive: whole characters only, and nothing of a stop string."""

from collections.abc import Callable

_REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 4
_WINDOW_TOKENS = 24
_MAX_UNDECODED_TOKENS = 64


class TextAssembler:
    """Text of one generated sequence, released piece by piece.

    A token may hold part of a character, and its text may depend on the token before it (a leading space). So a window
    of recent tokens is decoded, and an unfinished character at its end is held back, as is text that may become a stop
    string. The pieces concatenated are the generated text.

    Args:
        decode: list of token ids -> text.
        prompt_ids: the prompt, whose last tokens are the context of the first generated one.
        stop: stop strings; text before the first one that occurs is kept, itself and all after it dropped.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt_ids: list[int], stop: tuple[str, ...] = ()):
        self._decode = decode
        self._stop = stop
        self._held = ""
        self.stopped = False
        self._restart_window(prompt_ids)

    def append(self, token_id: int) -> str:
        """Add a token; returns the text that is now certain (possibly empty). Sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        self._window.append(token_id)
        self._undecoded += 1
        text = self._decode(self._window)
        whole = not text.endswith(_REPLACEMENT)
        if whole or self._undecoded >= _MAX_UNDECODED_TOKENS:
            stable = text
        elif self._undecoded > 8:
            # No character takes that many tokens: these bytes are no text. Only the last may yet begin a character.
            stable = text[:-1]
        else:
            stable = text.rstrip(_REPLACEMENT)
        new = stable[len(self._shown) :]
        if new:
            self._shown = stable
        if stable is text:
            self._undecoded = 0
            if len(self._window) >= _WINDOW_TOKENS:
                self._restart_window(self._window)
        return self._release(new)

    def finish(self) -> str:
        """The text still held back, when no more tokens come. An unfinished character shows as U+FFFD."""
        if self.stopped:
            return ""
        released = self._release(self._decode(self._window)[len(self._shown) :])
        if not self.stopped:
            released, self._held = released + self._held, ""
        return released

    def _restart_window(self, token_ids: list[int]) -> None:
        size = _CONTEXT_TOKENS
        self._window = token_ids[-size:]
        self._shown = self._decode(self._window)
        # A window that begins inside a character would spoil the characters after it with some tokenizers.
        while self._shown.startswith(_REPLACEMENT) and size < min(3 * _CONTEXT_TOKENS, len(token_ids)):
            size += 1
            self._window = token_ids[-size:]
            self._shown = self._decode(self._window)
        self._undecoded = 0

    def _release(self, new: str) -> str:
        if not self._stop:
            return new
        text = self._held + new
        found = [index for index in (text.find(stop) for stop in self._stop) if index >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


class TokenNames:
    """Display text of single tokens, as they read inside a text (with their leading space)."""

    def __init__(self, decode: Callable[[list[int]], str], context_id: int):
        self._decode = decode
        self._context_id = context_id
        self._context = decode([context_id])
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._known:
            # A decoder that drops the first space of a text keeps it after a context token.
            text = self._decode([self._context_id, token_id])
            self._known[token_id] = text[len(self._context) :]
        return self._known[token_id]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, shorter than `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
