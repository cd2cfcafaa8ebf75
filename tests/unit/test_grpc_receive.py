"""What gRPC's clients may make us hold while their messages come: in bytes all together, in time each."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
import pytest

from steelyard.serve.edge import EdgeSettings
from steelyard.serve.edge.malloc import in_use_bytes
from steelyard.serve.grpc.receive import LOOK_S, Messages, Next
from steelyard.testing.grpc import FakeContext, RefusedCallError
from steelyard.testing.virtual_clock import VirtualTimeLoop

SETTINGS = EdgeSettings(buffered_bytes_max=100, body_s_max=3.0)


class Call(FakeContext):
    """A call whose next message comes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.coming: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done: list[Callable[[Any], None]] = []

    async def read(self) -> Any:
        message = await self.coming
        self.coming = asyncio.get_running_loop().create_future()
        return message

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.done.append(callback)


class Server:
    """Calls on one edge; `in_use` is what malloc says it has given out."""

    def __init__(self) -> None:
        self.in_use = 1000
        self.messages = Messages(SETTINGS, lambda: self.in_use)
        self._unary = self.messages.unary(self._double)
        self._stream = self.messages.stream(self._doubles)

    def unary(self) -> tuple[Call, "asyncio.Task[Any]"]:
        call = Call()
        return call, asyncio.create_task(self._ended(call, self._unary.stream_unary(None, call)))

    def stream(self) -> tuple[Call, "asyncio.Task[Any]"]:
        call = Call()

        async def answers() -> list[bytes]:
            return [answer async for answer in self._stream.stream_stream(None, call)]

        return call, asyncio.create_task(self._ended(call, answers()))

    async def _ended(self, call: Call, answer: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await answer
        finally:
            for callback in call.done:
                callback(call)

    async def _double(self, message: bytes, _: Any) -> bytes:
        return 2 * message

    async def _doubles(self, next_message: Next, _: Any) -> AsyncGenerator[bytes]:
        while (message := await next_message()) is not None:
            yield 2 * message


def run(use: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await use(Server())

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


def refusal(task: "asyncio.Task[Any]") -> RefusedCallError:
    error = task.exception()
    assert isinstance(error, RefusedCallError)
    return error


def test_messages_within_the_limit_are_read() -> None:
    async def use(server: Server) -> None:
        call, one = server.unary()
        talk, many = server.stream()
        server.in_use += 100  # exactly the limit
        await asyncio.sleep(2 * LOOK_S)
        call.coming.set_result(b"a")
        assert await one == b"aa"
        for message in (b"b", b"c", grpc.aio.EOF):
            talk.coming.set_result(message)
            await asyncio.sleep(LOOK_S)
        assert await many == [b"bb", b"cc"]

    run(use)


def test_beyond_it_the_younger_half_is_refused_until_the_rest_fits() -> None:
    async def use(server: Server) -> None:
        calls = [server.unary() for _ in range(5)]
        await asyncio.sleep(0)
        server.in_use += 101
        await asyncio.sleep(1.5 * LOOK_S)
        # One look. Of five, 5 // 2 = 2 stay.
        assert [task.done() for _, task in calls] == [False, False, True, True, True]
        for _, task in calls[2:]:
            error = refusal(task)
            assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.metadata["steelyard-reason"] == "memory_full"
            assert error.metadata["grpc-retry-pushback-ms"] == "1000"
        server.in_use -= 50  # what they held
        await asyncio.sleep(LOOK_S)
        for call, task in calls[:2]:
            call.coming.set_result(b"x")
            assert await task == b"xx"

    run(use)


def test_beyond_it_no_message_is_begun() -> None:
    async def use(server: Server) -> None:
        _, only = server.unary()
        await asyncio.sleep(0)
        server.in_use += 101
        await asyncio.sleep(1.5 * LOOK_S)
        refusal(only)
        unread, next_one = server.unary()
        with pytest.raises(RefusedCallError, match="too much at once"):
            await next_one
        assert not unread.coming.done()
        server.in_use -= 101
        await asyncio.sleep(2 * LOOK_S)
        call, task = server.unary()
        await asyncio.sleep(0)
        call.coming.set_result(b"y")
        assert await task == b"yy"

    run(use)


def test_streams_are_refused_last_for_they_may_be_idle() -> None:
    async def use(server: Server) -> None:
        idle, stream = server.stream()
        lone = [server.unary() for _ in range(2)]
        await asyncio.sleep(0)
        server.in_use += 101
        await asyncio.sleep(1.5 * LOOK_S)
        assert [task.done() for _, task in lone] == [False, True]
        await asyncio.sleep(LOOK_S)
        assert lone[0][1].done()
        assert not stream.done()
        await asyncio.sleep(LOOK_S)
        assert refusal(stream).code == grpc.StatusCode.RESOURCE_EXHAUSTED
        for _, task in lone:
            refusal(task)
        assert idle.done

    run(use)


def test_what_is_in_use_while_no_call_is_open_does_not_count() -> None:
    async def use(server: Server) -> None:
        first, task = server.unary()
        await asyncio.sleep(0)
        server.in_use += 90
        first.coming.set_result(b"z")
        await task
        await asyncio.sleep(2 * LOOK_S)  # nothing is open: the 90 are not messages
        second, task = server.unary()
        await asyncio.sleep(0)
        server.in_use += 90
        await asyncio.sleep(2 * LOOK_S)
        second.coming.set_result(b"z")
        assert await task == b"zz"

    run(use)


def test_a_lone_message_has_a_time_and_a_stream_may_wait() -> None:
    async def use(server: Server) -> None:
        _, late = server.unary()
        talk, stream = server.stream()
        await asyncio.sleep(SETTINGS.body_s_max + 0.1)
        assert refusal(late).code == grpc.StatusCode.DEADLINE_EXCEEDED
        talk.coming.set_result(grpc.aio.EOF)
        assert await stream == []

    run(use)


def test_a_call_without_its_message_is_an_invalid_argument() -> None:
    async def use(server: Server) -> None:
        call, task = server.unary()
        await asyncio.sleep(0)
        call.coming.set_result(grpc.aio.EOF)
        with pytest.raises(RefusedCallError, match="no message") as found:
            await task
        assert found.value.code == grpc.StatusCode.INVALID_ARGUMENT

    run(use)


def test_malloc_says_what_is_in_use() -> None:
    before = in_use_bytes()
    if before is None:
        pytest.fail("this libc does not tell")  # glibc since 2.33 does, and tests run on it
    block = bytes(10 << 20)
    during = in_use_bytes()
    del block
    after = in_use_bytes()
    assert during is not None
    assert after is not None
    assert 10 << 20 <= during - before < 11 << 20
    assert during - after >= 10 << 20
