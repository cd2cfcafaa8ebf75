"""The server as a front end's edge sees it: what it says, what it keeps, when it lets go."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from steelyard.core.commands import Complete, Discard, OutputPart, Reject, Release
from steelyard.core.errors import InputError
from steelyard.core.events import RequestArrived, RequestCancelled
from steelyard.core.types import Request, RequestId, Tensor, TensorRef
from steelyard.serve.base import End
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.link import messages as m
from steelyard.serve.link.remote import RemoteIntake
from steelyard.serve.repository import RepositoryEntry, RepositoryError
from steelyard.serve.statistics import ServiceStatistics
from steelyard.testing.intake import served
from steelyard.worker.arena import Arena, StaleRefError

SEEN = m.Seen(is_ready=True, is_open=True, entry=RepositoryEntry("s", "READY"))
WELCOME = m.Welcome(
    3, "http", "127.0.0.1", 1, 1 << 16, 1.0, EdgeSettings(), {"s": served("s", {}, {})}, {"s": SEEN}
)


class Said:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.wakes = 0

    def post(self, message: object) -> None:
        self.messages.append(message)

    def wake(self) -> None:
        self.wakes += 1


class Rig:
    def __init__(self) -> None:
        self.said = Said()
        self.arena = Arena("fe3", 1 << 16)
        self.worker = Arena("replica-1", 1 << 16)
        self.intake = RemoteIntake(WELCOME, self.arena, self.said)
        self.ended: list[End] = []

    def submit(self, on_end: Callable[[End], None] | None = None) -> Request:
        ref = self.arena.alloc(8)
        assert ref is not None
        request_id = self.intake.next_id()
        tensors = (Tensor("x", "FP32", (1, 2), ref),)
        request = Request(request_id, "s", 1, "x", 0.0, 1.0, tensors=tensors)
        self.intake.submit(request, on_end or self.ended.append)
        return request

    def answer(self, request: Request) -> Complete:
        """An answer whose output lies in a worker's arena."""
        ref = self.worker.alloc(4)
        assert ref is not None
        self.worker.view(ref)[:] = b"1234"
        part = OutputPart((Tensor("y", "FP32", (1, 1), ref),), 0, 1)
        return Complete(request.id, "v", 0.0, 0.0, False, {"run": (part,)})

    def close(self) -> None:
        self.intake.close()
        self.worker.close()


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_request_is_kept_until_it_is_released_and_its_answer_read_at_once(rig: Rig) -> None:
    read: list[bytes] = []

    def on_end(end: End) -> None:
        assert isinstance(end, Complete)
        read.append(bytes(rig.intake.read(end.answers["run"][0].outputs[0].ref)))

    request = rig.submit(on_end)
    assert request.id == RequestId(3, 1)
    assert rig.said.messages == [RequestArrived(request)]
    assert rig.intake.taken() is None  # nothing was read
    rig.intake.lend(["replica-1"], [os.dup(rig.worker.fd)])
    rig.intake.end(rig.answer(request))
    assert read == [b"1234"]
    assert rig.said.wakes == 1
    assert rig.intake.taken() == m.Taken(1)
    assert rig.intake.taken() is None  # said already
    assert rig.arena.bytes_used > 0  # a worker may still read it
    rig.intake.release(Release(request.id))
    assert rig.arena.bytes_used == 0
    rig.intake.forget("replica-1")
    with pytest.raises(StaleRefError, match="does not know"):
        rig.intake.read(TensorRef("replica-1", 64, 4, 1))


def test_an_answer_that_cannot_be_written_counts_as_read(rig: Rig) -> None:
    def on_end(_: End) -> None:
        raise ZeroDivisionError

    async def scenario() -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        rig.intake.end(rig.answer(rig.submit(on_end)))
        return said

    (context,) = asyncio.run(scenario())
    assert context["message"] == "request 3-1 could not be told of its end"
    assert isinstance(context["exception"], ZeroDivisionError)
    assert rig.intake.taken() == m.Taken(1)


def test_refusals_are_no_answers_to_read_and_only_open_requests_are_cancelled(rig: Rig) -> None:
    refused, left = rig.submit(), rig.submit()
    rig.intake.end(Reject(refused.id, "deadline", None))
    rig.intake.release(Release(refused.id))
    rig.intake.cancel(refused.id)
    rig.intake.cancel(left.id)
    rig.intake.end(Discard(left.id))
    assert rig.said.messages[2:] == [RequestCancelled(left.id)]
    assert [type(end) for end in rig.ended] == [Reject, Discard]
    assert rig.intake.taken() is None


def test_services_are_what_was_told_last_and_not_ready_when_it_drains(rig: Rig) -> None:
    assert rig.intake.is_ready("s")
    assert rig.intake.repository.is_open("s")
    gone = m.Seen(is_ready=False, is_open=False, entry=RepositoryEntry("s", "UNAVAILABLE", "unloaded"))
    rig.intake.change(m.Changed({"s": gone}))
    assert not rig.intake.is_ready("s")
    assert not rig.intake.repository.is_open("s")
    assert rig.intake.repository.index() == [gone.entry]
    rig.intake.change(m.Changed({"s": SEEN}))
    rig.intake.stopping = True
    assert not rig.intake.is_ready("s")


def asked(rig: Rig, steps: Coroutine[Any, Any, Any], answer: m.Told) -> Any:
    """What a call comes to that is answered so."""

    async def main() -> Any:
        call = asyncio.ensure_future(steps)
        while not rig.said.messages:
            await asyncio.sleep(0)
        assert rig.said.messages[0].call == answer.call
        rig.intake.calls.told(m.Told(99))  # an answer that nobody waits for any more
        rig.intake.calls.told(answer)
        return await call

    return asyncio.run(main())


def test_calls_are_answered_by_their_number(rig: Rig) -> None:
    found = ServiceStatistics(completed=4)
    assert asked(rig, rig.intake.statistics("s"), m.Told(1, statistics=found)) == found
    assert rig.said.messages == [m.Asked(1, "statistics", "s")]


def test_what_is_refused_is_an_error_of_the_right_kind(rig: Rig) -> None:
    with pytest.raises(RepositoryError, match="still loading"):
        asked(rig, rig.intake.repository.load("s"), m.Told(1, "still loading"))
    assert rig.said.messages == [m.Asked(1, "load", "s")]
    rig.said.messages.clear()
    with pytest.raises(InputError, match="taken"):
        asked(rig, rig.intake.calls.spread("mine", ("/key", 0, 8)), m.Told(2, "taken"))
    assert rig.said.messages == [m.RegionChanged(2, m.Region("mine", ("/key", 0, 8)))]
