"""The generator of the comparison, against a server of a few lines: nothing is skipped or flattered."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from peers.generator import Gauge, HttpShooter, measured, poisson
from peers.stalls import Stalls
from peers.wire import post

from steelyard.load.result import CONNECTION, OK, OVERRUN, Outcomes, Seconds

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REQUEST = post("/", b"x" * 1000, {})


def converse(connection: socket.socket, answers: list[bytes], each: int) -> None:
    """Answer `each` whole requests on a connection, then close it; callers may leave at any moment."""
    with connection, contextlib.suppress(ConnectionError):
        for _ in range(each):
            left = len(REQUEST)
            while left:
                data = connection.recv(left)
                if not data:
                    return
                left -= len(data)
            connection.sendall(answers.pop(0) if len(answers) > 1 else answers[0])


@contextmanager
def server(*answers: bytes, each: int = 1_000_000) -> Iterator[tuple[str, int]]:
    """Answers in this order, the last one for ever; a thread a connection."""
    left, threads = list(answers), list[threading.Thread]()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=converse, args=(connection, left, each)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for thread in threads:
        thread.join()


def closed(shooter: HttpShooter) -> None:
    """Close what it keeps, so that no socket outlives its test."""
    for connection in [*shooter._idle, *shooter._busy]:
        connection.socket.close()


def offered(shooter: HttpShooter, at_s: Seconds) -> Outcomes:
    """An open-loop run on a machine that never stalls, hopeless once a hundredth is later than 10 s."""
    start_s = time.perf_counter()
    return shooter.open(at_s, start_s, Gauge(len(at_s), 10.0, Stalls([], start_s)))


def test_every_request_is_answered_and_timed_from_when_it_was_due() -> None:
    with server(ANSWER) as address:
        shooter = HttpShooter(address, [REQUEST])
        outcomes = offered(shooter, np.linspace(0.0, 0.1, 40))
        closed(shooter)
    assert (outcomes.status == OK).all()
    assert (outcomes.latency_s >= outcomes.lateness_s).all()
    assert (outcomes.lateness_s >= 0).all()


def test_a_refusal_is_infinitely_late() -> None:
    with server(REFUSAL) as address:
        shooter = HttpShooter(address, [REQUEST])
        found = measured(offered(shooter, np.linspace(0.0, 0.02, 10)), 0.02, np.full(10, True))
        closed(shooter)
    assert found["p99_ms"] is None
    assert set(found["errors"]) <= {"503", "overrun", "timeout"}  # given up at the first


def test_connections_that_the_server_closed_are_replaced() -> None:
    with server(ANSWER, each=1) as address:  # each connection is good for one request
        shooter = HttpShooter(address, [REQUEST])
        outcomes = offered(shooter, np.linspace(0.0, 0.3, 60))
        closed(shooter)
    assert (outcomes.status == OK).all()


def test_nobody_there_is_an_error_of_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    outcomes = offered(HttpShooter(address, [REQUEST]), np.array([0.0, 0.001]))
    assert set(outcomes.status.tolist()) <= {OVERRUN, CONNECTION}


def test_a_closed_loop_counts_answers() -> None:
    with server(ANSWER) as address:
        shooter = HttpShooter(address, [REQUEST])
        answered, refused = shooter.closed(4, 0.2)
        closed(shooter)
    assert answered > 4
    assert refused == 0


def test_a_closed_loop_waits_before_it_asks_again_whoever_refused() -> None:
    with server(REFUSAL) as address:
        shooter = HttpShooter(address, [REQUEST])
        answered, refused = shooter.closed(2, 0.2)
        closed(shooter)
    assert answered == 0
    assert 2 <= refused <= 22  # two callers, a pause of 20 ms after each refusal


@pytest.mark.parametrize(("offered", "bad"), [(100, 2), (50, 1), (1000, 11)])
def test_hope_ends_with_the_request_that_breaks_the_p99(offered: int, bad: int) -> None:
    """Of 100 requests the 99th counts: one may be late, the second decides; of 50, the 50th does."""
    gauge = Gauge(offered, 0.1, Stalls([], 0.0))
    notes = [gauge.note(OK, 0.2, 0.0) for _ in range(bad)]
    assert notes == [True] * (bad - 1) + [False]


def test_what_a_stall_spoils_does_not_count(tmp_path: Path) -> None:
    """Ten requests in a spoilt slice are late, ninety in others are not: p99 is that of the ninety."""
    due_s = np.concatenate([np.full(10, 0.1), np.linspace(0.6, 0.9, 90)])
    outcomes = Outcomes(due_s, np.full(100, np.inf))
    outcomes.status[:], outcomes.lateness_s[:] = OK, 0.0
    outcomes.latency_s[:] = np.where(due_s < 0.5, 0.3, 0.01)
    file = tmp_path / "core"
    file.touch()
    stalls = Stalls([file], 0.0)
    gauge = Gauge(100, 0.1, stalls)
    file.write_bytes(struct.pack("dd", 0.15, 0.1))
    assert all(
        gauge.note(OK, latency_s, at_s) for latency_s, at_s in zip(outcomes.latency_s, due_s, strict=True)
    )
    found = measured(outcomes, 1.0, stalls.counted(due_s))
    assert (found["p99_ms"], found["counted"], found["offered"], found["void"]) == (10.0, 0.9, 90, False)
    assert measured(outcomes, 1.0, np.arange(100) < 20)["void"]  # too little counts


def test_arrivals_are_as_many_as_wanted() -> None:
    at_s = poisson(1000.0, 10.0, 1)
    assert len(at_s) == pytest.approx(10_000, abs=400)  # four standard deviations of 100
    assert at_s[0] >= 0
    assert (np.diff(at_s) >= 0).all()
    assert at_s[-1] < 10.0
