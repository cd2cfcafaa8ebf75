"""Requests that two readers could understand differently, and clients that do not read: over real sockets."""

import contextlib
import gc
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings, connection, make_app
from steelyard.testing.http import RunningServer, read_answer, running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, wait_until

pytestmark = pytest.mark.slow
WIDE = 3_000_000
"""12 MB of FP32: more than the sockets of a client that does not read can hold."""
BUFFERED_BYTES_MAX = 1 << 24
SERVICES = {
    "one": served("one", {"x": ("FP32", (-1, 2))}, {"y": ("FP32", (-1, 2))}),
    "wide": served("wide", {"x": ("FP32", (-1, 2))}, {"y": ("FP32", (-1, WIDE))}),
}
JSON = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [7, 8]}]}).encode()
ASKED_WIDE = b'%b,"parameters":{"binary_data_output":true}}' % JSON.replace(b"7", b"0")[:-1]
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
"""What Java's HTTP client says in its first request."""
THROUGH_ASGI = "Content-Encoding: identity\r\n"


class Edge(NamedTuple):
    """A running edge, and the statuses of the inferences that it answered."""

    server: RunningServer
    statuses: list[int]
    intake: ComputingIntake

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_S_MAX)


def answered(arrays: Any) -> Any:
    (x,) = arrays.values()
    return {"y": x if x[0, 0] else np.zeros((1, WIDE), np.float32)}


@pytest.fixture(name="edge")
def _edge(request: pytest.FixtureRequest) -> Iterator[Edge]:
    intake = ComputingIntake(SERVICES, answered, arena_bytes=1 << 26)
    statuses: list[int] = []
    settings = EdgeSettings(buffered_bytes_max=getattr(request, "param", BUFFERED_BYTES_MAX))
    app = make_app(intake, settings=settings, on_status=lambda _, status: statuses.append(status))
    with running_server(app) as server:
        yield Edge(server, statuses, intake)
    assert intake.arena.bytes_used == 0
    assert app.inferences.bodies.buffered_bytes == 0
    intake.close()


def post(path: str, body: bytes, *heads: str) -> tuple[bytes, bytes]:
    """A request's HTTP head, and its body."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n" + "".join(heads)
    return f"{head}\r\n".encode(), body


def infer(body: bytes, *heads: str, service: str = "one") -> tuple[bytes, bytes]:
    return post(f"/v2/models/{service}/infer", body, *heads)


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_upgrade_that_is_not_served_does_not_cost_the_body(edge: Edge, is_cut: bool) -> None:
    head, body = infer(JSON, H2C)
    with edge.connect() as client, client.makefile("rb") as stream:
        for _ in range(2):
            for piece in (head, body) if is_cut else (head + body,):
                client.sendall(piece)
                edge.server.on_loop(lambda: None)
            status, _, found = read_answer(stream)
            assert (status, json.loads(found)["outputs"][0]["data"]) == (200, [7, 8])
        client.sendall(LIVE)
        assert read_answer(stream)[0] == 200


def test_an_upgrade_is_no_line_in_the_log(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(LIVE[:-2] + H2C.encode() + b"\r\n")
        assert read_answer(stream)[0] == 200
    assert caplog.messages == []


@pytest.mark.parametrize("head_cut", [0, 20])
@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/models/one/infer"])
def test_the_body_of_an_upgrade_is_never_taken_for_a_request(edge: Edge, path: str, head_cut: int) -> None:
    """Where the HTTP parser leaves a body out, what follows on the connection is not looked at."""
    head, body = post(path, LIVE, H2C, THROUGH_ASGI)
    with edge.connect() as client, client.makefile("rb") as stream:
        for piece in (head[:head_cut], head[head_cut:], body):
            client.sendall(piece)
            edge.server.on_loop(lambda: None)
        _, headers, found = read_answer(stream)
        assert headers["connection"] == "close"
        assert b"live" not in found
        with contextlib.suppress(ConnectionResetError):  # the body came when nobody read any more
            assert stream.read() == b""


@pytest.mark.parametrize("edge", [1 << 20], indirect=True)  # of which one answer may be more
def test_a_refusal_behind_an_answer_that_is_not_read_yet(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *said, **_: errors.append(said))
    wide, wrong = infer(ASKED_WIDE, THROUGH_ASGI, service="wide"), infer(b"{", THROUGH_ASGI)
    with edge.connect() as client, client.makefile("rb") as stream:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.sendall(b"".join((*wide, *wrong, *wrong, LIVE)))
        wait_until(lambda: edge.statuses[:2] == [200, 400], "the refusal, which cannot be sent yet")
        assert [read_answer(stream)[0] for _ in range(4)] == [200, 400, 400, 200]
    assert not errors


@pytest.mark.parametrize("edge", [1 << 20], indirect=True)
def test_requests_that_come_before_their_turn_are_bounded_together(edge: Edge) -> None:
    """Each client may have one under way, and what one read brought besides: tens of KB, times 100."""
    edge.intake.held = True
    early = b"".join(infer(JSON)) + LIVE[:-2] + b"X: %b\r\n\r\n" % (b"x" * (1 << 18))
    clients = [edge.connect() for _ in range(100)]
    try:
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(early)
        wait_until(lambda: 499 in edge.statuses, "the first that is cut off")
        held = edge.server.on_loop(lambda: sum(len(one._held) for one in open_connections()))
        assert 0 < held <= 1 << 20
    finally:
        edge.server.on_loop(lambda: finish_all(edge.intake))
        for client in clients:
            client.close()


@pytest.mark.parametrize("head", ["", THROUGH_ASGI])
def test_answers_that_are_not_read_are_bounded_together(edge: Edge, head: str) -> None:
    """12 MB each, of which the sockets take some: of eight, fewer than three fit into 16 MB."""
    clients = [edge.connect() for _ in range(8)]
    try:
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            client.sendall(b"".join(infer(ASKED_WIDE, head, service="wide")))
        wait_until(lambda: len(edge.statuses) == 8, "all answers")
        wait_until(lambda: edge.server.on_loop(waiting_bytes) <= BUFFERED_BYTES_MAX, "those beyond cut off")
        assert edge.server.on_loop(waiting_bytes) > 0
        with edge.connect() as client, client.makefile("rb") as stream:
            client.sendall(b"".join(infer(JSON)))
            assert read_answer(stream)[0] == 200
    finally:
        for client in clients:
            client.close()


def finish_all(intake: ComputingIntake) -> None:
    """Those that are open, and from now on all others at once."""
    intake.held = False
    for request_id in tuple(intake.open):
        intake.finish(request_id)


def open_connections() -> list[connection.Connection]:
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, connection.Connection) and one in one._way.connections
    ]


def waiting_bytes() -> int:
    """Of all answers that were written and not sent yet."""
    return sum(one._transport.get_write_buffer_size() for one in open_connections())
