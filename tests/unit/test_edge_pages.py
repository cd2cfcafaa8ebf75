"""The protocol's pages besides inference, called straight as an ASGI application."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from steelyard.core.snapshot import BusyCell
from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.serve.repository import RepositoryError
from steelyard.serve.statistics import add_batches
from steelyard.testing.http import HttpAnswer, ask_app
from steelyard.testing.intake import ComputingIntake, ListedRepository, served

SERVICES = {
    "page": served(
        "page", {"p": ("UINT8", (-1, 3, -1))}, {"t": ("BYTES", (-1, 1)), "h": ("BF16", (-1,))}, rows_max=40
    ),
    "fixed": served("fixed", {"s": ("FP64", (2, 2))}, {"t": ("FP64", (2,))}, batchable=False),
}
FIXED = {"inputs": [{"name": "s", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}]}


@pytest.fixture(name="intake")
def _intake() -> Iterator[ComputingIntake]:
    intake = ComputingIntake(SERVICES, lambda arrays: {"t": arrays["s"].sum(axis=0)}, arena_bytes=1 << 16)
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


def ask(
    intake: ComputingIntake, method: str, path: str, body: Any = b"", *, client: str = "127.0.0.1"
) -> HttpAnswer:
    return ask_app(make_app(intake), method, path, body, client=client)


def test_server_health_and_metadata(intake: ComputingIntake) -> None:
    server = ask(intake, "GET", "/v2").json()
    assert server["name"] == "steelyard"
    assert server["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
        "system_shared_memory",
    ]
    assert ask(intake, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(intake, "GET", "/v2/health/ready").json() == {"ready": True, "live": True}
    assert ask(intake, "GET", "/v2/models").json() == {"models": ["page", "fixed"]}
    for path in ("/v2/models/fixed", "/v2/models/fixed/versions/1"):
        assert ask(intake, "GET", path).json() == {
            "name": "fixed",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "s", "datatype": "FP64", "shape": [2, 2]}],
            "outputs": [{"name": "t", "datatype": "FP64", "shape": [2]}],
        }
    intake.ready = False
    ready = ask(intake, "GET", "/v2/health/ready")
    assert (ready.status, ready.json()) == (503, {"ready": False, "live": True})
    ready = ask(intake, "GET", "/v2/models/page/ready")
    assert (ready.status, ready.json()) == (503, {"name": "page", "ready": False})


def test_configuration_leaves_the_leading_axis_out(intake: ComputingIntake) -> None:
    config = ask(intake, "GET", "/v2/models/page/config").json()
    assert config["max_batch_size"] == 40
    assert config["input"] == [{"name": "p", "data_type": "TYPE_UINT8", "dims": [3, -1]}]
    assert config["output"] == [
        {"name": "t", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "h", "data_type": "TYPE_BF16", "dims": []},
    ]
    assert "dynamic_batching" in config
    fixed = ask(intake, "GET", "/v2/models/fixed/versions/1/config").json()
    assert (fixed["max_batch_size"], fixed["input"][0]["dims"]) == (0, [2, 2])
    assert "dynamic_batching" not in fixed
    assert fixed["platform"] == "onnxruntime_onnx"
    assert fixed["backend"] == "onnxruntime"


STATISTICS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip


def test_statistics_have_every_key_from_the_start(intake: ComputingIntake) -> None:
    (found,) = ask(intake, "GET", "/v2/models/page/stats").json()["model_stats"]
    assert found == {
        "name": "page",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {key: {"count": 0, "ns": 0} for key in STATISTICS},
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
    assert len(ask(intake, "GET", "/v2/models/stats").json()["model_stats"]) == 2


def test_statistics_add_up(intake: ComputingIntake) -> None:
    for _ in range(3):
        assert ask(intake, "POST", "/v2/models/fixed/infer", FIXED).status == 200
    batches = intake.statistics("fixed").batches
    add_batches(batches, (BusyCell("main", "v", 2, 1.0, 1, 0.004),))
    add_batches(batches, (BusyCell("main", "w", 2, 2.0, 2, 0.002),))
    add_batches(batches, (BusyCell("main", "v", 1, 1.0, 1, 0.001),))
    (found,) = ask(intake, "GET", "/v2/models/fixed/versions/1/stats").json()["model_stats"]
    sums = found["inference_stats"]
    # the fake says 1 ms of queueing and 2 ms of service each: 3 ms and 6 ms of three
    assert sums["queue"] == {"count": 3, "ns": 3_000_000}
    assert sums["compute_infer"] == {"count": 3, "ns": 6_000_000}
    assert sums["success"]["count"] == 3
    assert (found["inference_count"], found["execution_count"]) == (3, 4)
    assert [(b["batch_size"], b["compute_infer"]) for b in found["batch_stats"]] == [
        (1, {"count": 1, "ns": 1_000_000}),
        (2, {"count": 3, "ns": 6_000_000}),
    ]
    assert found["last_inference"] > 1.7e12  # milliseconds since 1970


def test_refused_requests_are_failures(intake: ComputingIntake) -> None:
    statistics = intake.statistics("fixed")
    statistics.refused, statistics.refused_s = 1, 0.5
    (found,) = ask(intake, "GET", "/v2/models/fixed/stats").json()["model_stats"]
    assert found["inference_stats"]["fail"] == {"count": 1, "ns": 500_000_000}
    assert found["inference_stats"]["success"]["count"] == 0


def test_an_unloaded_service_says_so_everywhere_and_comes_back(intake: ComputingIntake) -> None:
    gone = {"error": "model 'fixed' is unloaded", "reason": "unloaded"}
    answer = ask(
        intake, "POST", "/v2/repository/models/fixed/unload", {"parameters": {"unload_dependents": False}}
    )
    assert (answer.status, answer.json()) == (200, {"name": "fixed", "load": False})
    for method, path in (("POST", "infer"), ("GET", "config"), ("GET", "versions/1")):
        answer = ask(intake, method, f"/v2/models/fixed/{path}", FIXED if path == "infer" else b"")
        assert (answer.status, answer.json()) == (404, gone)
    ready = ask(intake, "GET", "/v2/models/fixed/ready")
    assert (ready.status, ready.json()) == (503, {"name": "fixed", "ready": False})
    assert ask(intake, "GET", "/v2/models").json() == {"models": ["page"]}
    assert ask(intake, "GET", "/v2/health/ready").status == 200  # of what is to be served, all is ready
    index = ask(intake, "POST", "/v2/repository/index").json()
    assert index == [
        {"name": "page", "version": "1", "state": "READY", "reason": ""},
        {"name": "fixed", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
    ready_only = ask(intake, "POST", "/v2/repository/index", {"ready": True}).json()
    assert [entry["name"] for entry in ready_only] == ["page"]
    assert ask(intake, "POST", "/v2/repository/models/fixed/load").json() == {"name": "fixed", "load": True}
    assert ask(intake, "POST", "/v2/models/fixed/infer", FIXED).status == 200


def test_models_do_not_come_from_clients(intake: ComputingIntake) -> None:
    body = {"parameters": {"file:1/model.onnx": "AAAA"}}
    answer = ask(intake, "POST", "/v2/repository/models/page/load", body)
    line = "parameter 'file:1/model.onnx' is not taken: models come from the spec file"
    assert (answer.status, answer.json()) == (400, {"error": line})


def test_a_service_that_takes_too_long_to_load_is_503(intake: ComputingIntake) -> None:
    class Slow(ListedRepository):
        async def load(self, service: str) -> None:
            raise RepositoryError(f"service '{service}' is still loading after 30 s")

    intake.repository = Slow(SERVICES)
    answer = ask(intake, "POST", "/v2/repository/models/page/load")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "service 'page' is still loading after 30 s"


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/models/page/trace/setting"])
def test_trace_settings_can_be_read_and_not_changed(intake: ComputingIntake, path: str) -> None:
    settings = ask(intake, "GET", path).json()
    assert settings["trace_level"] == ["OFF"]
    assert ask(intake, "POST", path, {"trace_level": ["OFF"], "trace_rate": None}).json() == settings
    answer = ask(intake, "POST", path, {"trace_level": ["TIMESTAMPS"]})
    line = "trace setting 'trace_level' cannot be changed while the server runs"
    assert (answer.status, answer.json()["error"]) == (501, line)
    answer = ask(intake, "POST", path, {"trace_lovel": ["OFF"]})
    assert answer.status == 400
    assert answer.json()["error"].startswith("unknown trace setting 'trace_lovel'; there are: trace_level, ")


def test_logging_settings(intake: ComputingIntake) -> None:
    assert ask(intake, "GET", "/v2/logging").json()["log_format"] == "default"
    answer = ask(intake, "POST", "/v2/logging", {"log_verbose_level": 1})
    assert answer.json()["error"] == "log setting 'log_verbose_level' cannot be changed while the server runs"


def test_cuda_shared_memory_is_refused(intake: ComputingIntake) -> None:
    answer = ask(intake, "POST", "/v2/cudasharedmemory/region/a/register", {"raw_handle": {}})
    assert (answer.status, answer.json()["error"]) == (
        400,
        "CUDA shared memory is not served: use system shared memory",
    )
    assert ask(intake, "POST", "/v2/cudasharedmemory/unregister").status == 200  # nothing is registered
    assert ask(intake, "GET", "/v2/cudasharedmemory/status").json() == []


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"{", "the body is not what is taken here: Input data was truncated"),
        (b"[]", "the body is not what is taken here: Expected `object`, got `array`"),
        (b'{"ready": 1}', "the body is not what is taken here: Expected `bool`, got `int` - at `$.ready`"),
        (b"\xff", "the body is not what is taken here: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_a_body_that_is_no_json(intake: ComputingIntake, body: bytes, line: str) -> None:
    answer = ask(intake, "POST", "/v2/repository/index", body)
    assert (answer.status, answer.json()) == (400, {"error": line})


def test_a_page_s_body_is_bounded(intake: ComputingIntake) -> None:
    app = make_app(intake, settings=EdgeSettings(body_bytes_max=10))
    assert ask_app(app, "POST", "/v2/repository/index", b"{}" + b" " * 9).status == 413


def test_outputs_of_bf16_pass_as_they_are() -> None:
    """BF16 has no numpy type: its bits are, little-endian, the upper half of an FP32's."""
    name = {"x": ("BF16", (-1, 2))}
    intake = ComputingIntake({"echo": served("echo", name, name)}, lambda arrays: arrays, arena_bytes=1 << 16)
    bits = (np.array([[1.0, -2.5]], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    given = {"name": "x", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    answer = ask_app(
        make_app(intake),
        "POST",
        "/v2/models/echo/infer",
        head + bits,
        {"Inference-Header-Content-Length": str(len(head))},
    )
    assert (answer.status, answer.body[-4:]) == (200, bits)
    intake.close()
