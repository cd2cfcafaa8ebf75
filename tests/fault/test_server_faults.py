"""A real server under real signals: workers killed, the server killed, the server asked to stop.

Requests take 20 ms a row (the `sleep` runtime), so signals find batches in flight. The objective is far off:
what is tested is that nobody is lost, not how soon they are answered.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from steelyard.testing.live import (
    WAIT_S_MAX,
    cgroups_of,
    descendants,
    mapped_arenas,
    serve,
    wait_until,
    worker_pids,
)

pytestmark = pytest.mark.slow

BODY = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.5]}]}'


async def infer(session: aiohttp.ClientSession, url: str) -> str:
    """The outcome of one request: `ok`, a refusal's reason, or how the connection failed."""
    try:
        async with session.post(f"{url}/v2/models/naps/infer", data=BODY) as answer:
            content = await answer.json()
    except aiohttp.ClientError as error:
        return type(error).__name__
    return "ok" if answer.status == 200 else f"{answer.status} {content.get('reason', content)}"


async def closed_loop(
    url: str, outcomes: Counter[str], *, clients: int, stop: Callable[[], bool] = lambda: False
) -> None:
    """Count outcomes of as many clients as given, each asking again when it is answered, until `stop`."""

    async def client(session: aiohttp.ClientSession) -> None:
        while not stop():
            outcome = await infer(session, url)
            outcomes[outcome] += 1
            if outcome == "ClientConnectorError":
                return  # nobody listens any more

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def test_a_killed_worker_costs_no_answer(spec: Path, tmp_path: Path) -> None:
    """Its requests run again elsewhere."""
    with serve(spec, tmp_path) as server:
        wait_until(lambda: len(worker_pids(server)) == 2, "two workers")
        victim = worker_pids(server)[0]

        async def kill_in_mid_load() -> Counter[str]:
            done, outcomes = asyncio.Event(), Counter[str]()
            load = asyncio.create_task(closed_loop(server.url, outcomes, clients=6, stop=done.is_set))
            await until(lambda: outcomes["ok"] > 25, "load")
            os.kill(victim, signal.SIGKILL)
            await until(
                lambda: victim not in worker_pids(server) and len(worker_pids(server)) == 2, "a new worker"
            )
            answered = outcomes["ok"]
            await until(lambda: outcomes["ok"] > answered + 25, "load on the new one")
            done.set()
            await load
            return outcomes

        outcomes = asyncio.run(kill_in_mid_load())
        assert outcomes.keys() == {"ok"}, outcomes
        counters = server.status()["services"]["naps"]["counters"]
        assert counters["completed"] == counters["requests"] == outcomes["ok"]
        # What a lost worker held is given back: its arena is mapped by nobody.
        arenas = mapped_arenas(server.process.pid)
        assert len(arenas) <= 3, arenas  # the front end's and one a living worker


def test_a_killed_server_leaves_nothing(spec: Path, tmp_path: Path) -> None:
    with serve(spec, tmp_path) as server:
        wait_until(lambda: len(worker_pids(server)) == 2, "two workers")
        family = descendants(server.process.pid)
        groups = cgroups_of(server.process.pid)
        assert groups, "quotas are writable for root"
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in family), "the family's end")
        wait_until(lambda: not any(group.exists() for group in groups), "its cgroups' end")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopping_server_answers_everyone_and_exits_with_0(
    spec: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serve(spec, tmp_path) as server:

        async def stop_in_mid_load() -> tuple[Counter[str], int]:
            outcomes = Counter[str]()
            load = asyncio.create_task(closed_loop(server.url, outcomes, clients=12))
            await until(lambda: outcomes["ok"] > 25, "load")
            before = server.status()["services"]["naps"]["counters"]["completed"]
            server.process.send_signal(number)
            await load
            return outcomes, before

        outcomes, before = asyncio.run(stop_in_mid_load())
        assert server.process.wait(WAIT_S_MAX) == 0
    refused = {"ClientConnectorError", "503 draining"}
    assert outcomes.keys() <= {"ok"} | refused, outcomes
    assert outcomes["ok"] >= before > 0
