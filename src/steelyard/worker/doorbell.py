"""Doorbells: headers, and file descriptors with them, between two processes over a SOCK_SEQPACKET socket.

A packet is one byte (0: last, 1: more follows) and a piece of a msgpack list of messages. One packet is the
rule; only a list that a socket buffer cannot take (a batch of a thousand requests) is cut. Two ends exist:
`Doorbell` blocks and serves workers; `LoopDoorbell` never blocks and serves the loop: what the socket does
not take at once waits, up to `WAITING_PACKETS_MAX`, and beyond that the other end counts as lost. A kernel
that is short of memory for a packet has not lost anybody: it is asked again (unix(7), sendmsg(2)).
"""

import array
import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

PACKET_BYTES_MAX = 60_000  # well below the usual send buffer of 212,992 B, which counts overhead as well
MESSAGE_BYTES_MAX = 64 << 20
FDS_MAX = 8
WAITING_PACKETS_MAX = 1024
FULL_S = 0.001
"""How long to wait before what had no room is tried again, where the socket does not say when it has."""

_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(FDS_MAX * _FD_BYTES)
_LAST, _MORE = b"\0", b"\1"
_SHORT_OF_MEMORY = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS))
"""The kernel's, for a packet or for descriptors on their way; a socket may count as writable meanwhile."""
_encoder = msgspec.msgpack.Encoder()

Piece = bytes | memoryview
M = TypeVar("M")


class PeerLostError(Exception):
    """The other end has gone; with a text, something else is wrong with it."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class _Receiver(Generic[M]):
    """Puts packets together to messages."""

    def __init__(self, sock: socket.socket, message_type: Any) -> None:
        self._socket = sock
        self._decoder: msgspec.msgpack.Decoder[list[M]] = msgspec.msgpack.Decoder(list[message_type])
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._fds: list[int] = []

    def receive(self) -> tuple[list[M], list[int]] | None:
        """One packet's worth: None if the list is not complete yet.

        Raises:
            PeerLostError: end of file, a broken connection, a list over `MESSAGE_BYTES_MAX`, or descriptors
                for which this process has no room.
            BlockingIOError: nothing to read on a non-blocking socket.
        """
        try:
            packet, ancillary, flags, _ = self._socket.recvmsg(
                PACKET_BYTES_MAX + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            raise PeerLostError from None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(array.array("i", data[: len(data) - len(data) % _FD_BYTES]))
        if not packet:
            self.close()
            raise PeerLostError
        if flags & socket.MSG_CTRUNC:
            self.close()
            raise PeerLostError("this process has no room for further file descriptors")
        payload = packet[1:]
        if packet[0]:
            self._pieces.append(payload)
            self._bytes += len(packet)
            if self._bytes > MESSAGE_BYTES_MAX:
                raise PeerLostError(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
            return None
        if self._pieces:
            payload = b"".join((*self._pieces, payload))
            self._pieces, self._bytes = [], 0
        fds, self._fds = self._fds, []
        return self._decoder.decode(payload), fds

    def close(self) -> None:
        """Close file descriptors of a message that never got complete."""
        _close_all(self._fds)
        self._fds = []


class Doorbell(Generic[M]):
    """The blocking end. `send` may be called from any thread, `receive` from one.

    Args:
        sock: taken over, and closed by `close`.
        message_type: union of what the other end sends.
    """

    def __init__(self, sock: socket.socket, message_type: Any) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._receiver: _Receiver[M] = _Receiver(sock, message_type)
        self._packet_bytes = _packet_bytes(sock)
        self._lock = threading.Lock()  # a list in several packets must not be mixed with another

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, *messages: Any, fds: Sequence[int] = ()) -> None:
        """Send one list of messages; waits for room.

        Raises:
            PeerLostError: the other end has gone.
        """
        payload = _encoder.encode(messages)
        with self._lock:
            if not fds and len(payload) <= self._packet_bytes and self._send_one(_LAST, payload, fds):
                return  # nearly all
            for flag, piece, riders in _packets(payload, fds, self._packet_bytes):
                while not self._send_one(flag, piece, riders):
                    time.sleep(FULL_S)

    def _send_one(self, flag: bytes, piece: Piece, fds: Sequence[int]) -> bool:
        """Whether the kernel had the memory for it."""
        try:
            if fds:
                self._socket.sendmsg([flag, piece], _ancillary(fds))
            else:
                self._socket.send(flag + piece)
        except ConnectionError:
            raise PeerLostError from None
        except OSError as error:
            if error.errno not in _SHORT_OF_MEMORY:
                raise
            return False
        return True

    def receive(self) -> tuple[list[M], list[int]]:
        """Wait for the next list of messages and the file descriptors that came with it.

        Raises:
            PeerLostError: end of file or a broken connection.
        """
        while (received := self._receiver.receive()) is None:
            pass
        return received

    def close(self) -> None:
        """Close the socket."""
        self._receiver.close()
        self._socket.close()


class LoopDoorbell(Generic[M]):
    """The end on an event loop; asyncio's own or uvloop.

    Args:
        sock: taken over, and closed by `close`.
        message_type: union of what the other end sends.
        on_message: called with each message and the file descriptors of its list.
        on_lost: called at most once, from the loop, never after `close`; with a reason unless the other end
            simply went.
    """

    def __init__(
        self,
        sock: socket.socket,
        message_type: Any,
        on_message: Callable[[M, list[int]], None],
        on_lost: Callable[[str], None],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._receiver: _Receiver[M] = _Receiver(sock, message_type)
        self._packet_bytes = _packet_bytes(sock)
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = loop
        self._waiting: deque[tuple[bytes, Piece, Sequence[int]]] = deque()
        self._is_writing = False
        self._is_open = True
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_waiting(self) -> bool:
        """Whether the socket is full and packets wait for it."""
        return bool(self._waiting)

    def send(self, *messages: Any, fds: Sequence[int] = ()) -> None:
        """Send now. Takes `fds` over and closes them once sent."""
        if not self._is_open:
            _close_all(fds)
            return
        if not messages:
            return
        payload = _encoder.encode(messages)
        if not (self._waiting or fds) and self._send_at_once(payload):
            return
        self._waiting.extend(_packets(payload, fds, self._packet_bytes))
        if not self._is_writing:
            self._write()
        if len(self._waiting) > WAITING_PACKETS_MAX:
            self._lose(f"{len(self._waiting)} packets wait: the other end does not read")

    def drain(self) -> None:
        """Deliver everything that has arrived, however much: the sender has ended."""
        while self._is_open and self._receive_one():
            pass

    def close(self) -> None:
        """Close the socket and forget what waits; safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket.fileno())
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket.fileno())
        for _, _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()
        self._receiver.close()
        self._socket.close()

    def _readable(self) -> None:
        # One packet a call: the loop calls again while there is more, so looking for another is in vain as a
        # rule; and one busy worker cannot starve the loop.
        if self._is_open:
            self._receive_one()

    def _receive_one(self) -> bool:
        try:
            received = self._receiver.receive()
        except BlockingIOError:
            return False
        except (PeerLostError, msgspec.DecodeError) as error:
            self._lose(str(error))
            return False
        if received is not None:
            messages, fds = received
            for message in messages:
                self._on_message(message, fds)
        return True

    def _send_at_once(self, payload: bytes) -> bool:
        """Send a list that fits one packet, if the socket takes it now: nearly all of them."""
        if len(payload) > self._packet_bytes:
            return False
        try:
            self._socket.send(_LAST + payload)
        except ConnectionError:
            self._lose("")
        except OSError:  # `_write` is told the same, and does what is to be done
            return False
        return True

    def _write(self) -> None:
        """Write until nothing waits or there is no room."""
        while self._waiting:
            flag, piece, fds = self._waiting[0]
            try:
                self._socket.sendmsg([flag, piece], _ancillary(fds))
            except OSError as error:
                self._not_written(error)
                return
            self._waiting.popleft()
            _close_all(fds)
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _not_written(self, error: OSError) -> None:
        """Write again when there is room, unless the other end is lost."""
        if isinstance(error, BlockingIOError):
            self._is_writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)
        elif error.errno in _SHORT_OF_MEMORY:
            self._is_writing = True
            self._loop.remove_writer(self._socket.fileno())
            self._loop.call_later(FULL_S, self._write)
        else:
            self._lose("" if isinstance(error, ConnectionError) else str(error))

    def _lose(self, reason: str) -> None:
        if self._is_open:
            self.close()
            # Not within the caller's `send`: it may be in the middle of a decision about this very peer.
            self._loop.call_soon(self._on_lost, reason)


def _packet_bytes(sock: socket.socket) -> int:
    """How long a piece may be: a packet that is larger than the whole send buffer is refused for ever."""
    return min(PACKET_BYTES_MAX, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 3)


def _packets(
    payload: bytes, fds: Sequence[int], packet_bytes: int
) -> list[tuple[bytes, Piece, Sequence[int]]]:
    """Cut one list of messages into (flag, piece, file descriptors); those ride on the first piece."""
    if len(payload) <= packet_bytes:  # nearly all
        return [(_LAST, payload, fds)]
    view = memoryview(payload)
    starts = range(0, len(view), packet_bytes)
    return [
        (
            _MORE if start != starts[-1] else _LAST,
            view[start : start + packet_bytes],
            fds if start == 0 else (),
        )
        for start in starts
    ]


def _ancillary(fds: Sequence[int]) -> "list[tuple[int, int, array.array[int]]]":
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
