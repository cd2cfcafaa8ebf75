"""Front ends as the decision maker keeps them, over real sockets; the test says what a front end would."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from steelyard.core.commands import Complete, Discard, OutputPart, Release, ReleaseOutputs
from steelyard.core.errors import SteelyardError
from steelyard.core.events import BatchCompleted, ReplicaGone, RequestArrived, RequestCancelled
from steelyard.core.types import Request, RequestId, Tensor, TensorRef
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.link import messages as m
from steelyard.serve.link.front_ends import FrontEndLimits, FrontEnds
from steelyard.serve.link.link import Link
from steelyard.testing.intake import ComputingIntake, served

SERVICES = {"s": served("s", {"x": ("FP32", (-1, 1))}, {"y": ("FP32", (-1, 1))})}
WELCOME = m.Welcome(0, "http", "127.0.0.1", 1, 1 << 16, 1.0, EdgeSettings(), SERVICES, {})


class Puppet:
    """A front end's end of a link: what it was told, and a mouth."""

    def __init__(self, sock: socket.socket, greets: bool) -> None:
        self.told: list[Any] = []
        self.fds: list[int] = []
        self.link: Link[Any] = Link(
            sock, m.ToFrontEnd, self._hear, lambda _: None, loop=asyncio.get_running_loop()
        )
        self.process = subprocess.Popen(["sleep", "60"])
        if greets:
            self.say(m.ArenaMade(), fds=(os.open(os.devnull, os.O_RDONLY),))
            self.say(m.Listening())

    def say(self, *messages: Any, fds: Iterable[int] = ()) -> None:
        self.link.send(*messages, fds=tuple(fds))

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]

    def _hear(self, message: Any, fds: list[int]) -> None:
        self.told.append(message)
        self.fds += fds


class Lender:
    """Takes down who has which arena, and lends `/dev/null`."""

    def __init__(self) -> None:
        self.arenas: dict[str, int] = {}

    def lend(self, borrower: Any, arenas: set[str]) -> None:
        with Path(os.devnull).open() as nothing:
            borrower.lend(dict.fromkeys(sorted(arenas - borrower.borrowed), nothing.fileno()))

    def add_front_end(self, borrower: Any, arena: str, fd: int) -> None:
        self.arenas[arena] = fd

    def remove_front_end(self, borrower: Any, arena: str) -> None:
        os.close(self.arenas.pop(arena))


class Rig:
    """Front ends of an intake that keeps requests until they are finished by hand."""

    def __init__(self, *, greets: bool = True, **limits: Any) -> None:
        self.intake = ComputingIntake(SERVICES, dict, arena_bytes=1 << 16, held=True)
        self.lender = Lender()
        self.released: list[ReleaseOutputs] = []
        self.statuses: list[tuple[str, int, int]] = []
        self.puppets: list[Puppet] = []
        self.log = EventLog()
        self.front_ends = FrontEnds(
            self.intake,
            self.lender,
            self.released.append,
            on_status=lambda *told: self.statuses.append(told),
            log=self.log,
            limits=FrontEndLimits(**limits),
            start_process=self._start,
        )
        self._greets = greets
        self.fails = 0
        """How many starts from now on find no process."""

    def _start(self, its: socket.socket) -> "subprocess.Popen[bytes]":
        if self.fails:
            self.fails -= 1
            raise BlockingIOError("no process can be made now")
        self.puppets.append(Puppet(socket.socket(fileno=os.dup(its.fileno())), self._greets))
        return self.puppets[-1].process

    async def arrive(self, puppet: Puppet, sequence: int = 1) -> Request:
        """A request comes in through this front end."""
        number = puppet.of(m.Welcome)[0].front_end
        request = Request(RequestId(number, sequence), "s", 1, "x", 0.0, 1.0)
        puppet.say(RequestArrived(request))
        await until(lambda: request.id in self.intake.open)
        return request

    def complete(self, request: Request, batch: BatchCompleted) -> Complete:
        """Answer it with rows of a batch, as its service would."""
        part = OutputPart(batch.outputs, 0, 1)
        end = Complete(request.id, "v", 0.0, 0.0, False, {"run": (part,)})
        self.intake.finish(request.id, end)
        self.front_ends.free(request)
        return end

    async def close(self) -> None:
        for puppet in self.puppets:
            puppet.process.kill()
        await self.front_ends.stop(linger_s=0.0)
        for puppet in self.puppets:
            puppet.link.close()
            puppet.process.wait()
            for fd in puppet.fds:
                os.close(fd)
        self.intake.close()
        self.log.close()
        assert not self.lender.arenas


def batch_of(replica_id: int, batch_id: int) -> BatchCompleted:
    ref = TensorRef(f"replica-{replica_id}", 64, 4, batch_id)
    return BatchCompleted(batch_id, replica_id, 0.0, 1.0, (Tensor("y", "FP32", (1, 1), ref),))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def run(main: Callable[[Rig], Any], **options: Any) -> None:
    async def with_rig() -> None:
        rig = Rig(**options)
        try:
            await main(rig)
        finally:
            await rig.close()

    asyncio.run(with_rig())


def test_a_request_comes_in_its_answer_goes_out_and_its_outputs_are_kept_until_read() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        first, second = rig.puppets
        assert [puppet.of(m.Welcome)[0].front_end for puppet in rig.puppets] == [1, 2]
        assert rig.lender.arenas.keys() == {"fe1", "fe2"}
        one, two = await rig.arrive(first), await rig.arrive(second)
        batch = batch_of(7, 1)
        rig.front_ends.before(batch)
        ends = [rig.complete(one, batch), rig.complete(two, batch)]
        rig.front_ends.release(ReleaseOutputs(7, 1))
        await until(lambda: first.of(Release) and second.of(Release))
        for puppet, end in zip(rig.puppets, ends, strict=True):
            # The arena first, then what lies in it, then leave to free the request.
            assert puppet.told[-3:] == [m.Lend(("replica-7",)), end, Release(end.request_id)]
        assert [row["unread"] for row in rig.front_ends.status()] == [1, 1]
        first.say(m.Taken(1))
        await until(lambda: rig.front_ends.status()[0]["unread"] == 0)
        assert not rig.released
        second.say(m.Taken(1))
        await until(lambda: rig.released)
        assert rig.released == [ReleaseOutputs(7, 1)]
        rig.front_ends.before(ReplicaGone(7, expected=True))
        assert [row["requests"] for row in rig.front_ends.status()] == [0, 0]

    run(main)


def test_one_that_dies_leaves_nothing_open_and_another_takes_its_place() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        first, second = rig.puppets
        kept, answered = await rig.arrive(first, 1), await rig.arrive(first, 2)
        others = await rig.arrive(second)
        batch = batch_of(7, 1)
        rig.front_ends.before(batch)
        rig.complete(answered, batch)
        rig.front_ends.release(ReleaseOutputs(7, 1))
        assert not rig.released
        first.link.close()
        await until(lambda: len(rig.puppets) == 3)
        assert rig.intake.cancelled == [kept.id]
        assert rig.released == [ReleaseOutputs(7, 1)]
        assert others.id in rig.intake.open
        rig.front_ends.free(kept)  # its inputs went with it
        await until(lambda: rig.lender.arenas.keys() == {"fe2", "fe3"})
        await rig.arrive(rig.puppets[2])
        assert first.process.poll() is not None or first.process.wait(10) is not None

    run(main)


def test_a_client_that_leaves_is_told_of_by_its_front_end() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 1)
        (puppet,) = rig.puppets
        request = await rig.arrive(puppet)
        puppet.say(RequestCancelled(request.id), RequestCancelled(RequestId(1, 99)))
        await until(lambda: puppet.of(Discard))
        assert rig.intake.cancelled == [request.id]

    run(main)


def test_a_place_that_dies_again_and_again_stays_empty() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 1)
        while rig.front_ends.status():
            last = rig.front_ends.status()[0]["id"]
            rig.puppets[-1].link.close()
            await until(lambda known=last: all(one["id"] != known for one in rig.front_ends.status()))  # type: ignore[misc]
        assert len(rig.puppets) == 3  # the first, and two in its place

    run(main, restarts_max=2)


@pytest.mark.parametrize(
    ("said", "error"),
    [(m.CannotListen("no port"), SteelyardError), (m.CannotListen("no", "grpc"), ModuleNotFoundError)],
)
def test_one_that_cannot_listen_says_why_and_is_not_started_again(
    said: m.CannotListen, error: type[Exception]
) -> None:
    async def main(rig: Rig) -> None:
        starting = asyncio.create_task(rig.front_ends.start(WELCOME, 1))
        await until(lambda: rig.puppets)
        rig.puppets[0].say(said)
        rig.puppets[0].link.close()
        with pytest.raises(error, match=said.reason):
            await starting
        await until(lambda: not rig.front_ends.status())
        assert len(rig.puppets) == 1

    run(main, greets=False)


def test_one_that_never_listens_is_an_error() -> None:
    async def main(rig: Rig) -> None:
        with pytest.raises(SteelyardError, match=r"does not listen after 0\.01 s"):
            await rig.front_ends.start(WELCOME, 1)

    run(main, greets=False, listen_s_max=0.01)


def test_one_that_leaves_answers_unread_is_given_up() -> None:
    """Answers that are read late but read are no reason: only the second front end stands still."""

    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        first, second = rig.puppets
        batch = batch_of(7, 1)
        rig.front_ends.before(batch)
        for puppet in (first, second):
            rig.complete(await rig.arrive(puppet), batch)
        first.say(m.Taken(1))
        rig.front_ends.release(ReleaseOutputs(7, 1))
        await until(lambda: rig.released)
        assert {row["id"] for row in rig.front_ends.status()} == {1, 3}

    run(main, stuck_s=0.05, look_s=0.01)


def test_what_becomes_of_services_is_told_to_all_before_whoever_asked() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        first, second = rig.puppets
        assert first.of(m.Welcome)[0].seen["s"].is_open
        first.say(m.Asked(4, "unload", "s"), m.Asked(5, "statistics", "s"), m.Counted({"s": {200: 3}}))
        await until(lambda: len(first.of(m.Told)) == 2)
        rig.front_ends.show()  # as the server's repository asks for
        await until(lambda: second.of(m.Changed))
        assert not second.of(m.Changed)[0].seen["s"].is_open
        assert {told.call for told in first.of(m.Told)} == {4, 5}
        assert not any(told.error for told in first.of(m.Told))
        assert rig.statuses == [("s", 200, 3)]
        rig.intake.ready = False
        rig.front_ends.before(ReplicaGone(1, expected=False))
        await until(lambda: len(second.of(m.Changed)) == 2)
        assert not second.of(m.Changed)[1].seen["s"].is_ready

    run(main)


def test_a_region_is_known_everywhere_before_its_client_is_told() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        first, second = rig.puppets
        region = m.Region("mine", ("/key", 0, 8))
        first.say(m.RegionChanged(1, region))
        await until(lambda: second.of(m.RegionChanged))
        assert not first.of(m.Told)
        second.say(m.Told(second.of(m.RegionChanged)[0].call))
        await until(lambda: first.of(m.Told))
        assert first.of(m.Told) == [m.Told(1)]
        # One that cannot use it: the client is told so. One that is gone: nobody waits for it.
        first.say(m.RegionChanged(2, m.Region("other", ("/key", 8, 8))))
        await until(lambda: len(second.of(m.RegionChanged)) == 2)
        second.say(m.Told(second.of(m.RegionChanged)[1].call, "taken already"))
        await until(lambda: len(first.of(m.Told)) == 2)
        assert first.of(m.Told)[1] == m.Told(2, "taken already")
        first.say(m.RegionChanged(3, m.Region("third", ("/key", 8, 8))))
        await until(lambda: len(second.of(m.RegionChanged)) == 3)
        second.link.close()
        await until(lambda: len(first.of(m.Told)) == 3)
        await until(lambda: rig.puppets[2].of(m.Welcome))
        assert {one.name for one in rig.puppets[2].of(m.Welcome)[0].regions} == {"mine", "third"}

    run(main)


def test_a_region_that_one_cannot_use_is_known_nowhere() -> None:
    """Else the client's next try would meet its own first one."""

    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 3)
        first, second, third = rig.puppets
        first.say(m.RegionChanged(1, m.Region("mine", ("/key", 0, 8))))
        await until(lambda: second.of(m.RegionChanged) and third.of(m.RegionChanged))
        call = third.of(m.RegionChanged)[0].call
        third.say(m.Told(call, "no such object"))
        second.say(m.Told(call))
        await until(lambda: first.of(m.Told))
        assert first.of(m.Told) == [m.Told(1, "no such object")]
        await until(lambda: len(second.of(m.RegionChanged)) == 2)
        assert second.of(m.RegionChanged)[1].region == m.Region("mine", None)
        assert len(third.of(m.RegionChanged)) == 1  # it has nothing to forget

    run(main)


def test_a_front_end_for_which_there_is_no_process_is_an_error_at_first_and_tried_again_later() -> None:
    async def main(rig: Rig) -> None:
        rig.fails = 1
        with pytest.raises(SteelyardError, match="no process can be made now"):
            await rig.front_ends.start(WELCOME, 1)
        await rig.front_ends.start(WELCOME, 1)
        rig.fails = 2
        rig.puppets[0].link.close()
        await until(lambda: len(rig.puppets) == 2 and rig.puppets[1].of(m.Welcome))
        await rig.arrive(rig.puppets[1])

    run(main, restarts_s=0.05)


def test_a_region_is_known_to_a_front_end_that_starts_while_it_is_asked_for() -> None:
    async def main(rig: Rig) -> None:
        await rig.front_ends.start(WELCOME, 2)
        known = rig.front_ends._front_ends
        region = m.Region("mine", ("/key", 0, 8))
        rig.front_ends._receive(known[1], m.RegionChanged(1, region), [])
        rig.front_ends._lose(known[2], "in the same turn of the loop")
        first, _, third = rig.puppets
        await until(lambda: third.of(m.RegionChanged))
        assert third.of(m.RegionChanged)[0].region == region
        third.say(m.Told(third.of(m.RegionChanged)[0].call))
        await until(lambda: first.of(m.Told))
        assert first.of(m.Told) == [m.Told(1)]

    run(main)
