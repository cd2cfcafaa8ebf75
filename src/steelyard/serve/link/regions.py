"""Shared memory that clients have registered with one front end and may use at every other of its kind.

A registration is answered when every front end has opened the object, so the client's next request finds it
wherever it arrives; if one cannot, the client is told so. Front ends that start later are given what there
is. The objects themselves are the clients': nothing of them is opened here.
"""

import asyncio
from collections.abc import Iterable
from itertools import count

from steelyard.serve.link import messages as m
from steelyard.serve.link.front_end import FrontEnd

TAKE_S_MAX = 10.0
"""For the others to answer."""


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

    async def spread(self, asked: m.RegionAsked, by: FrontEnd, front_ends: Iterable[FrontEnd]) -> None:
        """Let all others know what a client of `by` has registered or unregistered; then answer it."""
        known, region = self._known[by.kind], asked.region
        if region.place is not None:
            known[region.name] = region
        elif region.name:
            known.pop(region.name, None)
        else:
            known.clear()
        call = next(self._calls)
        answers = []
        for other in front_ends:
            if other is not by:
                future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
                self._waiting[other.number, call] = future
                answers.append(future)
                other.say(m.RegionChanged(call, region))
        try:
            errors = await asyncio.wait_for(asyncio.gather(*answers), TAKE_S_MAX)
        except TimeoutError:
            errors = [f"a front end did not answer within {TAKE_S_MAX:g} s"]
        finally:
            self._waiting = {key: one for key, one in self._waiting.items() if key[1] != call}
        error = next(filter(None, errors), "")
        if error and region.place is not None:
            known.pop(region.name, None)
        by.say(m.Told(asked.call, error))

    def taken(self, front_end: FrontEnd, message: m.RegionTaken) -> None:
        """A front end knows."""
        future = self._waiting.get((front_end.number, message.call))
        if future is not None and not future.done():
            future.set_result(message.error)

    def lost(self, front_end: FrontEnd) -> None:
        """A front end that is gone need not know anything."""
        for (number, _), future in self._waiting.items():
            if number == front_end.number and not future.done():
                future.set_result("")
