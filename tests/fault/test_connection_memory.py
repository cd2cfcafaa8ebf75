"""What a connection takes of the server's memory: a few kilobytes, nothing more by request, and given back.

A long run's memory rises with the connections that its clients open, and by nothing else: a generator that
finds all of its connections busy opens another, and both ends keep it.
"""

import gc
import http.client
import json
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from steelyard.serve.edge import make_app
from steelyard.serve.edge.connection import Connection
from steelyard.testing.http import RunningServer, running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import wait_until

pytestmark = pytest.mark.slow

CONNECTIONS, REQUESTS = 60, 500
SECONDS_MAX = 60.0
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
PATH = "/v2/models/x/infer"


@pytest.fixture(name="server")
def _server() -> Iterator[RunningServer]:
    tensors = {"x": ("FP32", (-1, 2))}
    intake = ComputingIntake({"x": served("x", tensors, tensors)}, lambda arrays: arrays)
    with running_server(make_app(intake)) as server:
        yield server
    intake.close()


@pytest.fixture(name="traced")
def _traced() -> Iterator[Callable[[], int]]:
    def bytes_now() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start(1)
    yield bytes_now
    tracemalloc.stop()


def crowd(server: RunningServer) -> list[http.client.HTTPConnection]:
    """Open connections, each of which has had one request answered."""
    found = []
    for _ in range(CONNECTIONS):
        found.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS_MAX))
        ask(found[-1])
    return found


def ask(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", PATH, BODY)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


def close(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def test_memory_follows_the_connections_and_not_the_requests(
    server: RunningServer, traced: Callable[[], int]
) -> None:
    close(crowd(server))  # what is made once: caches, lazy imports
    before = settled(traced)
    connections = crowd(server)
    open_ = traced()
    assert len(served_connections()) == CONNECTIONS
    # Measured: 7 KB, the client's side of it included.
    assert (open_ - before) / CONNECTIONS < 16_384
    for index in range(REQUESTS):
        ask(connections[index % CONNECTIONS])
    assert traced() - open_ < 100 * REQUESTS  # a hundred bytes a request would be an object that stays
    close(connections)
    # Less than one in ten of them has stayed.
    assert settled(traced) <= before + (open_ - before) // 10


def settled(traced: Callable[[], int]) -> int:
    """Bytes once the server has let go of all of its connections."""
    wait_until(lambda: not served_connections(), "the server to let its connections go")
    return traced()


def served_connections() -> list[object]:
    """The server's side of those that are open, or kept for no reason."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Connection]
