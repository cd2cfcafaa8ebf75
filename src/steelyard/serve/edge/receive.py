"""Reading request bodies, within limits.

The rule of this file: bodies being received are bounded, each by `body_bytes_max`, all together by
`buffered_bytes_max`, in time by `body_s_max`. A body that is refused is discarded by the HTTP server as it
comes, so that a client which sends first and reads later still gets its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from steelyard.serve.edge.compression import (
    INLINE_BYTES,
    INLINE_INFLATED_BYTES,
    TooLargeError,
    inflate,
    request_coding,
)
from steelyard.serve.edge.replies import RETRY_AFTER_S, RefusedError
from steelyard.serve.edge.settings import EdgeSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Chunks = list[bytes]


class BodyReader:
    """Reads the bodies of one edge; every body read is given back by `release`."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self.buffered_bytes = 0
        """Bytes of all bodies that are held now."""

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> Chunks | None:
        """The chunks of one body as it was sent; None if the client left while sending it.

        Raises:
            RefusedError: 413, 408, or 503 where all bodies together are too much.
        """
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._settings.body_bytes_max:
            raise self._too_large()
        chunks: Chunks = []
        try:
            message = await receive()
            self._keep(message, chunks, 0)
            if message.get("more_body"):
                async with asyncio.timeout(self._settings.body_s_max):
                    message = await self._rest(receive, chunks)
        except TimeoutError:
            self.release(chunks)
            raise late_body(self._settings.body_s_max) from None
        except BaseException:
            self.release(chunks)
            raise
        if message["type"] == "http.disconnect":
            self.release(chunks)
            return None
        return chunks

    def release(self, chunks: Chunks) -> None:
        """The chunks are no longer held."""
        self.buffered_bytes -= sum(map(len, chunks))

    def hold(self, size: int) -> None:
        """So many bytes more are held.

        Raises:
            RefusedError: 503, and they are not: all bodies together are too much.
        """
        if self.buffered_bytes + size > self._settings.buffered_bytes_max:
            raise too_much_at_once()
        self.buffered_bytes += size

    async def inflate(self, headers: Mapping[bytes, bytes], chunks: Chunks) -> Chunks:
        """Undo the body's `Content-Encoding`; that of large bodies on a thread.

        Raises:
            InputError: the coding is not served, or the body is not in it.
            RefusedError: 413.
        """
        coding = request_coding(headers.get(b"content-encoding"))
        if coding is None:
            return chunks
        limit = self._settings.body_bytes_max
        if sum(map(len, chunks)) <= INLINE_BYTES:
            with suppress(TooLargeError):  # for the loop; a thread says whether it is for the limit
                return [inflate(chunks, coding, min(limit, INLINE_INFLATED_BYTES))]
        try:
            return [await asyncio.to_thread(inflate, chunks, coding, limit)]
        except TooLargeError:
            raise self._too_large() from None

    async def _rest(self, receive: Receive, chunks: Chunks) -> Message:
        held_bytes = sum(map(len, chunks))
        while True:
            message = await receive()
            held_bytes += self._keep(message, chunks, held_bytes)
            if not message.get("more_body"):
                return message

    def _keep(self, message: Message, chunks: Chunks, held_bytes: int) -> int:
        """Keep a message's part of the body; its length."""
        chunk: bytes = message.get("body", b"")
        size = len(chunk)
        if held_bytes + size > self._settings.body_bytes_max:
            raise self._too_large()
        self.hold(size)
        if size:
            chunks.append(chunk)
        return size

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body is over the limit of {self._settings.body_bytes_max} bytes")


def too_much_at_once() -> RefusedError:
    """What a client is told while all that comes together is too much."""
    text = "the server is receiving too much at once"
    return RefusedError(503, text, reason="memory_full", retry_after_s=RETRY_AFTER_S)


def late_body(body_s_max: float) -> RefusedError:
    """What a client is told whose body takes too long."""
    return RefusedError(408, f"the body did not arrive within {body_s_max:g} s")
