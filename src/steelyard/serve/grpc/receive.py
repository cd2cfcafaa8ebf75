"""Reading messages, within limits.

The rules of this file:
- Messages under way, those that come and answers that are not read yet, are bounded together by
  `buffered_bytes_max`, and a call's only message in time by `body_s_max`, as bodies over HTTP are.
- gRPC's library keeps what has come of a message until all of it is there, and tells nobody how much that is.
  So the bytes are measured where they must lie: what malloc has given out, above what it had given out when
  no call was open.
- Beyond the limit no message is begun. While that does not do, the younger half of those that have begun is
  refused at each look; of streams last, for they may wait for a next message that nobody sends.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from steelyard.serve.edge.malloc import in_use_bytes
from steelyard.serve.edge.receive import late_body, too_much_at_once
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.grpc.refusals import abort

LOOK_S = 0.05
"""How often is measured while calls are open; what a network brings meanwhile is above the limit."""

Next = Callable[[], Awaitable[bytes | None]]
"""The next message of a stream; None after the last. Raises RefusedError."""


class Messages:
    """The messages of one edge.

    Args:
        settings: limits.
        in_use: bytes that malloc has given out; None where it does not tell, and then they are not bounded.

    Attributes:
        is_full: more is under way than may be, as of the latest look.
    """

    def __init__(self, settings: EdgeSettings, in_use: Callable[[], int | None] = in_use_bytes) -> None:
        self.is_full = False
        self._settings = settings
        self._in_use = in_use
        self._idle_bytes = in_use() or 0
        self._calls = 0
        self._reads: dict[asyncio.Timeout, float] = {}
        """Messages that are not complete, the oldest first: by when they must be; those of streams never."""
        self._is_looking = False

    def unary(
        self, serve: Callable[[Any, Any], Awaitable[Any]], *, request: Any = None, response: Any = None
    ) -> grpc.RpcMethodHandler:
        """Serves calls of one message with one answer; `serve(message, context)`.

        Args:
            serve: makes the answer.
            request: the class of the message; bytes if None.
            response: that of the answer.
        """

        async def answer(_: Any, context: Any) -> Any:
            return await serve(await self._only(context, request), context)

        # To gRPC it is a stream, of which the message is read when we say so, within limits of ours.
        return grpc.stream_unary_rpc_method_handler(answer, response_serializer=_serializer(response))

    def unary_stream(
        self, serve: Callable[[Any, Any], AsyncGenerator[Any]], *, request: Any, response: Any
    ) -> grpc.RpcMethodHandler:
        """Serves calls of one message with many answers; see `unary`."""

        async def answer(_: Any, context: Any) -> AsyncGenerator[Any]:
            async with aclosing(serve(await self._only(context, request), context)) as answers:
                async for one in answers:
                    yield one

        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=_serializer(response))

    def stream(
        self, serve: Callable[[Next, Any], AsyncGenerator[Any]], *, response: Any = None
    ) -> grpc.RpcMethodHandler:
        """Serves calls of many messages with many answers."""

        async def answer(_: Any, context: Any) -> AsyncGenerator[Any]:
            self._begin(context)
            try:
                async with aclosing(serve(lambda: self._next(context, math.inf), context)) as answers:
                    async for one in answers:
                        yield one
            except RefusedError as error:
                await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(answer, response_serializer=_serializer(response))

    async def _only(self, context: Any, request: Any) -> Any:
        """The message of a call that has one; does not return where it is refused."""
        self._begin(context)
        try:
            data = await self._next(context, asyncio.get_running_loop().time() + self._settings.body_s_max)
            if data is None:  # too large for gRPC, which has answered; or there is none
                raise RefusedError(400, "the call has no message")
            return data if request is None else decoded(request, data)
        except RefusedError as error:
            await abort(context, error)
        raise AssertionError("abort does not return")

    def _begin(self, context: Any) -> None:
        """A call has come."""
        self._calls += 1
        context.add_done_callback(self._end)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _end(self, _: Any) -> None:
        self._calls -= 1

    async def _next(self, context: Any, until_s: float) -> bytes | None:
        """The next message of a call; None if there is none.

        Raises:
            RefusedError: it is not there at `until_s`, or all messages together are too much.
        """
        if self.is_full:
            raise too_much_at_once()
        reading = asyncio.timeout(
            None
        )  # ended by a look: a timer for each message costs more than reading it
        self._reads[reading] = until_s
        try:
            async with reading:
                message = await context.read()
        except TimeoutError:
            if reading in self._reads:
                raise late_body(self._settings.body_s_max) from None
            raise too_much_at_once() from None
        finally:
            self._reads.pop(reading, None)
        return None if message is grpc.aio.EOF else message

    def _look(self) -> None:
        """Measure, and refuse what is too much."""
        in_use = self._in_use() or 0
        if not self._calls:
            self._is_looking = self.is_full = False
            self._idle_bytes = in_use
            return
        loop = asyncio.get_running_loop()
        loop.call_later(LOOK_S, self._look)
        now_s = loop.time()
        late = [reading for reading, until_s in self._reads.items() if until_s <= now_s]
        self.is_full = in_use - self._idle_bytes > self._settings.buffered_bytes_max
        refused = self._younger_half() if self.is_full else []
        for reading in refused:
            del self._reads[reading]
        for reading in {*late, *refused}:
            reading.reschedule(now_s)

    def _younger_half(self) -> list[asyncio.Timeout]:
        """Of the messages that are not complete; those of streams only if there are no others."""
        lone = [reading for reading, until_s in self._reads.items() if until_s < math.inf]
        oldest_first = lone or list(self._reads)
        return oldest_first[len(oldest_first) // 2 :]


def decoded(request: Any, data: bytes) -> Any:
    """A message of a class.

    Raises:
        RefusedError: it is none.
    """
    try:
        return request.FromString(data)
    except DecodeError as error:
        raise RefusedError(400, f"the message cannot be decoded: {error}") from None


def _serializer(response: Any) -> Callable[[Any], bytes] | None:
    return None if response is None else response.SerializeToString
