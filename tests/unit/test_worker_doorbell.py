"""Doorbells: several messages a packet, long lists in pieces, descriptors along, and limits that hold."""

import asyncio
import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from steelyard.worker import messages as m
from steelyard.worker.doorbell import (
    PACKET_BYTES_MAX,
    WAITING_PACKETS_MAX,
    Doorbell,
    LoopDoorbell,
    PeerLostError,
    pair,
)

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Ear:
    """A loop doorbell's owner: what was heard, and whether the other end was lost."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        ours, its = ends
        self.other: Doorbell[Any] = Doorbell(its, m.ToWorker)
        self.heard: list[m.FromWorker] = []
        self.fds: list[int] = []
        self.lost: list[str] = []
        self.happened = asyncio.Event()
        self.bell: LoopDoorbell[m.FromWorker] = LoopDoorbell(
            ours, m.FromWorker, self._hear, self._lose, loop=asyncio.get_running_loop()
        )

    def _hear(self, message: m.FromWorker, fds: list[int]) -> None:
        self.heard.append(message)
        self.fds = fds
        self.happened.set()

    def _lose(self, reason: str) -> None:
        self.lost.append(reason)
        self.happened.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.happened.clear()
                await self.happened.wait()


class ShortOfMemory(socket.socket):
    """A socket whose every other packet finds the kernel short of memory."""

    tries = 0

    def send(self, *arguments: Any) -> int:
        self._try()
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self._try()
        return super().sendmsg(*arguments)

    def _try(self) -> None:
        self.tries += 1
        if self.tries % 2:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def tiny_ends() -> tuple[socket.socket, socket.socket]:
    """Sockets with the least buffer that Linux gives: a packet of `PACKET_BYTES_MAX` would never go."""
    ends = pair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    return ends


def short_ends() -> tuple[socket.socket, socket.socket]:
    ours, its = pair()
    return ShortOfMemory(fileno=ours.detach()), ShortOfMemory(fileno=its.detach())


def play(
    scenario: Callable[[Ear], Coroutine[Any, Any, None]],
    loop_factory: Any,
    ends: Callable[[], tuple[socket.socket, socket.socket]] = pair,
) -> None:
    async def main() -> None:
        ear = Ear(ends())
        try:
            await scenario(ear)
        finally:
            ear.bell.close()
            ear.other.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_several_messages_travel_in_one_packet_and_in_order(loop_factory: Any) -> None:
    async def scenario(ear: Ear) -> None:
        ear.bell.send(m.Free((1, 2)), m.SetCores(2.0))
        assert ear.other.receive() == ([m.Free((1, 2)), m.SetCores(2.0)], [])
        ear.other.send(m.Loaded("a"), m.Unloaded("b", "gone"))
        await ear.until(lambda: len(ear.heard) == 2)
        assert ear.heard == [m.Loaded("a"), m.Unloaded("b", "gone")]

    play(scenario, loop_factory)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_list_longer_than_a_packet_arrives_whole(loop_factory: Any) -> None:
    long = "x" * (3 * PACKET_BYTES_MAX)

    async def scenario(ear: Ear) -> None:
        ear.bell.send(m.Load(long), m.Stop())
        assert ear.other.receive() == ([m.Load(long), m.Stop()], [])
        sender = threading.Thread(target=ear.other.send, args=(m.Loaded(long * 4), m.Loaded("end")))
        sender.start()
        await ear.until(lambda: len(ear.heard) == 2)
        sender.join()
        assert ear.heard == [m.Loaded(long * 4), m.Loaded("end")]

    play(scenario, loop_factory)


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("ends", [tiny_ends, short_ends])
def test_little_room_is_no_loss(
    loop_factory: Any, ends: Callable[[], tuple[socket.socket, socket.socket]]
) -> None:
    async def scenario(ear: Ear) -> None:
        read_end, write_end = os.pipe()
        loop = asyncio.get_running_loop()
        words = [m.Load(f"{index}" * 5000) for index in range(20)]
        for word in words:
            ear.bell.send(word)
        ear.bell.send(m.Stop(), fds=(write_end,))

        def answer_all() -> int:
            for word in words:
                assert ear.other.receive() == ([word], [])
                ear.other.send(m.Loaded(word.variant))
            _, (received,) = ear.other.receive()
            return received

        os.close(await loop.run_in_executor(None, answer_all))
        await ear.until(lambda: len(ear.heard) == len(words))
        assert ear.heard == [m.Loaded(word.variant) for word in words]
        assert not ear.lost
        os.close(read_end)

    play(scenario, loop_factory, ends)


def test_descriptors_arrive_and_the_loop_s_are_closed_once_sent() -> None:
    async def scenario(ear: Ear) -> None:
        read_end, write_end = os.pipe()
        ear.bell.send(m.Stop(), fds=(write_end,))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(write_end)
        _, (received,) = ear.other.receive()
        assert not os.get_inheritable(received)
        os.write(received, b"through")
        assert os.read(read_end, 7) == b"through"
        ear.other.send(m.Ready(), fds=(received,))
        await ear.until(lambda: bool(ear.heard))
        for fd in (read_end, received, *ear.fds):
            os.close(fd)

    play(scenario, None)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_nothing_blocks_when_the_other_end_does_not_read_and_nothing_is_lost(loop_factory: Any) -> None:
    async def scenario(ear: Ear) -> None:
        sent = 0
        while not ear.bell.is_waiting:  # until the socket takes no more
            ear.bell.send(m.Free((sent,)), m.Load("x" * 1000))
            sent += 1
        for _ in range(5):
            ear.bell.send(m.Free((sent,)), m.Load("x" * 1000))
            sent += 1

        def read_all() -> list[int]:
            return [ear.other.receive()[0][0].read[0] for _ in range(sent)]

        heard = await asyncio.get_running_loop().run_in_executor(None, read_all)
        assert heard == list(range(sent))
        assert not ear.bell.is_waiting

    play(scenario, loop_factory)


def test_a_peer_that_never_reads_is_lost_at_the_limit() -> None:
    async def scenario(ear: Ear) -> None:
        read_end, write_end = os.pipe()
        for index in range(3 * WAITING_PACKETS_MAX):
            fds = (os.dup(write_end),) if index % 100 == 0 else ()
            ear.bell.send(m.Load("x" * 1000), fds=fds)
        await ear.until(lambda: bool(ear.lost))
        assert ear.lost == [f"{WAITING_PACKETS_MAX + 1} packets wait: the other end does not read"]
        ear.other.close()
        os.close(write_end)
        assert os.read(read_end, 1) == b""  # every copy of the descriptor is closed, sent or not
        os.close(read_end)

    play(scenario, None)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_the_end_of_the_other_side_is_noticed_once_after_its_last_words(loop_factory: Any) -> None:
    async def scenario(ear: Ear) -> None:
        ear.other.send(m.Loaded("last"))
        ear.other.close()
        await ear.until(lambda: bool(ear.lost))
        assert ear.heard == [m.Loaded("last")]
        ear.bell.send(m.Stop())  # to nobody: neither an error nor a second loss
        await asyncio.sleep(0)
        assert ear.lost == [""]

    play(scenario, loop_factory)


def test_writing_to_a_peer_that_has_gone_is_a_loss() -> None:
    async def scenario(ear: Ear) -> None:
        ear.other.close()
        ear.bell.send(m.Stop())
        await ear.until(lambda: bool(ear.lost))
        assert ear.lost == [""]

    play(scenario, None)


def test_drain_delivers_all_that_has_arrived() -> None:
    async def scenario(ear: Ear) -> None:
        for index in range(100):  # more than one turn of the loop takes
            ear.other.send(m.Loaded(str(index)))
        ear.bell.drain()
        assert len(ear.heard) == 100

    play(scenario, None)


def test_garbage_is_a_loss_and_not_an_exception_in_the_loop() -> None:
    async def scenario(ear: Ear) -> None:
        ear.other._socket.send(b"\0\xff garbage")
        await ear.until(lambda: bool(ear.lost))
        assert ear.lost != [""]

    play(scenario, None)


def test_the_blocking_end_says_when_its_peer_has_gone() -> None:
    ours, its = pair()
    bell: Doorbell[m.ToWorker] = Doorbell(ours, m.ToWorker)
    its.close()
    with pytest.raises(PeerLostError):
        bell.receive()
    with pytest.raises(PeerLostError):
        bell.send(m.Ready())
    bell.close()


def test_descriptors_for_which_there_is_no_room_are_a_lost_peer() -> None:
    """The kernel drops what a process may not have, and says so in a flag."""
    ours, its = pair()
    sender: Doorbell[m.FromWorker] = Doorbell(its, m.FromWorker)
    receiver: Doorbell[m.ToWorker] = Doorbell(ours, m.ToWorker)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    sender.send(m.Stop(), fds=[0, 1])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, most[1]))
        with pytest.raises(PeerLostError, match="no room for further file descriptors"):
            receiver.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
        sender.close()
        receiver.close()
