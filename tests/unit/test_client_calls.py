"""Both clients against a scripted server on a real socket: what they send, what they make of what comes."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

from steelyard.client import (
    Answer,
    AnswerError,
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceededError,
    InvalidInputError,
    ModelFailedError,
    NotFoundError,
    RejectedError,
    Retries,
    ShedError,
    UnavailableError,
)
from steelyard.client.http import Reply, ReplyReader
from steelyard.core.commands import NearestBounds
from steelyard.core.errors import InputError

X = np.arange(4, dtype=np.float32).reshape(1, 4)
AT_ONCE = Retries(backoff_s=0.0)


class Asked(NamedTuple):
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


Act = Callable[[socket.socket], bool]
"""Answers a request; whether the connection goes on."""


def reply(status: int, body: bytes, *headers: str) -> Act:
    """An answer, after which the connection stays."""

    def act(connection: socket.socket) -> bool:
        head = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}", *headers, "", ""]
        connection.sendall("\r\n".join(head).encode() + body)
        return True

    return act


def told(status: int, *headers: str, **value: object) -> Act:
    return reply(status, json.dumps(value).encode(), *headers)


def answered(*headers: str, **parameters: object) -> Act:
    """y = [7], in binary."""
    value = np.array([7], np.float32).tobytes()
    output = {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": len(value)}}
    head = json.dumps({"outputs": [output], "parameters": parameters, "id": "mine"}).encode()
    return reply(200, head + value, f"Inference-Header-Content-Length: {len(head)}", *headers)


def hang_up(_: socket.socket) -> bool:
    return False


def say_nothing(connection: socket.socket) -> bool:
    """Wait until the client leaves."""
    connection.recv(1)
    return False


def then_close(act: Act) -> Act:
    """Answer as if the connection stayed, and close it."""

    def both(connection: socket.socket) -> bool:
        act(connection)
        return False

    return both


class Scripted:
    """Does one act a request, in order, whichever connection it comes on; the last one for ever."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self._acts = list(acts)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[Asked] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with connection, _ignored():
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with _ignored():
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, _ignored(), connection.makefile("rb") as stream:
            while line := stream.readline():
                headers: dict[str, str] = {}
                while (text := stream.readline().decode().strip()) != "":
                    name, _, value = text.partition(": ")
                    headers[name] = value
                body = stream.read(int(headers.get("Content-Length", "0")))
                with self._lock:
                    self.asked.append(Asked(line.decode().strip(), headers, body))
                    act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
                if not act(connection):
                    connection.shutdown(socket.SHUT_RDWR)
                    return


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


@contextmanager
def scripted(*acts: Act) -> Iterator[Scripted]:
    server = Scripted(acts)
    try:
        yield server
    finally:
        server.close()


def from_thread(
    url: str, calls: int = 1, /, *, options: dict[str, Any] | None = None, **asked: Any
) -> Answer:
    with Client(url, **{"retries": AT_ONCE, **(options or {})}) as client:
        return [client.infer("m", {"x": X}, **asked) for _ in range(calls)][-1]


def from_loop(url: str, calls: int = 1, /, *, options: dict[str, Any] | None = None, **asked: Any) -> Answer:
    async def main() -> Answer:
        async with AsyncClient(url, **{"retries": AT_ONCE, **(options or {})}) as client:
            return [await client.infer("m", {"x": X}, **asked) for _ in range(calls)][-1]

    return asyncio.run(main())


@pytest.fixture(params=[from_thread, from_loop], ids=["threads", "asyncio"])
def infer(request: pytest.FixtureRequest) -> Callable[..., Answer]:
    found: Callable[..., Answer] = request.param
    return found


def test_an_answer_says_what_the_server_said(infer: Callable[..., Answer]) -> None:
    act = answered(
        variant="small",
        variants="detect:small,read:big",
        variant_rows="detect:small=3,detect:tiny=1",
        accuracy=0.9,
        accuracy_measured=True,
        queue_ms=1.5,
        service_ms=2.5,
        core_ms=3.5,
        bounds_missed="max_core_ms",
    )
    with scripted(act) as server:
        answer = infer(server.url, request_id="mine", outputs=["y"])
    assert answer.outputs.keys() == {"y"}
    assert answer.outputs["y"].tolist() == [7.0]
    assert answer._replace(outputs={}) == Answer(
        {}, "small", {"detect": "small", "read": "big"}, 0.9, True, 1.5, 2.5, 3.5, ("max_core_ms",), "mine",
        1, {"detect": {"small": 3, "tiny": 1}},
    )  # fmt: skip
    (asked,) = server.asked
    head = json.loads(asked.body[: int(asked.headers["Inference-Header-Content-Length"])])
    assert asked.line == "POST /v2/models/m/infer HTTP/1.1"
    assert asked.body.endswith(X.tobytes())
    assert (head["id"], head["outputs"]) == ("mine", [{"name": "y"}])


def test_bounds_travel_as_headers_and_the_time_that_is_left_with_them(infer: Callable[..., Answer]) -> None:
    with scripted(answered()) as server:
        infer(server.url, max_latency_ms=900, min_accuracy=0.5, max_core_ms=20, slo_class="gold")
        infer(server.url, timeout_s=40)
        infer(server.url, options={"timeout_s": None})
    bounded, timed, free = (asked.headers for asked in server.asked)
    assert (bounded["Steelyard-Min-Accuracy"], bounded["Steelyard-Max-Core-Ms"]) == ("0.5", "20")
    assert bounded["Steelyard-Slo-Class"] == "gold"
    assert 0 < float(bounded["Steelyard-Max-Latency-Ms"]) <= 900
    assert 900 < float(timed["Steelyard-Max-Latency-Ms"]) <= 40_000
    assert "Steelyard-Max-Latency-Ms" not in free


def test_bounds_may_be_numbers_of_numpys(infer: Callable[..., Answer]) -> None:
    with scripted(answered()) as server:
        infer(server.url, min_accuracy=np.float64(0.7), max_core_ms=np.float32(2.5))
        with pytest.raises(InvalidInputError, match=r"^max_core_ms: want a number, got 'few'$"):
            infer(server.url, max_core_ms="few")
    (asked,) = server.asked
    assert (asked.headers["Steelyard-Min-Accuracy"], asked.headers["Steelyard-Max-Core-Ms"]) == ("0.7", "2.5")


def test_what_is_no_array_is_no_tensor() -> None:
    text = r"^a tensor has to be a numpy array, not list$"
    with Client("localhost") as client, pytest.raises(InvalidInputError, match=text):
        client.infer("m", {"x": [[1.0, 2.0]]})  # type: ignore[dict-item]


def test_an_answer_may_be_announced() -> None:
    reader = ReplyReader()
    assert reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n") is None
    assert reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n") is None
    assert reader.feed(b"{}") == Reply(200, {b"content-length": b"2"}, b"{}")


@pytest.mark.parametrize(
    "behind", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 4\r\n\r\nlate", b"HTTP/1.1 4", b"?"]
)
def test_what_comes_behind_an_answer_is_left_out_and_ends_the_connection(behind: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    headers = {b"content-length": b"3"}
    assert ReplyReader().feed(answer) == Reply(200, headers, b"abc", is_last=False)
    assert ReplyReader().feed(answer + behind) == Reply(200, headers, b"abc", is_last=True)


def test_connections_are_reused(infer: Callable[..., Answer]) -> None:
    with scripted(answered()) as server:
        infer(server.url, 5)
    assert (len(server.asked), server.connections) == (5, 1)


def test_a_connection_that_the_server_closed_while_idle_is_no_failure(infer: Callable[..., Answer]) -> None:
    with scripted(then_close(answered())) as server:
        answer = infer(server.url, 3, options={"retries": Retries(attempts_max=1)})
    assert (answer.attempts, server.connections) == (1, 3)


def test_what_comes_unasked_is_not_taken_for_the_next_answer() -> None:
    go, sent = threading.Event(), threading.Event()

    def speak_again(connection: socket.socket) -> bool:
        answered()(connection)
        assert go.wait(10)
        reply(404, b"{}")(connection)
        sent.set()
        return True

    with scripted(speak_again, answered()) as server, Client(server.url) as client:
        client.infer("m", {"x": X})
        go.set()
        assert sent.wait(10)
        assert client.infer("m", {"x": X}).outputs["y"] == [7]
        assert server.connections == 2


def test_a_connection_that_the_server_announces_to_close_is_not_reused(infer: Callable[..., Answer]) -> None:
    with scripted(answered("Connection: close")) as server:
        infer(server.url, 2)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("act", "kind", "reason", "retry_after_s"),
    [
        (told(400, error="no"), InvalidInputError, "", None),
        (told(413, error="no"), InvalidInputError, "", None),
        (told(404, error="no", reason="unloaded"), NotFoundError, "unloaded", None),
        (told(500, error="no", reason="model_error"), ModelFailedError, "model_error", None),
        (told(501, error="no"), AnswerError, "", None),
        (told(503, error="no", reason="deadline", retry_after_ms=1500), RejectedError, "deadline", 1.5),
        (told(429, "Retry-After: 2", error="no", reason="queue_full"), RejectedError, "queue_full", 2.0),
        (told(503, error="no", reason="deadline", shed=True), ShedError, "deadline", None),
        (told(503, error="no", reason="early"), ShedError, "early", None),
        (told(503, "Retry-After: 1", error="no", reason="draining"), UnavailableError, "draining", 1.0),
        (reply(502, b"<html>\nBad gateway"), UnavailableError, "", None),
        (reply(200, b"nonsense"), AnswerError, "", None),
        (reply(200, b"nonsense", "Inference-Header-Content-Length: x"), AnswerError, "", None),
    ],
)
def test_every_refusal_has_its_type(
    infer: Callable[..., Answer], act: Act, kind: type[ClientError], reason: str, retry_after_s: float | None
) -> None:
    with scripted(act) as server, pytest.raises(ClientError) as raised:
        infer(server.url, options={"retries": Retries(attempts_max=1)})
    assert type(raised.value) is kind
    assert (raised.value.reason, raised.value.retry_after_s) == (reason, retry_after_s)
    assert "\n" not in str(raised.value)


def test_impossible_bounds_come_with_the_nearest_and_are_not_retried(infer: Callable[..., Answer]) -> None:
    act = told(400, "Retry-After: 1", error="no", reason="bounds", nearest={"max_core_ms": 12.5})
    with scripted(act) as server, pytest.raises(RejectedError) as raised:
        infer(server.url, max_core_ms=1)
    assert raised.value.nearest == NearestBounds(max_core_ms=12.5)
    assert len(server.asked) == 1


def test_a_deadline_that_no_server_could_keep_comes_with_the_nearest_and_is_not_retried(
    infer: Callable[..., Answer],
) -> None:
    """A refusal for the moment's load has the same reason, but nothing nearest; it is retried, below."""
    act = told(503, error="no", reason="deadline", nearest={"max_latency_ms": 31.5})
    with scripted(act) as server, pytest.raises(RejectedError) as raised:
        infer(server.url, max_latency_ms=20_000)
    assert raised.value.nearest == NearestBounds(max_latency_ms=31.5)
    assert len(server.asked) == 1


def test_a_refusal_is_retried_and_says_what_is_left(infer: Callable[..., Answer]) -> None:
    refused = told(503, error="no", reason="deadline", retry_after_ms=30)
    with scripted(refused, refused, answered()) as server:
        answer = infer(server.url, max_latency_ms=20_000)
    left_ms = [float(asked.headers["Steelyard-Max-Latency-Ms"]) for asked in server.asked]
    assert answer.attempts == 3
    assert left_ms[0] - left_ms[1] >= 30  # the server said when, and time passed
    assert left_ms[1] - left_ms[2] >= 30
    assert len({asked.body for asked in server.asked}) == 1


def test_a_refusal_is_not_retried_when_the_deadline_would_be_over(infer: Callable[..., Answer]) -> None:
    refused = told(503, error="no", reason="deadline", retry_after_ms=30_000)
    with scripted(refused) as server, pytest.raises(RejectedError):
        infer(server.url, max_latency_ms=20_000)
    assert len(server.asked) == 1


def test_a_lost_connection_is_retried_until_attempts_are_spent(infer: Callable[..., Answer]) -> None:
    with scripted(hang_up, answered()) as server:
        assert infer(server.url).attempts == 2
    with scripted(hang_up) as server, pytest.raises(UnavailableError, match="closed the connection"):
        infer(server.url)
    assert len(server.asked) == AT_ONCE.attempts_max


def test_nobody_there_is_unavailable(infer: Callable[..., Answer]) -> None:
    with socket.socket() as bound:  # which does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError):
            infer(f"127.0.0.1:{bound.getsockname()[1]}")


def test_silence_ends_at_the_deadline_and_leaves_no_connection(infer: Callable[..., Answer]) -> None:
    with scripted(say_nothing) as server, pytest.raises(DeadlineExceededError, match="in time"):
        infer(server.url, timeout_s=0.5)
    assert len(server.asked) == 1


def test_an_answer_later_than_its_bound_is_still_an_answer(infer: Callable[..., Answer]) -> None:
    def late(connection: socket.socket) -> bool:
        over.wait(0.06)  # more than the bound
        return answered(bounds_missed="max_latency_ms")(connection)

    over = threading.Event()
    with scripted(late) as server:
        assert infer(server.url, max_latency_ms=30).bounds_missed == ("max_latency_ms",)


def test_a_trickle_does_not_outlive_the_deadline(infer: Callable[..., Answer]) -> None:
    over = threading.Event()

    def trickle(connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not over.wait(0.01):
            connection.sendall(b"x")
        return False

    with scripted(trickle) as server:
        with pytest.raises(DeadlineExceededError):
            infer(server.url, timeout_s=0.1)
        over.set()


def test_what_the_protocol_cannot_carry_is_never_sent(infer: Callable[..., Answer]) -> None:
    with scripted(answered()) as server:
        with pytest.raises(InvalidInputError, match="takes printable ASCII text"):
            infer(server.url, slo_class="a\r\nHost: b")
        with pytest.raises(InvalidInputError, match="want a number > 0"):
            infer(server.url, max_latency_ms=0)
        with Client(server.url) as client, pytest.raises(InvalidInputError, match="no counterpart"):
            client.infer("m", {"x": np.zeros(1, np.complex64)})
    assert server.asked == []


def test_a_cancelled_call_hangs_up() -> None:
    left = threading.Event()

    def note_the_end(connection: socket.socket) -> bool:
        if connection.recv(1) == b"":
            left.set()
        return False

    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            call = asyncio.create_task(client.infer("m", {"x": X}))
            while not server.asked:
                await asyncio.sleep(0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    with scripted(note_the_end) as server:
        asyncio.run(main(server.url))
        assert left.wait(60)


def test_connections_have_a_limit_that_calls_wait_for() -> None:
    with scripted(answered()) as server, Client(server.url, connections_max=2) as client:
        threads = [threading.Thread(target=client.infer, args=("m", {"x": X})) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert len(server.asked) == 8
    assert server.connections <= 2


def test_pages_as_values() -> None:
    described = {
        "name": "m",
        "platform": "python",
        "versions": ["1"],
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [],
    }
    acts = [told(200, **described), told(200, model_stats=[{"name": "m"}]), told(503, ready=False), told(200)]
    with scripted(*acts) as server, Client(server.url) as client:
        metadata = client.metadata("m")
        assert metadata.inputs[0].shape == (-1, 4)
        assert client.statistics("m") == [{"name": "m"}]
        assert (client.is_ready("m"), client.is_ready()) == (False, True)
    paths = [asked.line.split()[1] for asked in server.asked]
    assert paths == ["/v2/models/m", "/v2/models/m/stats", "/v2/models/m/ready", "/v2/health/ready"]


def test_a_closed_client_says_so() -> None:
    client = Client("localhost:1")
    client.close()
    with pytest.raises(ClientError, match="the client is closed"):
        client.infer("m", {"x": X})


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "http://a..b"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no URL of a server"):
        Client(url)


def test_settings_out_of_range_are_refused() -> None:
    for options in ({"connections_max": 0}, {"retries": Retries(attempts_max=0)}):
        with pytest.raises(InputError, match="want at least 1"):
            Client(**options)


BIG = {"x": np.zeros(1 << 17, np.float32)}
"""Large enough for shared memory."""


def test_a_server_that_takes_no_shared_memory_says_so_at_once() -> None:
    refused = told(400, error="shared memory is only for clients on the server's host")
    with (
        scripted(refused) as server,
        Client(server.url, shared_memory=True) as client,
        pytest.raises(InvalidInputError, match="only for clients on the server's host"),
    ):
        client.infer("m", BIG)
    assert [asked.line.split("/")[-2].split()[0] for asked in server.asked] == ["register"]


def test_where_the_server_has_no_room_for_a_region_the_socket_will_do() -> None:
    full = told(503, error="256 shared memory regions are registered, which is the limit")
    with (
        scripted(full, answered(), full, answered()) as server,
        Client(server.url, shared_memory=True) as client,
    ):
        for _ in range(2):
            assert client.infer("m", BIG).outputs["y"].tolist() == [7.0]
        verbs = [asked.line.split()[1].split("/")[-1] for asked in server.asked]
    assert verbs == ["register", "infer"] * 2


def test_a_region_without_an_answer_is_not_used_again() -> None:
    acts = [told(200), say_nothing, told(200), told(200), answered(), told(200)]
    with scripted(*acts) as server:
        with Client(server.url, shared_memory=True) as client:
            with pytest.raises(DeadlineExceededError):
                client.infer("m", BIG, timeout_s=0.05)
            assert client.infer("m", BIG).outputs["y"].tolist() == [7.0]
        paths = [asked.line.split()[1].split("/") for asked in server.asked]
    (first, second) = [path[-2] for path in paths if path[-1] == "register"]
    assert first != second
    assert [f"{path[-2]} {path[-1]}" for path in paths] == [
        f"{first} register",
        "m infer",
        f"{first} unregister",  # at the next occasion
        f"{second} register",
        "m infer",
        f"{second} unregister",
    ]


def test_closing_does_not_wait_for_a_server_that_is_gone() -> None:
    with scripted(told(200), answered()) as server:
        client = Client(server.url, shared_memory=True)
        client.infer("m", BIG)
    client.close()


def test_a_refused_input_is_sent_again_without_its_region_which_is_given_up() -> None:
    refused = told(400, error="x has another shape")
    with scripted(told(200), refused, refused, told(200)) as server:
        with (
            Client(server.url, shared_memory=True) as client,
            pytest.raises(InvalidInputError, match="x has another shape"),
        ):
            client.infer("m", BIG)
        verbs = [asked.line.split()[1].split("/")[-1] for asked in server.asked]
        sizes = [len(asked.body) > BIG["x"].nbytes for asked in server.asked]
    assert verbs == ["register", "infer", "infer", "unregister"]
    assert sizes == [False, False, True, False]
