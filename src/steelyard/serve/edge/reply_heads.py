"""Heads of HTTP answers that are written without the ASGI server, with the same default headers."""

from collections.abc import Iterable
from functools import lru_cache

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from steelyard.serve.edge.replies import Reply

TEXTS_MAX = 1024
"""Kept texts of headers: answers of one service differ in few lengths."""
_CLOSE = b"connection: close\r\n"


class ReplyHeads:
    """Writes the heads of one listener's answers.

    Args:
        state: the server's: its default headers are made anew every second, and may be added to.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._headers: list[tuple[bytes, bytes]] = []
        self._count = 0
        self._text = b""
        self._ends = False

    def head(self, reply: Reply, ends: bool) -> tuple[bytes, bool]:
        """The bytes before an answer's body, and whether the connection ends after it.

        Args:
            reply: its headers are ours: no byte in them needs a check.
            ends: the connection is to end, whatever the default headers say.
        """
        headers = self._state.default_headers
        if headers is not self._headers or len(headers) != self._count:
            self._headers, self._count = headers, len(headers)
            self._text = _text(headers)
            self._ends = any(name == b"connection" for name, _ in headers)
        text = _known_text(tuple(reply.headers)) if reply.status == 200 else _text(reply.headers)
        close = _CLOSE if ends and not self._ends else b""
        return b"".join((STATUS_LINE[reply.status], self._text, text, close, b"\r\n")), ends or self._ends


def _text(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_known_text = lru_cache(TEXTS_MAX)(_text)
