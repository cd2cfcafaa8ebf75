"""Requests that take the direct way, however their bytes come and whatever their clients do meanwhile.

An answer looks the same whichever way its request took, so these tests count what was asked of the ASGI
application: nothing, where a request should have gone past it.
"""

import contextlib
import gc
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings, connection, make_app
from steelyard.serve.edge.http import EdgeApp
from steelyard.testing.http import RunningServer, read_answer, running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, wait_until

pytestmark = pytest.mark.slow
LIMIT_S = 2.0
"""Short, for bodies that do not come in time; those that should come have `WAIT_S_MAX`."""
PIXELS = 150_528
"""600 KB of FP32: far more than one read brings."""
SERVICES = {
    "one": served("one", {"x": ("FP32", (-1, 2))}, {"x": ("FP32", (-1, 2))}),
    "two": served("two", {"a": ("FP32", (-1, -1)), "b": ("INT64", (-1, 1))}, {"a": ("FP32", (-1, -1))}),
    "image": served("image", {"x": ("FP32", (-1, PIXELS))}, {"x": ("FP32", (-1, PIXELS))}),
    "text": served("text", {"t": ("BYTES", (-1,))}, {"t": ("BYTES", (-1,))}),
}
ALIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


class Edge:
    """A running edge, what it was asked, and how often through ASGI."""

    def __init__(self, server: RunningServer, intake: ComputingIntake, statuses: list[int]) -> None:
        self.server = server
        self.intake = intake
        self.statuses = statuses
        self.through_asgi = 0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_S_MAX)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(lambda: self.server.on_loop(condition), what)


@pytest.fixture(name="edge")
def _edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    intake = ComputingIntake(SERVICES, lambda arrays: dict(list(arrays.items())[:1]), arena_bytes=1 << 25)
    statuses: list[int] = []
    settings = EdgeSettings(body_s_max=getattr(request, "param", WAIT_S_MAX), body_bytes_max=1 << 20)
    app = make_app(intake, settings=settings, on_status=lambda _, status: statuses.append(status))
    with running_server(app) as server:
        edge = Edge(server, intake, statuses)
        infer = EdgeApp._infer

        async def counted(*arguments: Any) -> None:
            edge.through_asgi += 1
            await infer(*arguments)

        monkeypatch.setattr(EdgeApp, "_infer", counted)
        yield edge
    assert intake.arena.bytes_used == 0
    assert app.inferences.bodies.buffered_bytes == 0
    intake.close()


def message(
    service: str, inputs: dict[str, np.ndarray[Any, Any]], *, head: str = "", order: tuple[str, ...] = ()
) -> bytes:
    """A binary request; the tensors come in `order`."""
    names = order or tuple(inputs)
    kinds = {"float32": "FP32", "int64": "INT64"}
    given = [
        {
            "name": name, "datatype": kinds[str(inputs[name].dtype)], "shape": inputs[name].shape,
            "parameters": {"binary_data_size": inputs[name].nbytes},
        }
        for name in names
    ]  # fmt: skip
    text = json.dumps({"inputs": given, "parameters": {"binary_data_output": True}}).encode()
    body = text + b"".join(inputs[name].tobytes() for name in names)
    return framed(service, body, f"Inference-Header-Content-Length: {len(text)}\r\n{head}")


def framed(service: str, body: bytes, head: str = "", length: int | None = None) -> bytes:
    """A request for inference, whose Content-Length may lie."""
    said = len(body) if length is None else length
    lines = f"POST /v2/models/{service}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {said}\r\n{head}\r\n"
    return lines.encode() + body


def row(*values: float) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.array([values], np.float32)}


def tensor(answer: tuple[int, dict[str, str], bytes]) -> list[float]:
    """The only output of a binary answer."""
    status, headers, body = answer
    assert status == 200, body
    found: list[float] = np.frombuffer(
        body, np.float32, offset=int(headers["inference-header-content-length"])
    ).tolist()
    return found


def test_a_request_in_one_piece_goes_past_asgi(edge: Edge) -> None:
    with edge.connect() as client, client.makefile("rb") as stream:
        for number in range(3):
            client.sendall(message("one", row(number, 2)))
            assert tensor(read_answer(stream)) == [number, 2]
    assert (edge.through_asgi, edge.statuses) == (0, [200, 200, 200])


def test_the_head_of_an_answer_is_that_of_other_answers(edge: Edge) -> None:
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(message("one", row(1, 2)))
        _, direct, _ = read_answer(stream)
        client.sendall(message("one", row(1, 2), head="Expect: 100-continue\r\n"))
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        stream.readline()
        _, asgi, _ = read_answer(stream)
    del direct["date"], asgi["date"]
    assert direct == asgi
    assert edge.through_asgi == 1


def test_bytes_one_by_one(edge: Edge) -> None:
    with edge.connect() as client, client.makefile("rb") as stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message("one", row(3, 4)):
            client.send(bytes((byte,)))
        assert tensor(read_answer(stream)) == [3, 4]


@pytest.mark.parametrize("sizes", [(1,), (100, 1), (7, 64)])
def test_a_body_byte_by_byte_after_a_whole_head(edge: Edge, sizes: tuple[int, ...]) -> None:
    """Its HTTP head is read first, so it is collected, or read into its place, in pieces of any size."""
    sent = message("one", row(3, 4))
    start = sent.index(b"\r\n\r\n") + 4
    with edge.connect() as client, client.makefile("rb") as stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(sent[:start])
        edge.wait_for(lambda: edge.server is not None, "the loop has turned")
        rest, at = sent[start:], 0
        while at < len(rest):
            for size in sizes:
                client.sendall(rest[at : at + size])
                at += size
        assert tensor(read_answer(stream)) == [3, 4]
    assert edge.through_asgi == 0


def test_large_tensors_are_read_into_their_places_in_any_order(edge: Edge) -> None:
    rng = np.random.default_rng(1)
    given: dict[str, np.ndarray[Any, Any]] = {
        "a": rng.standard_normal((4, 50_000), dtype=np.float32),
        "b": np.arange(4).reshape(4, 1),
    }
    with edge.connect() as client, client.makefile("rb") as stream:
        for order in (("a", "b"), ("b", "a")):
            sent = message("two", given, order=order)
            client.sendall(sent[:1000])  # the JSON, and a little of the first tensor
            edge.wait_for(lambda: edge.intake.arena.bytes_used > 0, "slots for a body that is not here")
            client.sendall(sent[1000:])
            assert tensor(read_answer(stream)) == given["a"].ravel().tolist()
            assert edge.intake.requests[-1].rows == 4
    assert edge.through_asgi == 0


def test_requests_one_after_another_without_waiting(edge: Edge) -> None:
    """Pipelined: answered in order, though the first one waits while the second is here."""
    edge.intake.held = True
    image = np.random.default_rng(2).standard_normal((1, PIXELS), dtype=np.float32)
    sent = [message("one", row(1, 1)), message("one", row(2, 2)), message("image", {"x": image})]
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(b"".join([*sent, ALIVE, message("one", row(3, 3))])[: 1 << 17])
        edge.wait_for(lambda: len(edge.intake.open) == 1, "the first request")
        edge.server.on_loop(lambda: setattr(edge.intake, "held", False))
        edge.server.on_loop(lambda: edge.intake.finish(next(iter(edge.intake.open))))
        client.sendall(b"".join([*sent, ALIVE, message("one", row(3, 3))])[1 << 17 :])
        assert tensor(read_answer(stream)) == [1, 1]
        assert tensor(read_answer(stream)) == [2, 2]
        assert tensor(read_answer(stream)) == image.ravel().tolist()
        assert read_answer(stream)[2] == b'{"live":true}'
        assert tensor(read_answer(stream)) == [3, 3]


def test_both_ways_on_one_connection(edge: Edge) -> None:
    """JSON, chunks and pages between direct requests, each in one piece and answered before the next."""
    text = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [7, 8]}]}
    ).encode()
    chunked = (
        b"POST /v2/models/one/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    )
    with edge.connect() as client, client.makefile("rb") as stream:
        for _ in range(3):
            client.sendall(message("one", row(5, 6)))
            assert tensor(read_answer(stream)) == [5, 6]
            client.sendall(framed("one", text))
            assert json.loads(read_answer(stream)[2])["outputs"][0]["data"] == [7, 8]
            client.sendall(chunked)
            assert json.loads(read_answer(stream)[2])["outputs"][0]["data"] == [7, 8]
            client.sendall(b"\r\n" + ALIVE)
            assert read_answer(stream)[0] == 200
    assert edge.through_asgi == 3  # the chunked ones


@pytest.mark.parametrize("cut", ["head", "json", "tensor", "place"])
def test_a_client_that_leaves_within_its_body(edge: Edge, cut: str) -> None:
    image = {"x": np.zeros((1, PIXELS), np.float32)}
    sent = message("image", image)
    start = sent.index(b"\r\n\r\n") + 4
    ends = {"head": start, "json": start + 20, "tensor": start + 300, "place": start + 200_000}
    with edge.connect() as client:
        client.sendall(sent[: ends[cut]])
        if cut in ("tensor", "place"):
            edge.wait_for(lambda: edge.intake.arena.bytes_used > 0, "its place")
    edge.wait_for(lambda: edge.statuses == [499], "its end")
    assert edge.server.on_loop(lambda: edge.intake.arena.bytes_used) == 0


def test_a_client_that_leaves_while_it_waits_is_cancelled(edge: Edge) -> None:
    edge.intake.held = True
    with edge.connect() as client:
        client.sendall(message("one", row(1, 2)))
        edge.wait_for(lambda: len(edge.intake.open) == 1, "the request")
    edge.wait_for(lambda: len(edge.intake.cancelled) == 1, "its cancellation")
    assert edge.statuses == [499]


@pytest.mark.parametrize("edge", [LIMIT_S], indirect=True)
def test_a_body_that_stops_is_408_and_the_connection_goes_on(edge: Edge) -> None:
    sent = message("image", {"x": np.ones((1, PIXELS), np.float32)})
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(sent[:100_000])
        status, _, body = read_answer(stream)
        assert (status, json.loads(body)) == (408, {"error": f"the body did not arrive within {LIMIT_S:g} s"})
        client.sendall(sent[100_000:] + message("one", row(1, 2)))  # what is left of it is discarded
        assert tensor(read_answer(stream)) == [1, 2]
    assert edge.statuses == [408, 200]


@pytest.mark.parametrize("edge", [LIMIT_S], indirect=True)
def test_a_refused_body_that_never_comes_ends_the_connection(edge: Edge) -> None:
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(framed("one", b"{", length=100))
        assert read_answer(stream)[0] == 408
        assert stream.read() == b""


def test_a_client_that_does_not_read_gets_no_second_answer(edge: Edge) -> None:
    """600 KB answers until the sockets are full: then the server reads no further request."""
    sent = message("image", {"x": np.ones((1, PIXELS), np.float32)})
    with edge.connect() as client, client.makefile("rb") as stream:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.settimeout(0.1)
        taken = 0
        while not edge.server.on_loop(is_any_unread):
            assert taken < 200 * len(sent)
            with contextlib.suppress(TimeoutError):
                taken += client.send(sent[taken % len(sent) :])
        answered = edge.server.on_loop(lambda: len(edge.statuses))
        with contextlib.suppress(TimeoutError):  # what the sockets still take is not read
            client.sendall((sent * 200)[taken % len(sent) :])
        assert 0 < answered == edge.server.on_loop(lambda: len(edge.statuses))
        client.settimeout(WAIT_S_MAX)
        for _ in range(answered):
            assert read_answer(stream)[0] == 200


@pytest.mark.parametrize(
    ("length", "head_length", "status"),
    [
        (-1, 0, 400),  # a byte less: what is left is no request
        (0, 5, 400),  # the JSON is said to be longer, or shorter, than it is
        (0, -5, 400),
        (0, 1 << 40, 413),  # more JSON than is taken
        (2 << 20, 0, 413),  # more than is taken at all
    ],
)
def test_lengths_that_lie(edge: Edge, length: int, head_length: int, status: int) -> None:
    sent = message("one", row(1, 2))
    head, _, body = sent.partition(b"\r\n\r\n")
    said = int(re.findall(rb"Inference-Header-Content-Length: (\d+)", head)[0])
    lying = framed(
        "one", body, f"Inference-Header-Content-Length: {said + head_length}\r\n", len(body) + length
    )
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(lying)
        assert read_answer(stream)[0] == status
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(sent)
        assert tensor(read_answer(stream)) == [1, 2]


def test_announcing_much_keeps_nobody_out(edge: Edge) -> None:
    """Of an arena of 32 MiB, bodies that do not come hold 4 MiB: six images; others are collected outside."""
    sent = message("image", {"x": np.ones((1, PIXELS), np.float32)})
    clients = [edge.connect() for _ in range(10)]
    try:
        for client in clients:
            client.sendall(sent[:2000])
        edge.wait_for(lambda: edge.intake.arena.bytes_used > 0, "their places")
        with edge.connect() as client, client.makefile("rb") as stream:
            client.sendall(sent)
            assert len(tensor(read_answer(stream))) == PIXELS
        assert edge.server.on_loop(lambda: edge.intake.arena.bytes_used) <= 6 << 20  # slots of 1 MiB
    finally:
        for client in clients:
            client.close()


def test_elements_of_text_are_walked_before_they_are_kept(edge: Edge) -> None:
    def text(data: bytes) -> bytes:
        given = {
            "name": "t",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"binary_data_size": len(data)},
        }
        head = json.dumps({"inputs": [given]}).encode()
        return framed("text", head + data, f"Inference-Header-Content-Length: {len(head)}\r\n")

    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(text(b"\x02\0\0\0ab"))
        assert json.loads(read_answer(stream)[2])["outputs"][0]["data"] == ["ab"]
        client.sendall(text(b"\x03\0\0\0ab"))
        assert read_answer(stream)[0] == 400
    assert edge.through_asgi == 0


def test_a_quiet_connection_is_closed_in_the_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the last answer, whichever way it was given."""
    with edge.connect() as client, client.makefile("rb") as stream:
        client.sendall(message("one", row(1, 2)))
        assert tensor(read_answer(stream)) == [1, 2]
        found = edge.server.on_loop(open_connections)
        assert len(found) == 1
        monkeypatch.setattr(found[0]._way, "rest_s_max", 0.05)
        edge.server.on_loop(found[0]._rested)
        assert stream.read() == b""


def is_any_unread() -> bool:
    """Whether a client has to read before more is written to it."""
    return any(one._is_unread for one in open_connections())


def open_connections() -> list[connection.Connection]:
    return [
        one
        for one in gc.get_objects()
        if isinstance(one, connection.Connection) and one in one._way.connections
    ]
