"""One front-end process as the decision maker sees it: what it has open, what it borrows, how it ends."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from steelyard.backend.base import Borrower
from steelyard.core.commands import Complete, Release
from steelyard.core.errors import SteelyardError
from steelyard.core.events import RequestArrived, RequestCancelled
from steelyard.core.types import Request, RequestId
from steelyard.serve.base import End, Intake
from steelyard.serve.link import messages as m
from steelyard.serve.link.holds import Holds
from steelyard.serve.link.link import Link
from steelyard.worker.doorbell import FDS_MAX


class Lender(Protocol):
    """What a front end needs of a backend: its answers lie in workers' arenas, its requests in its own."""

    def lend(self, borrower: Borrower, arenas: set[str]) -> None:
        """Give it the descriptors of those of these arenas that it has not got yet."""
        ...

    def add_front_end(self, borrower: Borrower, arena: str, fd: int) -> None:
        """Workers may be given requests in this arena; `fd` is taken over."""
        ...

    def remove_front_end(self, borrower: Borrower, arena: str) -> None:
        """No further request lies there."""
        ...


class FrontEnd:
    """A front end that lives, or lived.

    Args:
        welcome: as it is told.
        process: its own.
        link: to it.
        intake: takes its requests.
        lender: owns the workers' arenas.
        holds: keeps outputs until it has read them.

    Attributes:
        listening: done when clients can connect; its exception says why they never will.
        borrowed: names of the workers' arenas that it may read.
        is_lost: it has ended, or is given up.
        is_refused: it cannot listen, and another in its place could not either.
    """

    def __init__(
        self,
        welcome: m.Welcome,
        process: "subprocess.Popen[bytes]",
        link: Link[Any],
        *,
        intake: Intake,
        lender: Lender,
        holds: Holds,
    ) -> None:
        self.number = welcome.front_end
        self.kind = welcome.kind
        self.grace_s = welcome.grace_s
        self.process = process
        self.link = link
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.borrowed: set[str] = set()
        self.is_lost = self.is_refused = False
        self._arena = m.arena_name(welcome.front_end)
        self._has_arena = False
        self._open: dict[RequestId, bool] = {}
        """Requests whose tensors lie in its arena, and whether each has ended."""
        self._actions: dict[type[Any], Callable[[Any], None]] = {
            RequestArrived: self._arrived,
            RequestCancelled: self._cancelled,
            m.Taken: self._taken,
            m.Listening: self._listens,
            m.CannotListen: self._cannot_listen,
        }
        self._intake = intake
        self._lender = lender
        self._holds = holds
        holds.add(self.number)
        link.send(welcome)

    @property
    def requests(self) -> int:
        """How many requests of it are not released yet."""
        return len(self._open)

    @property
    def has_listened(self) -> bool:
        """Whether clients could ever connect."""
        return self.listening.done() and self.listening.exception() is None

    def arena_made(self, fd: int) -> None:
        """Its arena exists; `fd` is taken over."""
        self._has_arena = True
        self._lender.add_front_end(self, self._arena, fd)

    def hear(self, message: Any) -> None:
        """Take what it says of itself and of its clients' requests."""
        self._actions[type(message)](message)

    def say(self, message: Any) -> None:
        """Tell it something soon; nothing if it has gone."""
        if not self.is_lost:
            self.link.post(message)

    def _listens(self, _: m.Listening) -> None:
        """Clients can connect."""
        if not self.listening.done():
            self.listening.set_result(None)

    def _cannot_listen(self, message: m.CannotListen) -> None:
        """It ends, because of something that will not change by itself."""
        self.is_refused = True
        error: Exception = SteelyardError(message.reason)
        if message.missing:
            error = ModuleNotFoundError(message.reason, name=message.missing)
        if not self.listening.done():
            self.listening.set_exception(error)

    def _arrived(self, event: RequestArrived) -> None:
        """A client asks for something."""
        self._open[event.request.id] = False
        self._intake.submit(event.request, self._on_end)

    def _cancelled(self, event: RequestCancelled) -> None:
        """A client has gone."""
        if event.request_id in self._open:
            self._intake.cancel(event.request_id)

    def _taken(self, message: m.Taken) -> None:
        """It has read answers."""
        self._holds.read(self.number, message.completes)

    def released(self, request: Request) -> None:
        """Nothing reads a request of it any more."""
        self._open.pop(request.id, None)
        self.say(Release(request.id))

    def lend(self, arenas: Mapping[str, int]) -> None:
        """Let it read workers' arenas from now on; the descriptors stay the caller's."""
        names = tuple(arenas)
        for start in range(0, len(names), FDS_MAX):
            some = names[start : start + FDS_MAX]
            self.link.send(m.Lend(some), fds=[os.dup(arenas[name]) for name in some])
        self.borrowed.update(names)

    def forget(self, arena: str) -> None:
        """The owner of an arena has ended."""
        if arena in self.borrowed:
            self.borrowed.remove(arena)
            self.link.post(m.Forget(arena))

    def lose(self, reason: str) -> None:
        """It has ended: its clients are gone, and nobody reads their answers. Safe to call twice."""
        if self.is_lost:
            return
        self.is_lost = True
        self.link.close()
        if not self.listening.done():
            text = f"a front end ended before it listened{reason and f': {reason}'}"
            self.listening.set_exception(SteelyardError(text))
            self.listening.exception()  # of one that was started again nobody asks
        for request_id in [known for known, has_ended in self._open.items() if not has_ended]:
            self._intake.cancel(request_id)
        self._holds.lost(self.number)
        if self._has_arena:
            self._lender.remove_front_end(self, self._arena)

    def _on_end(self, end: End) -> None:
        self._open[end.request_id] = True
        if self.is_lost:
            return
        if isinstance(end, Complete):
            needed = {
                tensor.ref.arena
                for parts in end.answers.values()
                for part in parts
                for tensor in part.outputs[:1]
            }
            if not needed <= self.borrowed:
                self._lender.lend(self, needed)
            self._holds.sent(self.number, end)
        self.link.post(end)
