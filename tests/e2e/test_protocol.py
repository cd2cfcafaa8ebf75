"""A live server against stock clients, over every endpoint; and services that are unloaded under load."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from steelyard.testing.live import LiveServer, serve, wait_until, worker_pids

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
  digits: {{slo: {{latency: 500ms}}, pipeline: {{classify: {{model: classifier}}}}}}
  twin: {{slo: {{latency: 500ms}}, pipeline: {{classify: {{model: classifier}}}}}}
policy: {policy}
"""
    )
    return spec


def call(server: LiveServer, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.url}/v2/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_tritonclient_over_every_endpoint(tmp_path: Path, mlp: Path) -> None:
    with serve(write_spec(tmp_path, mlp, policy="steelyard"), tmp_path) as server:
        script = Path(__file__).with_name("triton_protocol.py")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), server.url.removeprefix("http://")],
            capture_output=True,
            text=True,
            timeout=55,
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
        assert server.process.wait(20) == 0
