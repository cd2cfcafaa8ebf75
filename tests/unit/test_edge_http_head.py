"""HTTP heads that are taken past the HTTP server, and what is kept of them."""

import json

import pytest

from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.http_head import (
    HEAD_BYTES_MAX,
    HEADS_MAX,
    LAYOUTS_MAX,
    InferHead,
    InferHeads,
)
from steelyard.testing.intake import served

PATH = "/v2/models/m/infer"
ROUTE = Route(served("m", {"x": ("FP32", (-1, 2)), "k": ("INT64", (-1, 1))}, {"y": ("FP32", (-1, 2))}))
TEXT = Route(served("t", {"t": ("BYTES", (-1,))}, {"t": ("BYTES", (-1,))}))


@pytest.fixture(name="heads")
def _heads() -> InferHeads:
    return InferHeads({PATH: ROUTE, "/v2/models/a b/infer": ROUTE}, 1000)


def http(*lines: str, first: str = f"POST {PATH} HTTP/1.1", length: str = "80") -> bytes:
    return "\r\n".join([first, "Host: a", f"Content-Length: {length}", *lines, "", ""]).encode("latin-1")


def asking(names: str = "xk", *, rows: int = 2, **more: object) -> bytes:
    """JSON for these inputs, whose tensors follow in the same order."""
    kinds = {"x": ("FP32", [rows, 2], 8 * rows), "k": ("INT64", [rows, 1], 8 * rows)}
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": size}}
        for name in names
        for kind, shape, size in [kinds[name]]
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def head_of(text: bytes, *, follow: int, route: Route = ROUTE) -> InferHead:
    headers = {b"inference-header-content-length": b"%d" % len(text)}
    return InferHead(route, headers, len(text) + follow)


def test_a_plain_head_is_taken_and_kept(heads: InferHeads) -> None:
    sent = http("Inference-Header-Content-Length: 30", "X-Request-Id: r1", "Steelyard-Max-Latency-Ms: 20")
    found = heads.find(sent)
    assert found is not None
    assert (found.route, found.length, found.json_length, found.name) == (ROUTE, 80, 30, "r1")
    assert (found.bounds.latency_s, found.is_forwarded) == (0.02, False)
    assert heads.find(bytes(bytearray(sent))) is found
    assert heads.find(http(first="POST /v2/models/a%20b/infer?q=1 HTTP/1.1")) is not None
    upgrading = heads.find(http("Connection: Upgrade", "upgrade: h2c", "X-Request-Id: r2"))
    assert upgrading is not None
    assert (upgrading.length, upgrading.name) == (80, "r2")
    forwarded = heads.find(http("X-Forwarded-For: 10.0.0.1"))
    assert forwarded is not None
    assert forwarded.is_forwarded


@pytest.mark.parametrize(
    "sent",
    [
        http(first=f"GET {PATH} HTTP/1.1"),
        http(first=f"POST {PATH} HTTP/1.0"),
        http(first="POST /v2/models/other/infer HTTP/1.1"),
        http(first="POST * HTTP/1.1"),
        http("Transfer-Encoding: chunked"),
        http("Content-Length: 80"),
        http("Content-Encoding: gzip"),
        http("Accept-Encoding: gzip"),
        http("Expect: 100-continue"),
        http("Connection: close"),
        http("Upgrade: websocket"),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        http("Inference-Header-Content-Length: x"),
        http("Steelyard-Max-Latency-Ms: -1"),
        http("Steelyard-Max-Latncy-Ms: 20"),
        http(length="0"),
        http(length="1001"),
        http(length="-1"),
        http(length="9" * 5000),
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"nonsense\r\n\r\n",
        # two requests, or a head that ends before its first empty line with carriage returns
        http(length="0")[:-4] + b"\n\n" + http(),
        http()[:-4] + b"\n\nbody\r\n\r\n",
        http()[:-2],
    ],
)
def test_all_other_heads_are_for_the_http_server(heads: InferHeads, sent: bytes) -> None:
    assert heads.find(sent) is None
    assert heads.find(sent) is None


def test_what_is_kept_is_bounded(heads: InferHeads) -> None:
    for number in range(HEADS_MAX + 3):
        assert heads.find(http(f"X-Request-Id: {number}")) is not None
        assert len(heads._known) <= HEADS_MAX
    known = len(heads._known)
    assert heads.find(http("X: " + "x" * HEAD_BYTES_MAX)) is not None
    assert len(heads._known) == known


def test_a_layout_says_where_each_tensor_begins() -> None:
    """Rows of two floats, then of one integer of 64 bits: 2 x 8 bytes each, in the order of the JSON."""
    text = asking("xk")
    found = head_of(text, follow=32).layout(memoryview(text))
    assert found is not None
    assert [(given.name, given.at, given.length) for given in found.inputs] == [("x", 0, 16), ("k", 16, 16)]
    text = asking("kx")
    found = head_of(text, follow=32).layout(memoryview(text + b"..."))
    assert found is not None
    assert [(given.name, given.at, given.length) for given in found.inputs] == [("x", 16, 16), ("k", 0, 16)]


def test_a_layout_is_found_again_by_the_bytes_of_the_json() -> None:
    text = asking()
    head = head_of(text, follow=32)
    first = head.layout(memoryview(text))
    assert first is not None
    assert head.layout(memoryview(text + bytes(32))) is first
    for number in range(LAYOUTS_MAX + 3):
        other = text[:-1] + b" " * (number % 10) + b"}"
        assert head_of(other, follow=32).layout(memoryview(other)) is not None
        head.layout(memoryview(text.replace(b"FP32", b"FP%2d" % number)))
        assert len(head._layouts) <= LAYOUTS_MAX


def test_answers_start_alike_only_where_all_of_them_are_binary() -> None:
    text = asking(parameters={"binary_data_output": True})
    found = head_of(text, follow=32).layout(memoryview(text))
    assert found is not None
    assert found.heads == {}
    text = asking()
    found = head_of(text, follow=32).layout(memoryview(text))
    assert found is not None
    assert found.heads is None


@pytest.mark.parametrize(
    ("text", "follow"),
    [
        (asking("x"), 16),  # an input is missing
        (asking(), 31),  # bytes are missing
        (asking(parameters={"timeout": -1}), 32),
        (asking()[:-1], 32),  # no JSON
        (
            json.dumps(
                {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
            ).encode(),
            8,
        ),
    ],
)
def test_what_is_wrong_or_in_json_is_parsed_whole(text: bytes, follow: int) -> None:
    assert head_of(text, follow=follow).layout(memoryview(text)) is None


def test_elements_of_text_have_no_place_before_they_are_here() -> None:
    given = {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    text = json.dumps({"inputs": [given]}).encode()
    assert head_of(text, follow=6, route=TEXT).layout(memoryview(text)) is None


def test_json_that_is_not_all_here_says_nothing() -> None:
    text = asking()
    assert head_of(text, follow=32).layout(memoryview(text)[:-1]) is None
    assert InferHead(ROUTE, {}, len(text)).layout(memoryview(text)) is None


def test_a_raw_request_is_its_only_tensor() -> None:
    route = Route(served("r", {"x": ("FP32", (-1, 2))}, {"y": ("FP32", (-1, 2))}))
    found = InferHead(route, {b"inference-header-content-length": b"0"}, 8).layout(memoryview(b""))
    assert found is not None
    assert [(given.shape, given.at, given.length) for given in found.inputs] == [((1, 2), 0, 8)]
