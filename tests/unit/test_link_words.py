"""Both ends of a link speak one language: whatever one can say, the other reads as it was said."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.commands import Release
from steelyard.core.types import RequestId
from steelyard.serve.link import messages as m
from steelyard.serve.link.link import Link
from steelyard.testing.strategies import values_of
from steelyard.worker.doorbell import pair


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values_of(m.ToFrontEnd), max_size=3))
def test_what_a_front_end_is_told_comes_as_it_was_said(said: list[Any]) -> None:
    decoder = msgspec.msgpack.Decoder(list[m.ToFrontEnd])
    assert decoder.decode(msgspec.msgpack.encode(said)) == said


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values_of(m.FromFrontEnd), max_size=3))
def test_what_a_front_end_says_comes_as_it_was_said(said: list[Any]) -> None:
    decoder = msgspec.msgpack.Decoder(list[m.FromFrontEnd])
    assert decoder.decode(msgspec.msgpack.encode(said)) == said


class Ends:
    """Two ends on one loop, and what has come to the far one, packet by packet."""

    def __init__(self, last: Callable[[], Any | None] = lambda: None) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        self.heard: list[Any] = []
        self.fds: list[int] = []
        self.lost: list[str] = []
        self.near: Link[Any] = Link(
            ours, m.FromFrontEnd, lambda *_: None, self.lost.append, loop=loop, last=last
        )
        self.far: Link[Any] = Link(theirs, m.ToFrontEnd, self._hear, lambda _: None, loop=loop)

    def _hear(self, message: Any, fds: list[int]) -> None:
        self.heard.append(message)
        self.fds = fds or self.fds

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    def close(self) -> None:
        self.near.close()
        self.far.close()


def release(number: int) -> Release:
    return Release(RequestId(1, number))


def test_what_is_posted_goes_in_order_and_before_what_is_sent() -> None:
    async def main() -> None:
        ends = Ends()
        read, write = os.pipe()
        ends.near.post(release(1))
        ends.near.post(release(2))
        ends.near.send(m.Lend(("replica-1",)), fds=(read,))
        ends.near.post(release(3))
        await ends.until(lambda: len(ends.heard) == 4)
        assert ends.heard == [release(1), release(2), m.Lend(("replica-1",)), release(3)]
        os.write(write, b"here")
        assert os.read(ends.fds[0], 4) == b"here"
        for fd in (ends.fds[0], write):  # the sender's own was taken over
            os.close(fd)
        ends.close()

    asyncio.run(main())


def test_the_last_word_goes_with_every_packet_that_has_one() -> None:
    async def main() -> None:
        words = [m.Forget("a"), None, m.Forget("b")]
        ends = Ends(last=lambda: words.pop(0) if words else None)
        ends.near.post(release(1))
        await ends.until(lambda: len(ends.heard) == 2)
        ends.near.post(release(2))
        await ends.until(lambda: len(ends.heard) == 3)
        ends.near.wake()  # nothing is posted, but there is a last word
        await ends.until(lambda: len(ends.heard) == 4)
        assert ends.heard == [release(1), m.Forget("a"), release(2), m.Forget("b")]
        ends.near.wake()
        ends.close()

    asyncio.run(main())


def test_a_full_socket_loses_nothing_and_keeps_the_order() -> None:
    """60,000 releases are about 1.3 MB: the socket takes 0.2 of them before the other end begins to read."""

    async def main() -> None:
        ends = Ends()
        for number in range(60_000):
            ends.near.post(release(number))
            if number % 100 == 99:
                ends.near.send() if number < 20_000 else await asyncio.sleep(0)
        await ends.until(lambda: len(ends.heard) == 60_000)
        assert [one.request_id.sequence for one in ends.heard] == list(range(60_000))
        assert not ends.lost
        ends.close()

    asyncio.run(main())


def test_an_end_that_goes_is_noticed_once_and_no_message_matters_any_more() -> None:
    async def main() -> None:
        ends = Ends()
        ends.far.close()
        await ends.until(lambda: bool(ends.lost))
        ends.near.post(release(1))
        ends.near.send(release(2))
        ends.near.close()
        await asyncio.sleep(0)
        assert ends.lost == [""]
        ends.close()

    asyncio.run(main())
