"""HTTP/1.1 as a client needs it, without a socket: heads of requests, and answers from bytes as they come.

The parser is httptools' (llhttp), which the server uses, too; what is left is small enough to be the same
under threads and under asyncio, and strict about time: no call waits past its deadline, whatever the server
trickles. What the libraries would cost instead is measured in docs/client.md.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from steelyard.client.wire import Buffer, base_url
from steelyard.core.errors import InputError

ANSWER_BYTES_MAX = 1 << 30
HEADERS_MAX = 128
OK, UNAVAILABLE = 200, 503


class Address(NamedTuple):
    """Where a server listens, and the path before `/v2`."""

    host: str
    port: int
    is_tls: bool
    prefix: str

    @property
    def authority(self) -> str:
        """For the header `Host`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Reply(NamedTuple):
    """A whole answer; names of headers in small letters."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes
    is_last: bool = False
    """Whether the server ends the connection after it."""


class Send(NamedTuple):
    """A request to send, and until when its answer may come (on the client's clock; inf: for ever)."""

    method: str
    path: str
    headers: Mapping[str, str]
    parts: Sequence[Buffer]
    deadline_s: float


class BrokenError(ConnectionError):
    """A connection ended before the answer was whole.

    Attributes:
        is_silent: not a byte of the answer had come.
    """

    def __init__(self, text: str, *, is_silent: bool) -> None:
        super().__init__(text)
        self.is_silent = is_silent


def parse_address(url: str) -> Address:
    """A server's address from its URL; `host:port` alone is `http://`.

    Raises:
        InputError: it is no URL of an HTTP server.
    """
    try:
        parts = urlsplit(base_url(url))
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise InputError(f"{url!r} is no URL of a server: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r} is no URL of a server: want http://host:port or https://host:port")
    is_tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if is_tls else 80), is_tls, parts.path)


def encode_request(send: Send, address: Address) -> list[Buffer]:
    """The bytes of a request, in pieces: its head, and its body as it is.

    Raises:
        InputError: a header would break the head.
    """
    lines = [f"{send.method} {address.prefix}{send.path} HTTP/1.1", f"Host: {address.authority}"]
    for name, value in send.headers.items():
        if not value.isascii() or not value.isprintable():
            raise InputError(f"header {name} takes printable ASCII text, not {value!r}")
        lines.append(f"{name}: {value}")
    if send.method == "POST":
        lines.append(f"Content-Length: {sum(map(len, send.parts))}")
    return ["\r\n".join((*lines, "", "")).encode(), *send.parts]


class ReplyReader:
    """Puts one answer together from bytes as they come; `has_begun` once there were any.

    Whatever comes behind it was not asked for: it is left out, and ends the connection.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._status = 0
        self._is_whole = False
        self._is_last = False
        self.has_begun = False

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes; the answer when it is whole.

        Raises:
            BrokenError: the connection ended (no bytes), or they are not HTTP, or too many.
        """
        if not data:
            raise BrokenError("the server closed the connection", is_silent=not self.has_begun)
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._is_last = True
            if not self._is_whole:
                raise BrokenError(f"the answer is not HTTP, or too large: {error}", is_silent=False) from None
        if not self._is_whole:
            return None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Reply(self._status, self._headers, body, self._is_last)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._is_last = self._is_whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if self._is_whole:
            return
        if len(self._headers) >= HEADERS_MAX:
            raise ValueError(f"more than {HEADERS_MAX} headers")
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._is_whole:
            return
        self._body_bytes += len(data)
        if self._body_bytes > ANSWER_BYTES_MAX:
            raise ValueError(f"more than {ANSWER_BYTES_MAX} bytes")
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._is_whole:
            return
        self._status = self._parser.get_status_code()
        if self._status < OK:  # a word in between; the answer is still to come
            self._headers.clear()
            return
        self._is_whole = True
        self._is_last = not self._parser.should_keep_alive()  # known here only: the parser starts anew
