"""The Open Inference Protocol over real sockets: uvicorn on uvloop, tritonclient in a process of its own."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings, ListenError, make_app, serve_http
from steelyard.testing.http import RunningServer, running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, wait_until

pytestmark = pytest.mark.slow

WEIGHTS = np.random.default_rng(5).standard_normal((784, 10), dtype=np.float32)
SERVICES = {
    "mlp": served("mlp", {"x": ("FP32", (-1, 784))}, {"y": ("FP32", (-1, 10))}),
    "all": served(
        "all",
        {"h": ("FP16", (-1, 2)), "s": ("BYTES", (-1, 1)), "b": ("BOOL", (-1, -1)), "i": ("INT64", (-1, -1))},
        {"h": ("FP16", (-1, 2)), "s": ("BYTES", (-1, 1)), "b": ("BOOL", (-1, -1)), "i": ("INT64", (-1, -1))},
    ),
}
CLIENT = """
import sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
weights = np.random.default_rng(5).standard_normal((784, 10), dtype=np.float32)


def tensor(name, array, dtype, binary=True):
    given = triton.InferInput(name, list(array.shape), dtype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given

"""


def model(arrays: Any) -> Any:
    return {"y": arrays["x"] @ WEIGHTS} if "x" in arrays else arrays


@pytest.fixture(name="intake")
def _intake() -> Iterator[ComputingIntake]:
    intake = ComputingIntake(SERVICES, model)
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


@pytest.fixture(name="server")
def _server(intake: ComputingIntake) -> Iterator[RunningServer]:
    with running_server(make_app(intake, settings=EdgeSettings(body_bytes_max=1 << 20))) as server:
        yield server


def run_client(server: RunningServer, script: str) -> str:
    """Run a tritonclient script in a process of its own; what it printed."""
    code = CLIENT + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(server.port)],
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def post(
    server: RunningServer,
    body: Any,
    headers: dict[str, str] | None = None,
    path: str = "/v2/models/mlp/infer",
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
    try:
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_tritonclient_infers_with_binary_and_json_tensors_of_1_3_and_8_rows(server: RunningServer) -> None:
    run_client(
        server,
        """
        for rows in (1, 3, 8):
            x = np.random.default_rng(rows).standard_normal((rows, 784), dtype=np.float32)
            for binary in (True, False):
                given = [tensor("x", x, "FP32", binary)]
                for wanted in (None, True, False):
                    asked = None
                    if wanted is not None:
                        asked = [triton.InferRequestedOutput("y", binary_data=wanted)]
                    answer = client.infer("mlp", given, outputs=asked, request_id="r1")
                    y, head = answer.as_numpy("y"), answer.get_response()
                    assert y.dtype == np.float32 and np.array_equal(y, x @ weights)
                    assert (head["model_name"], head["model_version"], head["id"]) == ("mlp", "1", "r1")
                    assert {"variant", "queue_ms", "service_ms"} <= set(head["parameters"])
        """,
    )


def test_tritonclient_asks_for_health_and_metadata(server: RunningServer, intake: ComputingIntake) -> None:
    run_client(
        server,
        """
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("mlp") and client.is_model_ready("mlp", "1")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("mlp")
        assert metadata["versions"] == ["1"]
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 784]}]
        """,
    )
    intake.ready = False
    run_client(server, "assert not client.is_server_ready() and not client.is_model_ready('mlp')")


def test_tritonclient_with_every_form_of_tensor(server: RunningServer) -> None:
    run_client(
        server,
        """
        h = np.array([[1.5, np.inf], [-0.0, 6e-8]], dtype=np.float16)
        s = np.array([[b"\\xff\\x00raw"], [b""]], dtype=object)
        b = np.array([[True, False, True], [False, True, False]])
        i = np.zeros((2, 0), dtype=np.int64)
        inputs = [
            tensor("h", h, "FP16"),
            tensor("b", b, "BOOL", binary=False),
            tensor("s", s, "BYTES"),
            tensor("i", i, "INT64"),
        ]
        for coding in (None, "gzip", "deflate"):
            answer = client.infer(
                "all", inputs, request_compression_algorithm=coding, response_compression_algorithm=coding
            )
            assert answer.as_numpy("h").tobytes() == h.tobytes()
            assert answer.as_numpy("s").tolist() == s.tolist()
            assert np.array_equal(answer.as_numpy("b"), b)
            assert answer.as_numpy("i").shape == (2, 0)
        """,
    )


def test_tritonclient_sees_errors_as_it_expects_them(server: RunningServer) -> None:
    printed = run_client(
        server,
        """
        x = np.zeros((1, 784), dtype=np.float32)
        for name, shape, service in (("x", (1, 784), "mpl"), ("z", (1, 784), "mlp"), ("x", (1, 783), "mlp")):
            try:
                client.infer(service, [tensor(name, np.zeros(shape, dtype=np.float32), "FP32")])
            except InferenceServerException as error:
                print(error.status(), error.message())
        try:
            client.infer("mlp", [tensor("x", np.zeros((400, 784), dtype=np.float32), "FP32")])
        except InferenceServerException as error:
            print(error.status(), error.message())
        client.infer("mlp", [tensor("x", x, "FP32")])  # the connection is good for more
        """,
    )
    assert printed.splitlines() == [
        "404 unknown model 'mpl'; known models: 'mlp', 'all'",
        "400 unknown input 'z': service 'mlp' takes 'x'",
        "400 input 'x' has shape [1, 783]; [-1, 784] was expected",
        "413 the body is over the limit of 1048576 bytes",
    ]


def test_chunked_bodies_and_quoted_names(server: RunningServer) -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 784], "data": [0] * 784}]}
    ).encode()
    pieces = iter([body[:10], body[10:600], body[600:]])
    status, answer = post(server, pieces, path="/v2/models/m%6Cp/infer")
    assert (status, answer["outputs"][0]["data"]) == (200, [0.0] * 10)


def test_a_chunked_body_over_the_limit_is_413(server: RunningServer) -> None:
    status, answer = post(server, (bytes(1 << 16) for _ in range(20)))
    assert (status, answer) == (413, {"error": "the body is over the limit of 1048576 bytes"})


def test_a_client_that_hangs_up_cancels_its_request(server: RunningServer, intake: ComputingIntake) -> None:
    intake.held = True
    body = np.zeros((1, 784), np.float32).tobytes()
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX) as client:
        head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Inference-Header-Content-Length: 0\r\n\r\n" + body)
        wait_until(lambda: server.on_loop(lambda: len(intake.open)) == 1, "the request")
    wait_until(lambda: server.on_loop(lambda: len(intake.cancelled)) == 1, "its cancellation")
    assert not intake.open


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    request = (
        b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
        b"GET /v2/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX) as client:
        client.sendall(request)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400", b"200"]


def test_stopping_answers_what_came_in(intake: ComputingIntake) -> None:
    """A request in flight when the server stops is answered, and the port is free afterwards."""
    intake.held = True
    result: list[tuple[int, Any]] = []
    raw = np.ones((1, 784), np.float32).tobytes()
    with running_server(make_app(intake)) as server:
        thread = threading.Thread(
            target=lambda: result.append(post_raw(server, raw)), name="client in flight"
        )
        thread.start()
        wait_until(lambda: server.on_loop(lambda: len(intake.open)) == 1, "the request")

        def finish_later() -> None:
            request_id = next(iter(intake.open))
            threading.Timer(0.3, lambda: server.on_loop(lambda: intake.finish(request_id))).start()

        server.on_loop(finish_later)
    thread.join(WAIT_S_MAX)
    assert [status for status, _ in result] == [200]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX)


def test_a_request_on_its_way_over_a_kept_connection_is_answered_while_stopping(
    intake: ComputingIntake,
) -> None:
    """The listener accepts no more when the request is sent; its answer says that the connection ends."""
    connection: http.client.HTTPConnection | None = None
    answered: list[tuple[int, str | None]] = []

    def ask(port: int) -> None:
        assert connection is not None
        wait_until(lambda: not accepts(port), "the listener accepts no more")
        connection.request("GET", "/v2/health/live")
        answer = connection.getresponse()
        answered.append((answer.status, answer.headers["connection"]))
        answer.read()
        connection.close()

    with running_server(make_app(intake), linger_s=WAIT_S_MAX) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        thread = threading.Thread(target=ask, args=(server.port,), name="late client")
        thread.start()
    thread.join(WAIT_S_MAX)
    assert answered == [(200, "close")]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S_MAX).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        pass  # the listener was closed in the middle of it: the next one is refused
    return True


NASTY = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20) + b"\r\n\r\n",
    "no path": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a proxy's verb": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no ASCII": b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "half an escape": b"GET /v2/models/%f HTTP/1.1\r\nHost: a\r\n\r\n",
    "an escape that is no UTF-8": b"GET /v2/models/%ff%0a HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /v2 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "bad chunk": b"POST /v2/models/mlp/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an endless header": b"GET /v2 HTTP/1.1\r\nX: " + b"x" * (3 << 20),
    "an endless path": b"GET /" + b"x" * (3 << 20),
}


@pytest.mark.parametrize("sent", NASTY.values(), ids=NASTY.keys())
def test_nasty_bytes_get_4xx_and_harm_nobody(server: RunningServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX) as client:
        with contextlib.suppress(OSError):  # it need not be read to its end: reset, or no longer connected
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            answer = client.recv(1 << 16)
            assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert post(server, b"{}")[0] == 400


def test_what_is_no_http_is_told_so_in_json(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S_MAX) as client:
        client.sendall(b"BREW /v2 HTTP/1.1\r\n\r\n")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        found = answer.status, answer.headers["content-type"], answer.headers["connection"], answer.read()
    text = b'{"error":"Invalid HTTP request received."}'
    assert found == (400, "application/json", "close", text)


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/models/mlp"])
def test_head_is_get_without_a_body(server: RunningServer, path: str) -> None:
    """Load balancers ask so whether a server is there."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
    answers = []
    try:
        for verb in ("GET", "HEAD", "DELETE"):
            connection.request(verb, path)
            answer = connection.getresponse()
            answers.append((answer.status, len(answer.read()), answer.headers["content-length"]))
        assert answer.headers["allow"] == "GET, HEAD"
    finally:
        connection.close()
    (ok, size, length), head, (refused, _, _) = answers
    assert (ok, refused, length, head) == (200, 405, str(size), (200, 0, str(size)))


def post_raw(server: RunningServer, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S_MAX)
    try:
        connection.request("POST", "/v2/models/mlp/infer", body, {"Inference-Header-Content-Length": "0"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_taken_port_is_one_clear_line(server: RunningServer, intake: ComputingIntake) -> None:
    with pytest.raises(
        ListenError, match=rf"^cannot listen on 127.0.0.1:{server.port}: Address already in use$"
    ):
        asyncio.run(serve_http(make_app(intake), "127.0.0.1", server.port))
    with pytest.raises(ListenError, match=r"^cannot listen on no\.such\.host\.invalid:1: "):
        asyncio.run(serve_http(make_app(intake), "no.such.host.invalid", 1))
