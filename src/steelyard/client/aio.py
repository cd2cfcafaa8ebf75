"""The client for asyncio: the same calls, on the loop that runs them."""

import asyncio
import math
import random
import ssl
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from steelyard.client.answers import Answer, ModelMetadata
from steelyard.client.errors import ClientError
from steelyard.client.http import (
    Address,
    BrokenError,
    Reply,
    ReplyReader,
    Send,
    encode_request,
    parse_address,
)
from steelyard.client.retries import Retries
from steelyard.client.session import Bounds, Pause, Session, Steps
from steelyard.client.wire import Buffer
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio; arguments and errors are the same. It belongs to the loop of its first call.

    A call that is cancelled closes its connection, by which the server cancels the request. The arrays of a
    call must not change before it returns.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        timeout_s: float | None = 30.0,
        retries: Retries = Retries(),  # noqa: B008 -- a frozen value
        connections_max: int = 16,
        shared_memory: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._session = Session(
            time.monotonic,
            timeout_s=timeout_s,
            retries=retries,
            rng=random.Random(),
            shared_memory=shared_memory,
        )
        self._connections = _Connections(parse_address(url), connections_max, tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        max_latency_ms: float | None = None,
        min_accuracy: float | None = None,
        max_core_ms: float | None = None,
        slo_class: str | None = None,
        timeout_s: float | None = None,
        outputs: Collection[str] = (),
        request_id: str = "",
    ) -> Answer:
        """Run a model on one request's tensors; see `Client.infer`. Raises ClientError."""
        bounds = Bounds(max_latency_ms, min_accuracy, max_core_ms, slo_class)
        return await self._run(
            self._session.infer(
                model, inputs, bounds, timeout_s=timeout_s, outputs=outputs, request_id=request_id
            )
        )

    async def metadata(self, model: str) -> ModelMetadata:
        """What a model takes and gives. Raises ClientError."""
        return await self._run(self._session.metadata(model))

    async def statistics(self, model: str | None = None) -> list[dict[str, Any]]:
        """The server's statistics of one model, or of each. Raises ClientError."""
        return await self._run(self._session.statistics(model))

    async def is_ready(self, model: str | None = None) -> bool:
        """Whether a model, or the whole server, takes requests; False where nobody answers."""
        return await self._run(self._session.is_ready(model))

    async def close(self) -> None:
        """Give back connections and shared memory; other calls fail."""
        try:
            await self._run(self._session.close())
        finally:
            self._connections.close()

    async def _run(self, steps: Steps[T]) -> T:
        """Do what a call yields until it returns."""
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                        step = next(steps)
                        continue
                    reply = await self._connections.exchange(step)
                except (OSError, ClientError, InputError, asyncio.CancelledError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            value: T = done.value
            return value


class _Connections:
    """Connections that are kept alive; the one used last is taken first, so that the others grow old."""

    def __init__(self, address: Address, connections_max: int, tls: ssl.SSLContext | None) -> None:
        if connections_max < 1:
            raise InputError(f"connections_max: want at least 1, got {connections_max}")
        self._address = address
        self._tls = (tls or ssl.create_default_context()) if address.is_tls else None
        self._slots = asyncio.Semaphore(connections_max)
        self._idle: list[_Connection] = []
        self._is_closed = False

    async def exchange(self, send: Send) -> Reply:
        """Send a request and read its answer.

        Raises:
            TimeoutError: it did not come by the deadline.
            OSError: the connection failed.
            InputError: the request cannot be put into HTTP.
        """
        pieces = encode_request(send, self._address)
        left_s = None if math.isinf(send.deadline_s) else send.deadline_s - time.monotonic()
        async with asyncio.timeout(left_s), self._slots:
            connection = self._take_idle()
            if connection is not None:
                try:
                    return await self._use(connection, pieces)
                except BrokenError as error:
                    if not error.is_silent:
                        raise
                    # The server has closed it while it was idle: not a failure yet.
            return await self._use(await self._connect(), pieces)

    def close(self) -> None:
        """Close all that are idle, and each other one when its call ends."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _use(self, connection: "_Connection", pieces: list[Buffer]) -> Reply:
        try:
            reply = await connection.exchange(pieces)
        except BaseException:
            connection.close()
            raise
        if reply.is_last or self._is_closed or not connection.is_quiet:
            connection.close()
        else:
            self._idle.append(connection)
        return reply

    def _take_idle(self) -> "_Connection | None":
        if self._is_closed:
            raise ClientError("the client is closed")
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        host, port = self._address.host, self._address.port
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, host, port, ssl=self._tls)
        return connection


class _Connection(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._reader: ReplyReader | None = None
        self._waiting: asyncio.Future[Reply] | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether all is sent: a server may answer before it has read a body that it does not want."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    async def exchange(self, pieces: list[Buffer]) -> Reply:
        """Send a request and read its answer. Raises BrokenError."""
        if self._transport is None or not self.is_open:
            raise BrokenError("the server closed the connection", is_silent=True)
        self._reader = ReplyReader()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.writelines([piece for piece in pieces if len(piece)])
        try:
            return await self._waiting
        finally:
            self._reader = self._waiting = None

    def close(self) -> None:
        """Close it at once, unsent bytes and all."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._reader is None or self._waiting is None or self._waiting.done():
            self.close()  # bytes that nobody asked for
            return
        try:
            reply = self._reader.feed(data)
        except BrokenError as error:
            self._waiting.set_exception(error)
            return
        if reply is not None:
            self._waiting.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self.is_open = False
        if self._reader is not None and self._waiting is not None and not self._waiting.done():
            text = str(error) if error else "the server closed the connection"
            self._waiting.set_exception(BrokenError(text, is_silent=not self._reader.has_begun))
