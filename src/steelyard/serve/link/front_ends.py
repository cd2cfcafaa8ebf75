"""The front-end processes of a server: started, told, replaced when they die, stopped.

The rules of this file:
- Each incarnation has a number of its own, so no request of a dead front end is ever taken for another's.
- A front end that dies is started again at once, so often and no more (`FrontEndLimits`); then its place
  stays empty, and the others serve on. If the machine has no process to give, it is asked again at that rate.
  One that leaves answers unread is killed: it would keep workers' memory.
- What a client is told by one front end holds at all of them: changes of services are sent before the client
  that caused them is answered, and shared memory is known to all of a kind (`regions`).
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from msgspec.structs import replace

from steelyard.backend.base import BackendEvent
from steelyard.backend.launcher import reaped
from steelyard.core.commands import ReleaseOutputs
from steelyard.core.errors import SteelyardError
from steelyard.core.events import BatchCompleted, ReplicaGone, ReplicaReady, ReplicaResized
from steelyard.core.types import Frozen, Request
from steelyard.serve.base import Intake
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.link import messages as m
from steelyard.serve.link.front_end import FrontEnd, Lender
from steelyard.serve.link.holds import Holds
from steelyard.serve.link.link import Link
from steelyard.serve.link.regions import SharedRegions
from steelyard.serve.repository import RepositoryError
from steelyard.serve.statistics import ServiceStatistics
from steelyard.worker.doorbell import pair


class FrontEndLimits(Frozen, frozen=True):
    """Bounds of the front ends.

    Attributes:
        restarts_max: of each place, in `restarts_s`; then it stays empty.
        restarts_s: seconds.
        listen_s_max: from a start until clients can connect.
        stuck_s: seconds that a front end may leave answers unread.
        look_s: how often front ends are looked at.
        exit_s_max: for a front end to end, beyond what its clients are given.
    """

    restarts_max: int = 5
    restarts_s: float = 60.0
    listen_s_max: float = 30.0
    stuck_s: float = 10.0
    look_s: float = 1.0
    exit_s_max: float = 2.0


StartProcess = Callable[[socket.socket], "subprocess.Popen[bytes]"]
OnStatus = Callable[[str, int, int], None]
"""Told service, status in HTTP's terms, and how often."""


class _Place(NamedTuple):
    """What a front end is started as, again and again; `starts_s` are the latest starts."""

    welcome: m.Welcome
    starts_s: list[float]


class FrontEnds:
    """All of one server.

    Args:
        intake: takes the requests of all of them.
        lender: owns the workers' arenas.
        release: gives a batch's outputs back.
        on_status: told of HTTP statuses, in sums.
        log: told when one is lost.
        limits: see there.
        start_process: makes a process of the other end of a link.
    """

    def __init__(
        self,
        intake: Intake,
        lender: Lender,
        release: Callable[[ReleaseOutputs], None],
        *,
        on_status: OnStatus,
        log: EventLog,
        limits: FrontEndLimits | None = None,
        start_process: "StartProcess | None" = None,
    ) -> None:
        self._intake = intake
        self._lender = lender
        self._release = release
        self._holds = Holds(release)
        self._on_status = on_status
        self._log = log
        self._limits = limits or FrontEndLimits()
        self._start_process = start_process or exec_process
        self._loop = asyncio.get_running_loop()
        self._regions = SharedRegions()
        self._front_ends: dict[int, FrontEnd] = {}
        self._places: dict[int, _Place] = {}
        self._numbers = 0
        self._seen: dict[str, m.Seen] = {}
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._reaping: set[asyncio.Task[None]] = set()
        self._looks: asyncio.TimerHandle | None = None
        self._progress: dict[int, tuple[int, float]] = {}

    def status(self) -> list[dict[str, Any]]:
        """Each that lives, its requests that are not released, and the answers it has yet to read."""
        return [
            {
                "id": number,
                "pid": one.process.pid,
                "kind": one.kind,
                "is_listening": one.has_listened,
                "requests": one.requests,
                "unread": self._holds.progress(number)[1],
            }
            for number, one in self._front_ends.items()
        ]

    async def start(self, welcome: m.Welcome, count: int) -> None:
        """Start some of one kind; returns when clients can connect to all of them.

        Args:
            welcome: what they are told; number, services' state and regions are filled in.
            count: how many.

        Raises:
            SteelyardError: one cannot listen, or does not in time.
            ModuleNotFoundError: what it takes to speak so is not installed.
        """
        self.show()
        try:
            started = [self._start(_Place(welcome, [])) for _ in range(count)]
        except OSError as error:
            raise SteelyardError(f"a front end cannot be started: {error.strerror or error}") from None
        waits = asyncio.gather(*(one.listening for one in started))
        try:
            await asyncio.wait_for(waits, self._limits.listen_s_max)
        except TimeoutError:
            text = f"a front end does not listen after {self._limits.listen_s_max:g} s"
            raise SteelyardError(text) from None
        if self._looks is None:
            self._looks = self._loop.call_later(self._limits.look_s, self._look)

    def free(self, request: Request) -> None:
        """Nothing reads a request any more; those of front ends that are gone lie nowhere."""
        front_end = self._front_ends.get(request.id.front_end)
        if front_end is not None:
            front_end.released(request)

    def release(self, command: ReleaseOutputs) -> None:
        """Give a batch's outputs back when all front ends have read their part."""
        if self._numbers:
            self._holds.release(command)
        else:
            self._release(command)

    def before(self, event: BackendEvent) -> None:
        """To be told of the backend's events before the services are."""
        if not self._numbers:
            return
        match event:
            case BatchCompleted():
                self._holds.made(event)
            case ReplicaGone(replica_id=replica_id):
                self._holds.gone(replica_id)
        if isinstance(event, ReplicaReady | ReplicaResized | ReplicaGone):
            self._loop.call_soon(self.show)

    def show(self) -> None:
        """Let all front ends know what has become of the services."""
        seen = self._look_at_services()
        changed = {name: one for name, one in seen.items() if one != self._seen.get(name)}
        if changed:
            self._seen = seen
            for front_end in self._front_ends.values():
                front_end.link.post(m.Changed(changed))

    def stop_accepting(self) -> None:
        """Begin nothing new; what comes in on open connections is answered."""
        self._is_stopping = True
        for front_end in self._front_ends.values():
            front_end.link.send(m.Drain())

    async def stop(self, *, linger_s: float) -> None:
        """End all of them, after idle clients had `linger_s` to come back once; safe to call twice."""
        self._is_stopping = True
        if self._looks is not None:
            self._looks.cancel()
        ending = list(self._front_ends.values())
        for front_end in ending:
            front_end.link.send(m.End(linger_s))
        await asyncio.gather(
            *(reaped(one.process, linger_s + one.grace_s + self._limits.exit_s_max) for one in ending)
        )
        for front_end in ending:
            front_end.link.drain()  # the last statuses
            self._lose(front_end, "")
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._reaping, return_exceptions=True)

    def _start(self, place: _Place) -> FrontEnd:
        place.starts_s.append(time.monotonic())
        self._numbers += 1
        number = self._numbers
        regions = self._regions.of(place.welcome.kind)
        welcome = replace(place.welcome, front_end=number, seen=self._seen, regions=regions)
        ours, its = pair()
        try:
            with its:
                process = self._start_process(its)
        except OSError:
            ours.close()
            raise
        link: Link[Any] = Link(
            ours,
            m.FromFrontEnd,
            lambda message, fds: self._receive(front_end, message, fds),
            lambda reason: self._lose(front_end, reason),
            loop=self._loop,
        )
        front_end = FrontEnd(
            welcome, process, link, intake=self._intake, lender=self._lender, holds=self._holds
        )
        self._front_ends[number] = front_end
        self._places[number] = place
        return front_end

    def _receive(self, front_end: FrontEnd, message: Any, fds: list[int]) -> None:
        match message:
            case m.ArenaMade():
                front_end.arena_made(fds[0])
            case m.Counted(statuses=statuses):
                for service, counts in statuses.items():
                    for status, times in counts.items():
                        self._on_status(service, status, times)
            case m.Asked():
                self._do(self._answer(front_end, message))
            case m.RegionChanged():
                # Those that there are when the region gets known to others that start: one turn later.
                alike = (one for one in self._front_ends.values() if one.kind == front_end.kind)
                self._do(self._regions.spread(message, front_end, alike))
            case m.Told():
                self._regions.taken(front_end, message)
            case _:
                front_end.hear(message)

    async def _answer(self, front_end: FrontEnd, asked: m.Asked) -> None:
        error, found = "", None
        try:
            if asked.what == "statistics":
                given = self._intake.statistics(asked.service)
                found = given if isinstance(given, ServiceStatistics) else await given
            elif asked.what == "load":
                await self._intake.repository.load(asked.service)
            else:
                await self._intake.repository.unload(asked.service)
        except RepositoryError as refused:
            error = str(refused)
        front_end.say(m.Told(asked.call, error, found))

    def _lose(self, front_end: FrontEnd, reason: str) -> None:
        """A front end has ended, or is to; its place is taken by another."""
        if self._front_ends.pop(front_end.number, None) is None:
            return
        place = self._places.pop(front_end.number)
        self._progress.pop(front_end.number, None)
        front_end.lose(reason)
        self._regions.lost(front_end)
        if self._is_stopping:
            return
        front_end.process.kill()
        self._do(reaped(front_end.process, self._limits.exit_s_max), self._reaping)
        if front_end.is_refused and len(place.starts_s) == 1:
            return  # whoever waits for its start is told
        self._log.event("front_end_lost", level="error", front_end=front_end.number, reason=reason)
        recent_s = time.monotonic() - self._limits.restarts_s
        place.starts_s[:] = [start_s for start_s in place.starts_s if start_s > recent_s]
        if front_end.is_refused or len(place.starts_s) > self._limits.restarts_max:
            self._log.event("front_end_given_up", level="error", kind=place.welcome.kind)
            return
        self._start_again(place)

    def _start_again(self, place: _Place) -> None:
        """Fill a place, as soon as there is a process for it."""
        if self._is_stopping:
            return
        try:
            self._start(place)
        except OSError as error:
            reason = error.strerror or str(error)
            self._log.event("front_end_not_started", level="error", kind=place.welcome.kind, reason=reason)
            limits = self._limits
            self._loop.call_later(limits.restarts_s / limits.restarts_max, self._start_again, place)

    def _look(self) -> None:
        """Kill those that read nothing, and tell all what may have changed unseen."""
        self._looks = self._loop.call_later(self._limits.look_s, self._look)
        now_s, limits = self._loop.time(), self._limits
        for number, front_end in list(self._front_ends.items()):
            read, unread = self._holds.progress(number)
            before, since_s = self._progress.get(number, (read, now_s))
            is_waited_for = unread or not front_end.listening.done()
            if not is_waited_for or read != before:
                since_s = now_s
            self._progress[number] = (read, since_s)
            seconds_max = limits.stuck_s if front_end.listening.done() else limits.listen_s_max
            if now_s - since_s > seconds_max:
                self._lose(front_end, f"stuck for {seconds_max:g} s")
        self.show()

    def _look_at_services(self) -> dict[str, m.Seen]:
        repository = self._intake.repository
        return {
            entry.name: m.Seen(self._intake.is_ready(entry.name), repository.is_open(entry.name), entry)
            for entry in repository.index()
        }

    def _do(self, steps: Coroutine[Any, Any, None], among: "set[asyncio.Task[None]] | None" = None) -> None:
        tasks = self._tasks if among is None else among
        task = self._loop.create_task(steps)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def exec_process(its: socket.socket) -> "subprocess.Popen[bytes]":
    """Exec a front end that gets the other end of a link."""
    return subprocess.Popen(
        # -P: the current directory must not shadow a module that we import.
        [
            sys.executable,
            "-P",
            "-m",
            "steelyard.serve.link.process",
            str(its.fileno()),
            str(os.getpid()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,  # its output is the server's log
        pass_fds=(its.fileno(),),
        process_group=0,  # for the same reasons as the zygote's: `backend.launcher`
    )
