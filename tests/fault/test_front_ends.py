"""Front ends in processes of their own, real ones: killed, stopped, stuck, asked to share memory.

Requests take 20 ms a row (the `sleep` runtime), so signals find requests in flight. Every answer is the
request's own input: an answer that got to another's client would show.
"""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from steelyard.control.rebuild import machines_of
from steelyard.demo.processes import free_ports
from steelyard.journal.codec import read
from steelyard.journal.diff import describe
from steelyard.journal.records import Header, Record
from steelyard.journal.replay import replay
from steelyard.testing.live import WAIT_S_MAX, LiveServer, descendants, serve, wait_ended, wait_until

pytestmark = pytest.mark.slow

CLIENTS = 24
"""Connections, of which each front end gets some: all on one of two has a chance of 2^-23."""
BROKEN = {
    "ServerDisconnectedError", "ClientOSError", "ClientConnectorError", "ClientConnectionResetError",
    "ConnectionResetError",
}  # fmt: skip
"""What aiohttp calls a connection whose other end has gone, by where it was then."""


def front_ends(server: LiveServer, kind: str = "http") -> list[dict[str, Any]]:
    return [one for one in server.status()["front_ends"] if one["kind"] == kind]


def listening(server: LiveServer) -> set[int]:
    """Numbers of those that clients can connect to."""
    return {one["id"] for one in front_ends(server) if one["is_listening"]}


def is_quiet(server: LiveServer) -> bool:
    """Nothing is kept for any request: no input in a front end's arena, no output for one to read."""
    return all(not one["requests"] and not one["unread"] for one in server.status()["front_ends"])


async def infer(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """`ok` if the answer is the request's own; else a refusal's reason, or how the connection failed."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [number]}
    try:
        async with session.post(f"{url}/v2/models/naps/infer", json={"inputs": [tensor]}) as answer:
            content = await answer.json()
    except (aiohttp.ClientError, ConnectionError) as error:
        return type(error).__name__
    if answer.status != 200:
        return f"{answer.status} {content.get('reason', content)}"
    return "ok" if content["outputs"][0]["data"] == [number] else f"wrong: {content}"


async def closed_loop(url: str, *, stop: Callable[[], bool], clients: int = CLIENTS) -> Counter[str]:
    """Outcomes of clients with a connection each that ask again when they are answered, until `stop`."""
    outcomes: Counter[str] = Counter()

    async def client(first: int) -> None:
        number = first
        async with aiohttp.ClientSession() as session:
            while not stop():
                outcome = await infer(session, url, number)
                outcomes[outcome] += 1
                number += clients
                if outcome == "ClientConnectorError":
                    return  # nobody listens any more

    await asyncio.gather(*(client(first) for first in range(clients)))
    return outcomes


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


def test_a_killed_front_end_costs_its_own_clients_only(spec: Path, tmp_path: Path) -> None:
    """Also: each gets its own answer from two front ends under load, and the journal replays."""
    journal = tmp_path / "journal.jsonl"
    with serve(spec, tmp_path, "--front-ends", "2", "--journal", str(journal)) as server:
        first, second = front_ends(server)
        cores = os.sched_getaffinity(server.process.pid)
        assert os.sched_getaffinity(first["pid"]) == os.sched_getaffinity(second["pid"]) == cores

        async def kill_in_mid_load() -> Counter[str]:
            done = asyncio.Event()
            load = asyncio.create_task(closed_loop(server.url, stop=done.is_set))
            await until(lambda: all(one["requests"] for one in front_ends(server)), "load on both")
            os.kill(first["pid"], signal.SIGKILL)
            known = {first["id"], second["id"]}
            await until(lambda: len(listening(server) - {first["id"]}) == 2, "another in its place")
            more = asyncio.create_task(closed_loop(server.url, stop=done.is_set))
            await until(
                lambda: any(one["requests"] for one in front_ends(server) if one["id"] not in known),
                "load on the new one",
            )
            done.set()
            assert (await more).keys() == {"ok"}
            return await load

        outcomes = asyncio.run(kill_in_mid_load())
        wait_until(lambda: is_quiet(server), "everything given back")
        assert second["pid"] in {one["pid"] for one in front_ends(server)}
        counters = server.status()["services"]["naps"]["counters"]
    broken = {name: count for name, count in outcomes.items() if name != "ok"}
    assert broken.keys() <= BROKEN, outcomes
    assert 0 < sum(broken.values()) < CLIENTS, outcomes
    assert outcomes["ok"] > 20
    # Its open requests are cancelled, but for those that were answered when nobody could read it any more.
    assert counters["completed"] + counters["cancelled"] == counters["requests"]
    assert outcomes["ok"] <= counters["completed"]
    with journal.open("rb") as lines:
        header, *records = read(lines)
    assert isinstance(header, Header)
    found = replay([one for one in records if isinstance(one, Record)], machines_of(header))
    assert found is None, "\n".join(describe(found))


def test_a_server_with_front_ends_answers_everyone_and_exits_with_0(spec: Path, tmp_path: Path) -> None:
    (grpc_port,) = free_ports(1)
    with serve(spec, tmp_path, "--front-ends", "2", "--grpc-port", str(grpc_port)) as server:
        family = descendants(server.process.pid)
        assert len(front_ends(server)) == 2
        assert len(front_ends(server, "grpc")) == 1

        async def stop_in_mid_load() -> Counter[str]:
            load = asyncio.create_task(closed_loop(server.url, stop=lambda: False))
            await until(lambda: all(one["requests"] for one in front_ends(server)), "load on both")
            server.process.terminate()
            return await load

        outcomes = asyncio.run(stop_in_mid_load())
        assert server.process.wait(WAIT_S_MAX) == 0
        assert not wait_ended(family)
    assert outcomes.keys() <= {"ok", "ClientConnectorError", "503 draining"}, outcomes
    assert outcomes["ok"] > 0


def test_front_ends_share_their_port_with_nobody_and_end_with_the_server(spec: Path, tmp_path: Path) -> None:
    with serve(spec, tmp_path, "--front-ends", "1") as server:
        port = int(server.url.rpartition(":")[2])
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        family = descendants(server.process.pid)
        assert front_ends(server)[0]["pid"] in family
        server.process.kill()
        server.process.wait()
        assert not wait_ended(family)


def test_what_one_front_end_is_told_holds_at_all_of_them(spec: Path, tmp_path: Path) -> None:
    """A service unloaded, and shared memory registered, over one connection; seen over many others."""
    name = f"steelyard-test-{os.getpid()}"
    region = Path("/dev/shm") / name
    region.write_bytes(bytes(64))

    async def ask(url: str, path: str, body: Any) -> tuple[int, Any]:
        """Over a connection of its own."""
        async with aiohttp.ClientSession() as session, session.post(f"{url}/v2/{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def everywhere(url: str, path: str) -> set[tuple[int, str]]:
        async def look() -> tuple[int, str]:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/v2/{path}") as answer:
                return answer.status, await answer.text()

        return set(await asyncio.gather(*(look() for _ in range(CLIENTS))))

    async def main(url: str) -> None:
        place = "systemsharedmemory/region/mine"
        asked = {"key": f"/{name}", "byte_size": 64}
        assert await ask(url, f"{place}/register", asked) == (200, {})
        assert {status for status, _ in await everywhere(url, f"{place}/status")} == {200}
        status, answer = await ask(url, f"{place}/register", asked)
        assert (status, "registered already" in answer["error"]) == (400, True)
        assert await ask(url, f"{place}/unregister", {}) == (200, {})
        assert {status for status, _ in await everywhere(url, f"{place}/status")} == {400}
        for action, ready in (("unload", 404), ("load", 200)):
            assert (await ask(url, f"repository/models/naps/{action}", {}))[0] == 200
            found = await everywhere(url, "models/naps")
            assert {status for status, _ in found} == {ready}, found
        assert {status for status, _ in await everywhere(url, "models/naps/ready")} == {200}
        outcomes = await closed_loop(url, stop=iter([False] * 60 + [True] * CLIENTS).__next__)
        assert outcomes == {"ok": 60}
        counts = {
            text.split('"inference_count":')[1].split(",")[0]
            for _, text in await everywhere(url, "models/naps/stats")
        }
        assert counts == {"60"}

    try:
        with serve(spec, tmp_path, "--front-ends", "2") as server:
            asyncio.run(main(server.url))
    finally:
        region.unlink()
