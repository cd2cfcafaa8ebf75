"""One kept HTTP connection of the generator: messages go out as they are, answers are parsed as they come."""

import socket
from typing import Any

import httptools

from steelyard.client.wire import LENGTH_HEADER
from steelyard.load.result import CONNECTION

TIMEOUT_S = 20.0
_LENGTH_HEADER = LENGTH_HEADER.lower().encode()
_BUFFER_BYTES = 1 << 20


class Connection:
    """One kept HTTP connection, with at most one request on its way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.socket.setblocking(False)
        self.index = -1
        self._unsent = memoryview(b"")
        self._parser: Any = None
        self._body: list[bytes] = []
        self.json_length: int | None = None
        self.ended = False
        self.sent = 0
        self.received = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it meanwhile, as servers do with connections that were idle."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def was_stale(self) -> bool:
        """Whether it broke as a kept connection may, closed in the moment of its next use: one asks again."""
        return self.sent > 1 and not self.received

    def send(self, index: int, message: bytes) -> bool:
        """Begin a request; whether all of it was taken."""
        self.sent, self.received = self.sent + 1, 0
        self.index, self._unsent = index, memoryview(message)
        self._parser, self._body, self.json_length, self.ended = (
            httptools.HttpResponseParser(self),
            [],
            None,
            False,
        )
        return self.flush()

    def flush(self) -> bool:
        """Send what is left; whether all of it was taken."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True

    def read(self) -> int:
        """Read what there is: the status once the answer is whole, 0 before, `CONNECTION` if it broke."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return 0
        except OSError:
            return CONNECTION
        if not data:
            return CONNECTION
        self.received += len(data)
        self._parser.feed_data(data)
        return int(self._parser.get_status_code()) if self.ended else 0

    @property
    def content(self) -> bytes:
        return b"".join(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _LENGTH_HEADER:
            self.json_length = int(value)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self.ended = True
