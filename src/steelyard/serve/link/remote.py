"""The server as the edge of a front end in its own process sees it: `serve.base.Intake` over a link.

The rules of this file:
- A request's tensors lie in this process's arena until the decision maker says `Release`, which may come
  after its end. Answers are read out of workers' arenas at once, when their command comes; how many have been
  read goes back with the next packet, and only then may workers use the place again.
- What a service is now (`Seen`) is told, not asked for, so that whoever asks is answered at once.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol

from steelyard.core.commands import Complete, Release
from steelyard.core.errors import InputError
from steelyard.core.events import RequestArrived, RequestCancelled
from steelyard.core.types import Request, RequestId, TensorRef
from steelyard.serve.base import End, OnEnd, ServedService
from steelyard.serve.link import messages as m
from steelyard.serve.repository import Repository, RepositoryEntry, RepositoryError
from steelyard.serve.statistics import ServiceStatistics
from steelyard.serve.untold import untold
from steelyard.worker.arena import Arena, ArenaReader, StaleRefError


class Post(Protocol):
    """Where messages for the decision maker go; `link.Link` is one."""

    def post(self, message: object) -> None:
        """Say it soon."""
        ...

    def wake(self) -> None:
        """Let `Taken` go soon."""
        ...


class RemoteIntake:
    """See `serve.base.Intake`.

    Args:
        welcome: what the decision maker said first.
        arena: this process's own.
        link: to the decision maker.
    """

    def __init__(self, welcome: m.Welcome, arena: Arena, link: Post) -> None:
        self.front_end = welcome.front_end
        self.arena = arena
        self.services: Mapping[str, ServedService] = welcome.services
        self.stopping = False
        self.calls = Calls(link)
        self._seen = dict(welcome.seen)
        self.repository: Repository = RemoteRepository(self._seen, self.calls)
        self._link = link
        self._sequence = itertools.count(1)
        self._open: dict[RequestId, tuple[Request, OnEnd]] = {}
        self._readers: dict[str, ArenaReader] = {}
        self._read = self._said = 0

    def now_s(self) -> float:
        """The monotonic clock, which all processes of a machine share."""
        return time.monotonic()

    def next_id(self) -> RequestId:
        """The next of this front end."""
        return RequestId(self.front_end, next(self._sequence))

    def is_ready(self, service: str) -> bool:
        """Whether each stage has a ready replica, and the server is not stopping."""
        return not self.stopping and self._seen[service].is_ready

    async def statistics(self, service: str) -> ServiceStatistics:
        """What became of the service's requests so far, of all front ends."""
        told = await self.calls.ask(lambda call: m.Asked(call, "statistics", service))
        assert told.statistics is not None
        return told.statistics

    def submit(self, request: Request, on_end: OnEnd) -> None:
        """Hand a request over; `on_end` is called later."""
        self._open[request.id] = (request, on_end)
        self._link.post(RequestArrived(request))

    def cancel(self, request_id: RequestId) -> None:
        """The client has gone."""
        if request_id in self._open:
            self._link.post(RequestCancelled(request_id))

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output.

        Raises:
            StaleRefError: they were released, or lie in an arena that was never lent.
        """
        reader = self._readers.get(ref.arena)
        if reader is None:
            raise StaleRefError(f"{ref} lies in an arena this front end does not know")
        return reader.view(ref)

    def end(self, end: End) -> None:
        """A request has ended."""
        try:
            self._open[end.request_id][1](end)
        except Exception as error:  # a bug in one request's answer; others' are in the same packet
            untold(end.request_id, error)
        if isinstance(end, Complete):
            self._read += 1
            self._link.wake()

    def release(self, command: Release) -> None:
        """Nothing reads a request's tensors any more."""
        request, _ = self._open.pop(command.request_id)
        for tensor in request.tensors:
            self.arena.free(tensor.ref)

    def taken(self) -> m.Taken | None:
        """How many answers have been read, if that was not said yet."""
        if self._said == self._read:
            return None
        self._said = self._read
        return m.Taken(self._read)

    def change(self, changed: m.Changed) -> None:
        """Services are not what they were."""
        self._seen |= changed.seen

    def lend(self, names: Iterable[str], fds: Iterable[int]) -> None:
        """Workers' arenas, to read answers."""
        self._readers |= {name: ArenaReader(name, fd) for name, fd in zip(names, fds, strict=True)}

    def forget(self, arena: str) -> None:
        """No further answer lies there."""
        self._readers.pop(arena).close()

    def close(self) -> None:
        """Let every arena go."""
        for reader in self._readers.values():
            reader.close()
        self.arena.close()


class RemoteRepository:
    """The services of the spec file; see `serve.repository.Repository`."""

    def __init__(self, seen: Mapping[str, m.Seen], calls: "Calls") -> None:
        self._seen = seen
        self._calls = calls

    def index(self) -> list[RepositoryEntry]:
        """Every service."""
        return [seen.entry for seen in self._seen.values()]

    def is_open(self, service: str) -> bool:
        """Whether the service takes requests."""
        return self._seen[service].is_open

    async def load(self, service: str) -> None:
        """Serve it again; see `Repository.load`."""
        await self._ask("load", service)

    async def unload(self, service: str) -> None:
        """Answer what was admitted and end its replicas; see `Repository.unload`."""
        await self._ask("unload", service)

    async def _ask(self, what: Literal["load", "unload"], service: str) -> None:
        told = await self._calls.ask(lambda call: m.Asked(call, what, service))
        if told.error:
            raise RepositoryError(told.error)


class Calls:
    """What has been asked of the decision maker and is not answered yet."""

    def __init__(self, link: Post) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[m.Told]] = {}

    async def ask(self, make: Callable[[int], object]) -> m.Told:
        """Send what `make` makes of the call's number, and wait for its answer; whoever asks may give up."""
        call = next(self._numbers)
        answer: asyncio.Future[m.Told] = asyncio.get_running_loop().create_future()
        self._open[call] = answer
        self._link.post(make(call))
        try:
            return await answer
        finally:
            del self._open[call]

    async def spread(self, name: str, place: tuple[str, int, int] | None) -> None:
        """Let all front ends of this kind know a region of shared memory; see `messages.Region`.

        Raises:
            InputError: one of them cannot use it.
        """
        told = await self.ask(lambda call: m.RegionChanged(call, m.Region(name, place)))
        if told.error:
            raise InputError(told.error)

    def told(self, told: m.Told) -> None:
        """An answer has come; nobody may wait for it any more."""
        answer = self._open.get(told.call)
        if answer is not None and not answer.done():
            answer.set_result(told)
