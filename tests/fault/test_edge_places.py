"""More clients than a listener keeps connections: who is idle goes, and who only watches is answered."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from steelyard.serve.edge import make_app, places
from steelyard.serve.edge.listen import serve_http
from steelyard.testing.http import RunningServer, read_answer, running_listener
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, wait_until

PLACES = 3
"""And one guest."""
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [7]}]}).encode()
INFER = b"POST /v2/models/one/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


class Edge(NamedTuple):
    """A running edge that keeps three connections."""

    server: RunningServer
    intake: ComputingIntake
    clients: list[socket.socket]

    def connect(self) -> socket.socket:
        self.clients.append(socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_S_MAX))
        return self.clients[-1]

    def now_s(self) -> float:
        """On the serving loop's clock."""
        return self.server.on_loop(lambda: asyncio.get_running_loop().time())

    def finish_all(self) -> None:
        """Answer those that are under way."""
        for request_id in tuple(self.intake.open):
            self.intake.finish(request_id)

    def asking(self, count: int) -> list[socket.socket]:
        """Connections with a request under way each."""
        found = [self.connect() for _ in range(count)]
        for one in found:
            one.sendall(INFER)
        wait_until(lambda: len(self.intake.open) == count, "all requests to be under way")
        return found


@pytest.fixture(name="edge")
def _edge() -> Iterator[Edge]:
    intake = ComputingIntake(
        {"one": served("one", {"x": ("FP32", (-1,))}, {"x": ("FP32", (-1,))})},
        lambda arrays: arrays,
        arena_bytes=1 << 20,
    )
    app = make_app(intake)
    with running_listener(
        lambda: serve_http(app, "127.0.0.1", 0, grace_s=5, connections_max=PLACES), linger_s=0.0
    ) as server:
        edge = Edge(server, intake, [])
        yield edge
        for client in edge.clients:
            client.close()
    assert intake.arena.bytes_used == 0
    intake.close()


def ask(client: socket.socket, request: bytes) -> tuple[int, dict[str, str], Any]:
    with client.makefile("rb") as stream:
        client.sendall(request)
        status, headers, body = read_answer(stream)
    return status, headers, json.loads(body) if body else None


def ended(client: socket.socket) -> bool:
    """Whether the server has ended the connection; waits for it."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("first", [INFER, LIVE, b"", b"GET /v2/hea"])
def test_the_connection_that_is_idle_longest_makes_place(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(places, "IDLE_S_MIN", 0.0)
    idle = edge.connect()
    if first.endswith(b"a"):
        idle.sendall(first)
    elif first:
        assert ask(idle, first)[0] == 200
    edge.server.on_loop(lambda: None)
    begun_s = edge.now_s()
    wait_until(lambda: edge.now_s() > begun_s, "the loop's clock to go on")  # it counts milliseconds
    others = [edge.connect() for _ in range(PLACES - 1)]
    for _ in range(2):
        assert [ask(other, INFER)[0] for other in others] == [200] * len(others)
    assert ask(edge.connect(), INFER)[0] == 200
    assert ended(idle)
    assert [ask(other, LIVE)[0] for other in others] == [200] * len(others)


def test_while_all_are_busy_a_newcomer_may_ask_for_a_page(edge: Edge) -> None:
    edge.intake.held = True
    busy = edge.asking(PLACES)
    for path in (b"/v2/health/live", b"/v2/health/ready", b"/v2/models/one"):
        guest = edge.connect()
        status, headers, _ = ask(guest, LIVE.replace(b"/v2/health/live", path))
        assert (status, headers["connection"]) == (200, "close")
        assert ended(guest)
    edge.intake.held = False
    edge.server.on_loop(edge.finish_all)
    for one in busy:
        with one.makefile("rb") as stream:
            assert read_answer(stream)[0] == 200


@pytest.mark.parametrize("padding", [0, 1 << 20])
def test_while_all_are_busy_a_newcomers_request_is_refused_in_words(edge: Edge, padding: int) -> None:
    edge.intake.held = True
    edge.asking(PLACES)
    guest = edge.connect()
    status, headers, body = ask(guest, INFER + b" " * padding)  # whose answer a reset must not destroy
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    assert body == {
        "error": "the server has as many connections as it keeps, and none is idle",
        "reason": "connections_full",
        "retry_after_ms": 1000.0,
    }
    guest.close()


def test_there_are_few_guests_and_not_for_long(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.serve.edge.connection.GUEST_S_MAX", 1.0)
    edge.intake.held = True
    edge.asking(PLACES)
    silent = edge.connect()  # the only guest
    edge.server.on_loop(lambda: None)
    assert ended(edge.connect())
    assert ended(silent)
    assert ask(edge.connect(), LIVE)[0] == 200
