"""One end of a link between processes: what is posted goes with one packet a turn of the loop.

The rules of this file:
- Order is kept, and nothing is lost while both ends live. If the other end is busy and the socket is full,
  what is posted waits and goes as one list when there is room. What may wait is bounded by whoever posts: a
  front end by its open connections, the decision maker by the requests that are open.
- An end that is closed takes what is posted and forgets it: the owner learns of the loss by `on_lost`.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from steelyard.worker.doorbell import FULL_S, LoopDoorbell

M = TypeVar("M")


class Link(Generic[M]):
    """One end.

    Args:
        sock: SOCK_SEQPACKET; taken over, and closed by `close`.
        message_type: union of what the other end says.
        on_message: called with each message and the file descriptors of its packet.
        on_lost: called at most once, from the loop, never after `close`; with a reason unless the other end
            simply went.
        last: asked for one more message whenever a packet is about to go; None for nothing.
        loop: the running one.
    """

    def __init__(
        self,
        sock: socket.socket,
        message_type: Any,
        on_message: Callable[[M, list[int]], None],
        on_lost: Callable[[str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        last: Callable[[], Any | None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._last = last
        self._posted: list[Any] = []
        self._is_due = False
        self._doorbell: LoopDoorbell[M] = LoopDoorbell(sock, message_type, on_message, on_lost, loop=loop)

    def post(self, message: Any) -> None:
        """Say it in the next turn of the loop."""
        self._posted.append(message)
        self.wake()

    def wake(self) -> None:
        """Let a packet go in the next turn of the loop, if there is anything to say."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def send(self, *messages: Any, fds: Sequence[int] = ()) -> None:
        """Say it now, after what was posted before. Takes `fds` over and closes them once sent."""
        posted, self._posted = self._posted, []
        last = self._last()
        if last is not None:
            posted.append(last)
        self._doorbell.send(*posted, *messages, fds=fds)

    def drain(self) -> None:
        """Take in everything that has arrived."""
        self._doorbell.drain()

    def close(self) -> None:
        """Close the socket and forget what waits; safe to call twice."""
        self._posted.clear()
        self._doorbell.close()

    def _flush(self) -> None:
        if self._doorbell.is_waiting:
            self._loop.call_later(FULL_S, self._flush)
            return
        self._is_due = False
        self.send()
