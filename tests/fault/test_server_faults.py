"""A real server under real signals: workers killed, the server killed, the server asked to stop.

Requests take 20 ms a row (the `sleep` runtime), so signals find batches in flight.
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
    LiveServer,
    descendants,
    mapped_arenas,
    serve,
    wait_until,
    worker_pids,
)

pytestmark = pytest.mark.slow

SPEC = """\
version: 1
models:
  naps:
    variants:
      base: {runtime: sleep, latency: {alpha_ms: 20, beta_ms: 0, gamma_ms: 0, zeta_ms: 0}, batch_max: 4}
services:
  naps:
    slo: {latency: 1s}
    pipeline:
      nap: {model: naps}
policies:
  two: {name: static, replicas: 2, cores: 1, batch: 4}
policy: two
"""
BODY = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.5]}]}'


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


async def infer(session: aiohttp.ClientSession, url: str) -> str:
    """The outcome of one request: `ok`, a refusal's reason, or how the connection failed."""
    try:
        async with session.post(f"{url}/v2/models/naps/infer", data=BODY) as answer:
            content = await answer.json()
    except aiohttp.ClientError as error:
        return type(error).__name__
    return "ok" if answer.status == 200 else f"{answer.status} {content.get('reason', content)}"


async def closed_loop(url: str, *, clients: int, stop: Callable[[], bool]) -> Counter[str]:
    """Outcomes of as many clients as given, each asking again when it is answered, until `stop`."""
    outcomes: Counter[str] = Counter()

    async def client(session: aiohttp.ClientSession) -> None:
        while not stop():
            outcome = await infer(session, url)
            outcomes[outcome] += 1
            if outcome == "ClientConnectorError":
                return  # nobody listens any more

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return outcomes


def test_a_killed_worker_costs_no_answer(spec: Path, tmp_path: Path) -> None:
    """Its requests run again elsewhere: the SLO of 1 s leaves time for 20 ms more."""
    with serve(spec, tmp_path) as server:
        wait_until(lambda: len(worker_pids(server)) == 2, "two workers")
        victim = worker_pids(server)[0]

        async def kill_in_mid_load() -> Counter[str]:
            done = asyncio.Event()
            load = asyncio.create_task(closed_loop(server.url, clients=6, stop=done.is_set))
            await asyncio.sleep(0.5)
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(
                wait_until,
                lambda: victim not in worker_pids(server) and len(worker_pids(server)) == 2,
                "a new worker",
            )
            await asyncio.sleep(0.5)
            done.set()
            return await load

        outcomes = asyncio.run(kill_in_mid_load())
        assert outcomes.keys() == {"ok"}, outcomes
        assert outcomes["ok"] > 50
        counters = server.status()["services"]["naps"]["counters"]
        assert counters["completed"] == counters["requests"] == outcomes["ok"]
        # What a lost worker held is given back: its arena is mapped by nobody.
        arenas = mapped_arenas(server.process.pid)
        assert len(arenas) <= 3, arenas  # the front end's and one a living worker


def test_a_killed_server_leaves_nothing(spec: Path, tmp_path: Path) -> None:
    with serve(spec, tmp_path) as server:
        wait_until(lambda: len(worker_pids(server)) == 2, "two workers")
        family = descendants(server.process.pid)
        groups = cgroups_of(server)
        assert groups, "quotas are writable for root"
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in family), "the family's end", seconds_max=1.0)
        wait_until(lambda: not any(group.exists() for group in groups), "its cgroups' end", seconds_max=1.0)


def cgroups_of(server: LiveServer) -> list[Path]:
    """Directories in the cgroup file system that carry the server's pid."""
    return list(Path("/sys/fs/cgroup").glob(f"**/steelyard-{server.process.pid}-*"))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie holds nothing any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_answers_everyone_and_exits_with_0(
    spec: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serve(spec, tmp_path) as server:

        async def stop_in_mid_load() -> tuple[Counter[str], int]:
            load = asyncio.create_task(closed_loop(server.url, clients=12, stop=lambda: False))
            await asyncio.sleep(0.5)
            before = server.status()["services"]["naps"]["counters"]["completed"]
            server.process.send_signal(number)
            outcomes = await load
            return outcomes, before

        outcomes, before = asyncio.run(stop_in_mid_load())
        assert server.process.wait(10) == 0
    refused = {"ClientConnectorError", "503 draining"}
    assert outcomes.keys() <= {"ok"} | refused, outcomes
    assert outcomes["ok"] >= before > 0
