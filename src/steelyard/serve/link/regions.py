"""Shared memory that clients have registered with one front end and may use at every other of its kind.

A registration is answered when every front end has opened the object, so the client's next request finds it
wherever it arrives; if one cannot, the client is told so, and the others forget it. Front ends that start
later are given what there is. The objects themselves are the clients': nothing of them is opened here.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import count

from steelyard.serve.edge.shared_memory import REGIONS_MAX
from steelyard.serve.link import messages as m
from steelyard.serve.link.front_end import FrontEnd

TAKE_S_MAX = 10.0
"""For the others to answer."""
LATE = f"a front end did not answer within {TAKE_S_MAX:g} s"


class SharedRegions:
    """The regions of all front ends, by kind."""

    def __init__(self) -> None:
        self._known: dict[m.Kind, dict[str, m.Region]] = {"http": {}, "grpc": {}}
        self._calls = count(1)
        self._waiting: dict[tuple[int, int], asyncio.Future[str]] = {}
        """By (front end, call): its error, empty when it is done."""

    def of(self, kind: m.Kind) -> tuple[m.Region, ...]:
        """Those that a front end that starts now is to know."""
        return tuple(self._known[kind].values())

    async def spread(self, asked: m.RegionChanged, by: FrontEnd, front_ends: Iterable[FrontEnd]) -> None:
        """Let all others know what a client of `by` has registered or unregistered; then answer it."""
        known, region = self._known[by.kind], asked.region
        if region.place is not None:
            known[region.name] = region
            if len(known) > REGIONS_MAX:  # each front end has forgotten one, too
                del known[next(iter(known))]
        elif region.name:
            known.pop(region.name, None)
        else:
            known.clear()
        others = [one for one in front_ends if one is not by]
        errors = await self._ask(others, region)
        error = next(filter(None, errors), "")
        if error and region.place is not None:
            if known.get(region.name) is region:  # not what another client has registered meanwhile
                del known[region.name]
            for other, refused in zip(others, errors, strict=True):
                if refused in ("", LATE):  # a client that tries again must not meet its first try
                    other.say(m.RegionChanged(next(self._calls), m.Region(region.name, None)))
        by.say(m.Told(asked.call, error))

    async def _ask(self, front_ends: Sequence[FrontEnd], region: m.Region) -> list[str]:
        """Let some know a region; what is wrong with it for each of them, empty if nothing is."""
        call = next(self._calls)
        answers: list[asyncio.Future[str]] = []
        for front_end in front_ends:
            answers.append(asyncio.get_running_loop().create_future())
            self._waiting[front_end.number, call] = answers[-1]
            front_end.say(m.RegionChanged(call, region))
        try:
            if answers:
                await asyncio.wait(answers, timeout=TAKE_S_MAX)
            return [answer.result() if answer.done() else LATE for answer in answers]
        finally:
            self._waiting = {key: one for key, one in self._waiting.items() if key[1] != call}

    def taken(self, front_end: FrontEnd, message: m.Told) -> None:
        """A front end knows."""
        future = self._waiting.get((front_end.number, message.call))
        if future is not None and not future.done():
            future.set_result(message.error)

    def lost(self, front_end: FrontEnd) -> None:
        """A front end that is gone need not know anything."""
        for (number, _), future in self._waiting.items():
            if number == front_end.number and not future.done():
                future.set_result("")
