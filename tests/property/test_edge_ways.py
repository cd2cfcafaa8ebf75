"""A request is answered alike whichever way it takes: straight from the socket, or through ASGI.

The requests are good ones, broken in a few places, as in bench/fuzz.py. `Connection: close` is what makes a
request take the way through ASGI; it changes nothing else.
"""

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from fuzz_inputs import SERVICES, Message, chunks_of, infer_message, placed_message, wire_form

from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.testing.http import RunningServer, running_server
from steelyard.testing.intake import ComputingIntake
from steelyard.testing.live import WAIT_S_MAX

pytestmark = pytest.mark.slow
REQUESTS = 400
OF_HTTP = ("transfer-encoding", "connection", "expect", "upgrade")
"""Headers whose nonsense ends the connection before the request has a way."""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RunningServer]:
    intake = ComputingIntake(SERVICES, lambda arrays: arrays, arena_bytes=1 << 20)
    with running_server(make_app(intake, settings=EdgeSettings(body_bytes_max=1 << 16))) as server:
        yield server
    assert intake.arena.bytes_used == 0
    intake.close()


def answer(server: RunningServer, pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """Status line and headers, without those that always differ, and the body."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        found = b""
        while b"\r\n\r\n" not in found:
            found += received(client)
        head, _, body = found.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
        while len(body) < length:
            body += received(client)
    own = (b"date:", b"connection:", b"x-request-id:")
    return sorted(line for line in lines if not line.startswith(own)), body


def received(client: socket.socket) -> bytes:
    data = client.recv(1 << 16)
    assert data, "the server hung up"
    return data


def message_of(number: int, rng: np.random.Generator) -> Message:
    """Every other one asks a service whose tensors can be placed before they come."""
    if number % 2:
        found = infer_message(rng)
        headers = {name: value for name, value in found.headers.items() if name not in OF_HTTP}
        return found._replace(headers=headers)
    return placed_message(rng)


def test_both_ways_answer_alike(server: RunningServer) -> None:
    statuses = set()
    for number in range(REQUESTS):
        rng = np.random.default_rng((41, number))
        message = message_of(number, rng)
        closing = Message(
            message.method, message.path, message.headers | {"Connection": "close"}, message.body
        )
        direct, through_asgi = wire_form(message, None), wire_form(closing, None)
        start = direct.index(b"\r\n\r\n") + 4
        pieces = [direct[:start], *chunks_of(direct[start:], rng)] if number % 4 > 1 else [direct]
        given = answer(server, pieces)
        assert given == answer(server, [through_asgi]), (number, direct[:2000])
        statuses.add(given[0][-1][:12])
    assert {status[-3:] for status in statuses} >= {b"200", b"400"}
