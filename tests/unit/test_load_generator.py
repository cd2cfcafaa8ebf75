"""The generator against a real server on a real socket: open loop, intended arrivals, nothing skipped."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp import web

from steelyard.client.wire import infer_body
from steelyard.core.errors import InputError
from steelyard.load.generator import Answer, LoadSettings, fetch_input_names, run, run_load
from steelyard.load.result import LoadResult

BODIES = [infer_body({"x": np.full((1, 4), index, dtype=np.float32)}) for index in range(3)]

Answering = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(answering: Answering) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/v2/models/m/infer", answering)
    application.router.add_get("/v2/models/m", describe)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def describe(_: web.Request) -> web.Response:
    return web.json_response({"name": "m", "inputs": [{"name": "x"}], "outputs": []})


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), headers={"Inference-Header-Content-Length": "2"})


def fire(
    answering: Answering, at_s: list[float], settings: LoadSettings, answers: list[Answer]
) -> LoadResult:
    async def main() -> LoadResult:
        async with serving(answering) as url:
            return await run_load(
                url, "m", np.array(at_s), BODIES, seconds=1.0, settings=settings, on_answer=answers.append
            )

    return run(main())


def test_every_request_is_answered_and_its_payload_known() -> None:
    answers: list[Answer] = []
    result = fire(echo, [index / 100 for index in range(30)], LoadSettings(seed=5), answers)
    assert (result.offered, result.completed, result.violations) == (30, 30, 0)
    assert all(answer.content == BODIES[answer.payload].content for answer in answers)
    assert {answer.payload for answer in answers} == {0, 1, 2}
    assert {answer.json_length for answer in answers} == {2}


def test_a_stall_shows_in_every_request_that_was_due_during_it() -> None:
    """A closed loop would see one slow answer; an open one sees all that were due meanwhile."""
    stall_s, gap_s = 0.3, 0.02
    first = asyncio.Lock()
    count = 0

    async def one_at_a_time(request: web.Request) -> web.Response:
        nonlocal count
        async with first:
            count += 1
            if count == 1:
                await asyncio.sleep(stall_s)
        return web.Response(body=await request.read())

    result = fire(one_at_a_time, [index * gap_s for index in range(10)], LoadSettings(slo_s=0.1), [])
    # Request k was due k * 20 ms into the stall, so it waits at least 300 - 20 k ms from its intended
    # arrival: the 5th smallest of ten (the median) is k = 5 with 200 ms; the smallest is k = 9 with 120 ms >
    # 100 ms.
    assert result.latency_ms["p50"] is not None
    assert result.latency_ms["p50"] >= 200 - 1
    assert result.latency_ms["max"] is not None
    assert result.latency_ms["max"] >= 300 - 1
    assert (result.completed, result.late, result.violations) == (10, 10, 10)


def test_over_the_bound_on_requests_in_flight_is_counted_not_skipped() -> None:
    release = asyncio.Event()
    waiting = 0

    async def hold(request: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            asyncio.get_running_loop().call_later(0.1, release.set)
        await release.wait()
        return web.Response(body=await request.read())

    result = fire(hold, [0.0, 0.0, 0.0, 0.0, 0.0], LoadSettings(in_flight_max=2), [])
    assert result.errors == {"overrun": 3}
    assert (result.offered, result.completed, result.violations) == (5, 2, 3)


def test_refusals_timeouts_and_lost_connections_are_told_apart() -> None:
    kinds = iter(["refuse", "hang", "cut", "answer"])
    bounds: list[str | None] = []

    async def moody(request: web.Request) -> web.Response:
        kind = next(kinds)
        bounds.append(request.headers.get("Steelyard-Max-Latency-Ms"))
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "cut":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=503 if kind == "refuse" else 200, body=b"")

    settings = LoadSettings(timeout_s=1.5, max_latency_s=5.0005, slo_s=10)
    result = fire(moody, [0.0, 0.03, 0.06, 0.09], settings, [])
    assert result.errors == {"503": 1, "timeout": 1, "connection": 1}
    assert bounds == ["5000.5"] * 4
    assert (result.completed, result.violations) == (1, 3)


def test_the_smallest_of_slo_bound_and_own_budget_counts() -> None:
    bounds: list[str | None] = []

    async def slow(request: web.Request) -> web.Response:
        bounds.append(request.headers.get("Steelyard-Max-Latency-Ms"))
        await asyncio.sleep(0.05)
        return web.Response(body=b"")

    async def main() -> LoadResult:
        async with serving(slow) as url:
            settings = LoadSettings(slo_s=20, max_latency_s=10)
            arrivals_s, budgets_s = np.array([0.0, 0.1, 0.2]), np.array([np.nan, 0.02, 30.0])
            return await run_load(
                url, "m", arrivals_s, BODIES, seconds=1.0, budgets_s=budgets_s, settings=settings
            )

    result = run(main())
    # Bounds sent: min(10 s, own). Only the second, with 20 ms, ends (after 50 ms) later than its bound.
    assert bounds == ["10000", "20", "10000"]
    assert (result.completed, result.late, result.per_second.violations) == (3, 1, [1])


def test_nobody_there_is_a_lost_connection_for_each_request(unused_tcp_port: int) -> None:
    url = f"127.0.0.1:{unused_tcp_port}"
    result = run(run_load(url, "m", np.array([0.0, 0.01]), BODIES, seconds=1.0))
    assert result.errors == {"connection": 2}
    with pytest.raises(InputError, match="no usable answer"):
        run(fetch_input_names(url, "m"))


def test_input_names_come_from_the_models_metadata() -> None:
    async def main() -> None:
        async with serving(echo) as url:
            assert await fetch_input_names(url, "m") == ["x"]
            with pytest.raises(InputError, match="/v2/models/other"):
                await fetch_input_names(url, "other")

    run(main())


def test_scheduling_is_as_before_after_a_run() -> None:
    before = os.sched_getscheduler(0)
    seen: list[int] = []

    async def main() -> None:
        seen.append(os.sched_getscheduler(0))

    run(main())
    assert seen[0] in (before, os.SCHED_RR)
    assert os.sched_getscheduler(0) == before


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to send"):
        run(run_load("h", "m", np.array([0.0]), [], seconds=1.0))
    with pytest.raises(InputError, match="want 1 to 900, got 0"):
        run(run_load("h", "m", np.array([0.0]), BODIES, seconds=1.0, settings=LoadSettings(in_flight_max=0)))


@pytest.fixture
def unused_tcp_port() -> Iterator[int]:
    """A port on which nobody listens, nor will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])
