"""Heads of HTTP answers that are written without the ASGI server, with the same default headers."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from steelyard.serve.edge.replies import Reply

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
            self._text = b"".join([b"%b: %b\r\n" % header for header in headers])
            self._ends = any(name == b"connection" for name, _ in headers)
        lines = [STATUS_LINE[reply.status], self._text]
        lines += [b"%b: %b\r\n" % header for header in reply.headers]
        if ends and not self._ends:
            lines.append(_CLOSE)
        lines.append(b"\r\n")
        return b"".join(lines), ends or self._ends
