"""Clients that are slow, silent, half gone or hostile: bounded in time and memory, others are unharmed."""

import gc
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import fuzz
import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings, asgi, make_app
from steelyard.testing.http import RunningServer, running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, wait_until

pytestmark = pytest.mark.slow
WIDE = 8 << 20
LIMIT_S = 1.5
"""For heads, bodies and answers: what a client may do in it is over soon, and a machine may stand still."""
SERVICES = {
    "one": served("one", {"x": ("FP32", (-1, 2))}, {"x": ("FP32", (-1, 2))}),
    "wide": served("wide", {"w": ("FP32", (-1, 2))}, {"y": ("FP32", (-1, WIDE))}),
}
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}]}
).encode()
ALIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.setattr(asgi, "HEAD_S_MAX", LIMIT_S)
    monkeypatch.setattr(asgi, "ANSWER_S_MAX", LIMIT_S)

    def model(arrays: Any) -> Any:
        return arrays if "x" in arrays else {"y": np.zeros((1, WIDE), np.float32)}

    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 26)
    with running_server(make_app(intake, settings=EdgeSettings(body_s_max=LIMIT_S))) as server:
        yield server
    assert intake.arena.bytes_used == 0
    intake.close()


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX)


def infer(service: str = "one", body: bytes = BODY) -> bytes:
    head = f"POST /v2/models/{service}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n"
    return head.encode() + body


def rest(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def alive(server: RunningServer) -> bool:
    with connect(server) as connection:
        connection.sendall(ALIVE)
        return connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"G", b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-", b"\r\n", ALIVE + b"POST /v2"])
def test_a_head_that_never_ends_is_refused_in_time(server: RunningServer, sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        answer = rest(connection)  # ends when the server closes
    assert answer.endswith(b'{"error":"The head of the request did not arrive within %g s."}' % LIMIT_S)
    assert alive(server)


def test_a_head_in_drops_has_no_more_time_than_one_that_stops(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.settimeout(0.05)
        give_up_s = time.monotonic() + WAIT_S_MAX
        answer = b""
        while not answer:
            assert time.monotonic() < give_up_s, "the server goes on listening to drops"
            try:
                connection.sendall(b"\r\n")
                answer = connection.recv(1 << 16)
            except TimeoutError:
                continue
    assert b"400" in answer


def test_connections_go_on_after_their_requests(server: RunningServer) -> None:
    """The limit is for a head: between requests, a connection may rest for longer."""
    with connect(server) as connection:
        for pause_s in (0.0, 1.3 * LIMIT_S):
            if pause_s:
                connection.settimeout(pause_s)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(WAIT_S_MAX)
            connection.sendall(ALIVE)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_body_that_stops_is_408(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(infer(body=BODY[:10]))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")
    assert alive(server)


def test_an_answer_that_nobody_reads_is_cut_off(server: RunningServer) -> None:
    """32 MiB do not fit the sockets' buffers: a client that asks and does not read loses the rest of it."""
    with connect(server) as connection:
        body = BODY[:-1].replace(b'"x"', b'"w"') + b', "parameters": {"binary_data_output": true}}'
        head = f"POST /v2/models/wide/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(1) == b"H"
        wait_until(lambda: server.on_loop(lambda: not unread_answers()), "the answer is not kept any more")
        assert 0 < len(rest(connection)) < 4 * WIDE
    assert alive(server)


def unread_answers() -> list[object]:
    """Connections whose client does not read."""
    connections = (one for one in gc.get_objects() if isinstance(one, asgi.AsgiConnection))
    return [one for one in connections if one._answer_timer is not None]


def test_half_closed_and_gone_clients_leave_nothing_behind(server: RunningServer) -> None:
    for sent in (b"", ALIVE[:9], infer()[:60], infer(body=BODY[:20]), infer()):
        with connect(server) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = rest(connection)
            assert not answer or answer.startswith(b"HTTP/1.1 "), answer
        with connect(server) as connection:
            connection.sendall(sent)
    assert alive(server)


COUNTS = {"infer": 500, "direct": 500, "pages": 500, "codec": 300, "sockets": 150}


@pytest.mark.parametrize("target", COUNTS)
def test_seeded_nonsense_harms_nothing(target: str) -> None:
    """A part of what bench/fuzz.py tries; an input that fails is made again by `--only`."""
    assert fuzz.fuzz(target, range(COUNTS[target]), seed=20).count == COUNTS[target]
