"""What is refused for other reasons than the request's content: place, verb, size, overload. Golden text."""

from typing import Any

import numpy as np
import pytest

from steelyard.core.commands import Fail, NearestBounds, Reject, Shed
from steelyard.core.types import RequestId
from steelyard.serve.base import End, OnEnd
from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.testing.http import HttpAnswer, ask_app
from steelyard.testing.intake import ComputingIntake, served

SERVICES = {
    "mlp": served("mlp", {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 2))}, rows_max=256),
    "a/b": served("a/b", {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 2))}),
}
INFER = "/v2/models/mlp/infer"
GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
ID = RequestId(7, 1)


class EndingIntake(ComputingIntake):
    """Ends every request in the same way, at once."""

    end: End | None = None

    def submit(self, request: Any, on_end: OnEnd) -> None:
        self.held = True
        super().submit(request, on_end)
        self.finish(request.id, self.end)


def ask(
    method: str = "POST",
    path: str = INFER,
    body: Any = GOOD,
    headers: dict[str, str] | None = None,
    *,
    settings: EdgeSettings | None = None,
    end: End | None = None,
    arena_bytes: int = 1 << 16,
) -> HttpAnswer:
    intake = EndingIntake(SERVICES, lambda _: {"y": np.zeros((1, 2))}, arena_bytes=arena_bytes)
    intake.end = end
    try:
        answer = ask_app(make_app(intake, settings=settings), method, path, body, headers)
        assert intake.arena.bytes_used == 0
        return answer
    finally:
        intake.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "line"),
    [
        ("POST", "/v2/models/mpl/infer", 404, "unknown model 'mpl'; known models: 'mlp', 'a/b'"),
        ("GET", "/v2/models/mpl", 404, "unknown model 'mpl'; known models: 'mlp', 'a/b'"),
        ("POST", "/v2/models/mlp/versions/2/infer", 404, "model 'mlp' has no version '2'; it has '1'"),
        ("GET", "/v2/models/mlp/nonsense", 404, "there is nothing at '/v2/models/mlp/nonsense'"),
        ("GET", "/v2/models/a/b/nonsense", 404, "there is nothing at '/v2/models/a/b/nonsense'"),
        ("GET", "/v2/models/a", 404, "unknown model 'a'; known models: 'mlp', 'a/b'"),
        ("GET", "/", 404, "there is nothing at '/'"),
        ("GET", "/v1/models/mlp", 404, "there is nothing at '/v1/models/mlp'"),
        ("GET", "/v2/models/mlp/infer", 405, "'/v2/models/mlp/infer' takes POST, not GET"),
        ("DELETE", "/v2/models/mlp", 405, "'/v2/models/mlp' takes GET, not DELETE"),
        ("POST", "/v2/health/live", 405, "'/v2/health/live' takes GET, not POST"),
        (
            "POST",
            "/v2/models/mlp/generate",
            501,
            "'/v2/models/mlp/generate' is a part of the protocol that this server does not serve",
        ),
        ("POST", "/v2/models/mlp/config", 405, "'/v2/models/mlp/config' takes GET, not POST"),
        ("DELETE", "/v2/logging", 405, "'/v2/logging' takes GET or POST, not DELETE"),
        ("GET", "/v2/repository/index", 405, "'/v2/repository/index' takes POST, not GET"),
        ("POST", "/v2/repository/models/mpl/load", 404, "unknown model 'mpl'; known models: 'mlp', 'a/b'"),
        ("POST", "/v2/repository/models/mlp/l", 404, "there is nothing at '/v2/repository/models/mlp/l'"),
        ("GET", "/v2/systemsharedmemory/region", 404, "there is nothing at '/v2/systemsharedmemory/region'"),
    ],
)  # fmt: skip
def test_wrong_places(method: str, path: str, status: int, line: str) -> None:
    answer = ask(method, path, b"")
    assert (answer.status, answer.json()) == (status, {"error": line})
    if status == 405:
        allowed = set(answer.headers["allow"].split(", "))
        assert all(verb in line for verb in allowed - {"HEAD"})
        assert ("HEAD" in allowed) == ("GET" in allowed)


@pytest.mark.parametrize(
    ("end", "status", "value", "retry_after"),
    [
        (
            Reject(ID, "deadline", 2.25),
            503,
            {
                "error": "service 'mlp' cannot meet the request's deadline",
                "reason": "deadline",
                "retry_after_ms": 2250.0,
            },
            "3",
        ),
        (
            Reject(ID, "deadline", None),
            503,
            {
                "error": "service 'mlp' cannot meet the request's deadline",
                "reason": "deadline",
                "retry_after_ms": 1000.0,
            },
            "1",
        ),
        (
            Reject(ID, "queue_full", 0.01),
            503,
            {"error": "service 'mlp' has its queue full", "reason": "queue_full", "retry_after_ms": 10.0},
            "1",
        ),
        (
            Reject(ID, "draining", None),
            503,
            {
                "error": "service 'mlp' takes no more requests: the server is stopping, or unloads it",
                "reason": "draining",
                "retry_after_ms": 1000.0,
            },
            "1",
        ),
        (
            # 1.05 * 40 ms + 1 ms, 1.05 * 12.3456 ms up: by when the client asks again, a little has changed.
            Reject(ID, "bounds", None, NearestBounds(40.0, 0.91, 12.3456)),
            400,
            {
                "error": "service 'mlp' cannot meet the request's bounds together now; max_latency_ms 43, "
                "min_accuracy 0.91, max_core_ms 12.963 could be met",
                "reason": "bounds",
                "nearest": {"max_latency_ms": 43.0, "min_accuracy": 0.91, "max_core_ms": 12.963},
            },
            None,
        ),
        (
            Reject(ID, "deadline", None, NearestBounds(max_latency_ms=20.0)),
            503,
            {
                "error": "service 'mlp' cannot meet the request's deadline; max_latency_ms 22 could be met",
                "reason": "deadline",
                "nearest": {"max_latency_ms": 22.0},
            },
            None,  # not even an idle server could, so no later moment helps
        ),
        (
            Reject(ID, "bounds", 1.5),
            400,
            {
                "error": "service 'mlp' cannot meet the request's bounds together now",
                "reason": "bounds",
                "retry_after_ms": 1500.0,
                "nearest": {},
            },
            "2",
        ),
        (
            Shed(ID, "early"),
            503,
            {
                "error": "service 'mlp' dropped the request: its deadline could no longer be met",
                "reason": "early",
                "retry_after_ms": 1000.0,
                "shed": True,
            },
            "1",
        ),
        (
            Shed(ID, "deadline", lost=2),
            503,
            {
                "error": "service 'mlp' dropped the request: its deadline could no longer be met, after 2 "
                "of its batches had been lost with their worker",
                "reason": "deadline",
                "retry_after_ms": 1000.0,
                "shed": True,
            },
            "1",
        ),
        (
            Shed(ID, "queue_full"),
            503,
            {
                "error": "service 'mlp' dropped the request: it has more items than a stage may queue now",
                "reason": "queue_full",
                "retry_after_ms": 1000.0,
                "shed": True,
            },
            "1",
        ),
        (
            Fail(ID, "worker_lost", "the worker was lost"),
            503,
            {"error": "the worker was lost", "reason": "worker_lost", "retry_after_ms": 1000.0},
            "1",
        ),
        (
            Fail(ID, "bad_input", "no JPEG"),
            400,
            {"error": "no JPEG", "reason": "bad_input"},
            None,
        ),
        (
            Fail(ID, "model_error", "ValueError: no"),
            500,
            {"error": "ValueError: no", "reason": "model_error"},
            None,
        ),
    ],
)
def test_ends_that_are_not_answers(end: End, status: int, value: Any, retry_after: str | None) -> None:
    answer = ask(end=end)
    assert (answer.status, answer.json()) == (status, value)
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers["x-request-id"] == "7-1"


def test_overload_may_be_429_but_a_stopping_server_stays_503() -> None:
    settings = EdgeSettings(overload_status=429)
    assert ask(end=Shed(ID, "deadline"), settings=settings).status == 429
    assert ask(end=Reject(ID, "queue_full", None), settings=settings).status == 429
    assert ask(end=Reject(ID, "draining", None), settings=settings).status == 503


def test_a_full_arena_is_503() -> None:
    intake = ComputingIntake(SERVICES, lambda _: {}, arena_bytes=4096)
    other = intake.arena.alloc(1)  # a slot of 256 bytes: none of 4096 is left
    assert other is not None
    inputs = [{"name": "x", "datatype": "FP32", "shape": [252, 4], "data": [0] * 1008}]  # 4032 and a header
    answer = ask_app(make_app(intake), "POST", INFER, {"inputs": inputs}, {})
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "error": "the server's memory for requests is full",
        "reason": "memory_full",
        "retry_after_ms": 1000.0,
    }
    intake.arena.free(other)
    intake.close()


@pytest.mark.parametrize(
    ("settings", "status", "line"),
    [
        (EdgeSettings(body_bytes_max=64), 413, "the body is over the limit of 64 bytes"),
        (
            EdgeSettings(json_bytes_max=64),
            413,
            "the JSON has 100 bytes, the limit is 64: send large tensors as binary data",
        ),
        (EdgeSettings(buffered_bytes_max=64), 503, "the server is receiving too much at once"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_too_much(settings: EdgeSettings, status: int, line: str, declared: bool) -> None:
    headers = {"Content-Length": "100"} if declared else {}
    answer = ask(body=bytes(100), headers=headers, settings=settings)
    assert (answer.status, answer.json()["error"]) == (status, line)


@pytest.mark.parametrize(
    ("coding", "line"),
    [
        ("br", "Content-Encoding 'br' is not served; use gzip or deflate"),
        ("gzip", "the body is not gzip: Error -3 while decompressing data: incorrect header check"),
        ("deflate", "the body is not deflate: Error -3 while decompressing data: incorrect header check"),
    ],
)
def test_a_bad_coding(coding: str, line: str) -> None:
    answer = ask(body=b"plain", headers={"Content-Encoding": coding})
    assert (answer.status, answer.json()["error"]) == (400, line)
