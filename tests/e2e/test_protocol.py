"""A live server against stock clients, over every endpoint; and services that are unloaded under load."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from steelyard.testing.live import WAIT_S_MAX, LiveServer, serve, wait_until, worker_pids

pytestmark = pytest.mark.slow
LATENCY = "{alpha_ms: 0.5, beta_ms: 0.1, gamma_ms: 0.2, zeta_ms: 0.2}"
BODY = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}


def write_spec(folder: Path, model: Path, *, policy: str) -> Path:
    spec = folder / "spec.yaml"
    spec.write_text(
        f"""\
version: 1
models:
  classifier:
    variants:
      base: {{onnx: {model}, batch_max: 8, cores_max: 2, latency: {LATENCY}}}
services:
  digits: {{slo: {{latency: 5s}}, pipeline: {{classify: {{model: classifier}}}}}}
  twin: {{slo: {{latency: 5s}}, pipeline: {{classify: {{model: classifier}}}}}}
policy: {policy}
"""
    )
    return spec


def call(server: LiveServer, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.url}/v2/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S_MAX) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("front_ends", [0, 2])
def test_tritonclient_over_every_endpoint(tmp_path: Path, mlp: Path, front_ends: int) -> None:
    spec = write_spec(tmp_path, mlp, policy="steelyard")
    with serve(spec, tmp_path, "--front-ends", str(front_ends)) as server:
        script = Path(__file__).with_name("triton_protocol.py")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), server.url.removeprefix("http://")],
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("policy", ["static", "themis", "steelyard"])
def test_unloading_under_load_answers_what_was_admitted_and_gives_the_workers_up(
    tmp_path: Path, mlp: Path, policy: str
) -> None:
    """Nothing fails: a request is answered, or told that the service is unloaded."""
    statuses: list[int] = []
    stop = threading.Event()
    with serve(write_spec(tmp_path, mlp, policy=policy), tmp_path) as server:

        def client() -> None:
            while not stop.is_set():
                statuses.append(call(server, "models/twin/infer", BODY)[0])

        before = len(worker_pids(server))
        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        wait_until(lambda: len(statuses) > 20, "the clients have been answered")
        assert call(server, "repository/models/twin/unload", {})[0] == 200
        wait_until(lambda: not server.replicas("twin"), "the replicas are gone")
        wait_until(lambda: len(worker_pids(server)) < before, "a worker's process is gone")
        assert call(server, "models/digits/infer", BODY)[0] == 200
        assert call(server, "repository/models/twin/load", {})[0] == 200
        answered = statuses.count(200)
        wait_until(lambda: statuses.count(200) > answered + 20, "the service answers again")
        stop.set()
        for thread in clients:
            thread.join()
        counters = server.status()["services"]["twin"]["counters"]
    assert set(statuses) == {200, 404}
    assert (counters["failed"], counters["rejected"], counters["shed"]) == (0, 0, 0)
    assert counters["completed"] == statuses.count(200)


def test_a_server_stops_with_services_unloaded(tmp_path: Path, mlp: Path) -> None:
    with serve(write_spec(tmp_path, mlp, policy="static"), tmp_path) as server:
        for name in ("digits", "twin"):
            assert call(server, f"repository/models/{name}/unload", {})[0] == 200
        assert call(server, "repository/models/digits/load", {})[0] == 200
        assert call(server, "models/digits/infer", BODY)[0] == 200
        server.process.terminate()
        assert server.process.wait(WAIT_S_MAX) == 0


ONNX_OF = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}


WITH_BF16 = ("BF16", "FP32", "INT64")
"""ONNX Runtime's Python cannot feed BF16 and strings to one model."""


def write_identities(path: Path, names: Iterable[str]) -> Path:
    """A model that gives each of its inputs back, one of every type."""

    def tensors(prefix: str) -> list[Any]:
        return [
            helper.make_tensor_value_info(f"{prefix}_{name}", ONNX_OF[name], ["rows", 2]) for name in names
        ]

    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names]
    graph = helper.make_graph(nodes, "same", tensors("in"), tensors("out"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_every_datatype_through_a_worker(tmp_path: Path) -> None:
    services = {"most": tuple(name for name in ONNX_OF if name != "BF16"), "half": WITH_BF16}
    spec = tmp_path / "spec.yaml"
    models = {name: write_identities(tmp_path / f"{name}.onnx", names) for name, names in services.items()}
    spec.write_text(
        f"""\
version: 1
models:
  most: {{variants: {{base: {{onnx: {models["most"]}, batch_max: 4, latency: {LATENCY}}}}}}}
  half: {{variants: {{base: {{onnx: {models["half"]}, batch_max: 4, latency: {LATENCY}}}}}}}
services:
  most: {{slo: {{latency: 5s}}, pipeline: {{give: {{model: most}}}}}}
  half: {{slo: {{latency: 5s}}, pipeline: {{give: {{model: half}}}}}}
policy: static
"""
    )
    script = str(Path(__file__).with_name("triton_datatypes.py"))
    with serve(spec, tmp_path) as server:
        for name, names in services.items():
            command = [sys.executable, "-W", "ignore", script, server.url.removeprefix("http://"), name]
            done = subprocess.run(
                [*command, ",".join(names)], capture_output=True, text=True, timeout=WAIT_S_MAX, check=False
            )
            assert done.returncode == 0, done.stderr


def test_bounds_that_cannot_be_met_are_refused_with_the_nearest_that_can(tmp_path: Path, mlp: Path) -> None:
    spec = write_spec(tmp_path, mlp, policy="static")
    spec.write_text(spec.read_text().replace("base: {", "base: {accuracy: 0.9, "))
    with serve(spec, tmp_path) as server:
        met = {**BODY, "parameters": {"min_accuracy": 0.9, "max_core_ms": 1000}}
        status, answer = call(server, "models/digits/infer", met)
        assert status == 200
        assert answer["parameters"]["accuracy"] == 0.9
        assert "bounds_missed" not in answer["parameters"]
        status, answer = call(server, "models/digits/infer", {**BODY, "parameters": {"min_accuracy": 0.95}})
        assert (status, answer["reason"]) == (400, "bounds")
        assert answer["nearest"]["min_accuracy"] == 0.9
        assert "min_accuracy 0.9 could be met" in answer["error"]
