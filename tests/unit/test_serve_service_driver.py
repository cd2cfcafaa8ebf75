"""The service driver: what goes wrong in one request's answer reaches no other's."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import Command, Reject, Release, WakeAt
from steelyard.core.events import Event, RequestArrived, ServiceDraining, ServiceResumed, Woken
from steelyard.core.types import Request, RequestId
from steelyard.serve.base import End
from steelyard.serve.service_driver import MachinePump, ServiceDriver, Timer

REQUESTS = [Request(RequestId(0, number), "s", 1, "", 0.0, 1.0) for number in (1, 2, 3)]


class AllAtOnce:
    """A machine that ends all requests when the last has arrived."""

    def handle(self, event: Event, *, now_s: float) -> list[Command]:
        if not (isinstance(event, RequestArrived) and event.request == REQUESTS[-1]):
            return []
        return [
            command
            for request in REQUESTS
            for command in (Reject(request.id, "deadline", None), Release(request.id))
        ]


def test_every_request_ends_though_one_cannot_be_told() -> None:
    ended: list[RequestId] = []
    counted: list[RequestId] = []
    freed: list[RequestId] = []
    said: list[dict[str, Any]] = []
    steps: list[str] = []

    def on_end(end: End) -> None:
        if end.request_id.sequence == 1:
            raise ZeroDivisionError
        ended.append(end.request_id)
        steps.append("told")

    def count(request: Request, _: End) -> None:
        counted.append(request.id)
        steps.append("counted")
        if request.id.sequence == 2:
            raise KeyError("metric")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        backend = MemoryBackend(
            range(1), lambda _: None, loop=loop, service_time_s=lambda *_: 0.0, cold_start_s=0.0
        )
        pump = MachinePump(
            "service/s", AllAtOnce(), clock=loop.time, call_at=loop.call_at, record=lambda *_: None
        )
        driver = ServiceDriver(
            pump,
            backend,
            free=lambda request: freed.append(request.id),
            report=lambda _: None,
            on_end=count,
            on_drained=lambda: None,
        )
        for request in REQUESTS:
            driver.submit(request, on_end)
        await backend.close()

    asyncio.run(main())
    first, second, third = (request.id for request in REQUESTS)
    assert ended == [second, third]  # the second's answer does not depend on whether it is counted
    assert steps == ["counted", "told", "counted", "told", "counted"]  # who waits is told first
    assert counted == freed == [first, second, third]
    assert [context["message"] for context in said] == [
        "request 0-1 could not be told of its end",
        "request 0-2 could not be told of its end",
    ]
    assert [type(context["exception"]) for context in said] == [ZeroDivisionError, KeyError]


def test_events_are_handled_in_order_also_after_an_exception() -> None:
    """What arose while the first was carried out waits until the next comes, and goes before it."""
    handled: list[object] = []

    class Taking:
        def handle(self, event: object, *, now_s: float) -> list[Any]:
            del now_s
            handled.append(event)
            return [WakeAt(1.0)] if len(handled) == 1 else []

    first, second, third = ServiceDraining(), ServiceResumed(), Woken()

    def fail(_: WakeAt) -> None:
        pump.handle(second)
        raise ZeroDivisionError

    pump = MachinePump("service/s", Taking(), clock=lambda: 0.0, call_at=_never, record=None)
    pump.actions[WakeAt] = fail
    with pytest.raises(ZeroDivisionError):
        pump.handle(first)
    pump.handle(third)
    assert handled == [first, second, third]


def _never(at_s: float, function: Callable[[], None]) -> Timer:
    raise AssertionError(f"a timer at {at_s} for {function}")
