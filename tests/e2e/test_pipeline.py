"""A pipeline of real models and Python glue over HTTP: right under load, after a kill, without items."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steelyard.control.rebuild import machines_of
from steelyard.journal.codec import read
from steelyard.journal.diff import describe
from steelyard.journal.records import Header, Record
from steelyard.journal.replay import replay
from steelyard.testing.live import WAIT_S_MAX, LiveServer, mapped_arenas, serve, wait_until, worker_pids

pytestmark = pytest.mark.slow

WIDTH = 4
WEIGHTS = np.arange(WIDTH * 2, dtype=np.float32).reshape(WIDTH, 2)
GLUE = """
import numpy as np

class Crop:
    # The first value of a row says how many lines it has.
    signature = {
        "inputs": {"boxes": ("FP32", [-1, 4])},
        "outputs": {"lines": ("FP32", [-1, 4]), "legible": ("FP32", [-1])},
    }
    def predict(self, batch):
        if (batch["boxes"][:, 0] < 0).any():
            raise ValueError("no such page")
        lines, legible = [], []
        for row in batch["boxes"]:
            count = int(row[0])
            lines.append(np.array([row + i for i in range(count)]).reshape(count, 4))
            legible.append(np.arange(count) % 3)
        return {"lines": lines, "legible": legible}

def page(batch):
    total = np.array([text.sum() for text in batch["texts"]], np.float32)
    return {"total": total, "kept": np.array([len(text) for text in batch["texts"]])}
"""
LATENCY = "latency: {alpha_ms: 0.5, beta_ms: 0.1, gamma_ms: 0.2, zeta_ms: 0.2}, batch_max: 8, cores_max: 1"
SPEC = f"""\
version: 1
models:
  detector: {{variants: {{small: {{onnx: detect.onnx, accuracy: 0.9, {LATENCY}}}}}}}
  reader: {{variants: {{base: {{onnx: read.onnx, accuracy: 0.8, {LATENCY}}}}}}}
  crop: {{variants: {{crop: {{python: "glue.py:Crop", {LATENCY}}}}}}}
  page: {{variants: {{page: {{python: "glue.py:page", {LATENCY}}}}}}}
services:
  ocr:
    slo: {{latency: 30s}}
    pipeline:
      detect: {{model: detector, inputs: {{x: request.x}}}}
      crop: {{model: crop, inputs: {{boxes: detect.y}}}}
      read: {{model: reader, each: crop.lines, when: "crop.legible > 0.5"}}
      page: {{model: page, inputs: {{texts: read.y}}}}
    outputs: {{text: read.y, lines: crop.lines}}
    items: {{crop.lines: {{mean: 3}}, crop.legible: 0.6}}
policies:
  two: {{name: static, cores: 0.2, batch: 8, replicas: 2}}
policy: two
"""


def write_model(path: Path, weights: np.ndarray[Any, Any]) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_spec(folder: Path) -> Path:
    (folder / "glue.py").write_text(GLUE)
    write_model(folder / "detect.onnx", np.eye(WIDTH, dtype=np.float32))
    write_model(folder / "read.onnx", WEIGHTS)
    spec = folder / "spec.yaml"
    spec.write_text(SPEC)
    return spec


def infer(server: LiveServer, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """One inference over HTTP in plain JSON: outputs by name, and `parameters`.

    Raises:
        RuntimeError: another status than 200, with the answer's text.
    """
    body = {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}
    request = urllib.request.Request(
        f"{server.url}/v2/models/ocr/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S_MAX) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode()}") from None
    outputs = {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in found["outputs"]}
    return {**outputs, "parameters": found["parameters"]}


def check(found: dict[str, Any], x: np.ndarray[Any, Any]) -> None:
    """Compare with what numpy makes of the same rows."""
    lines = [row + i for row in x for i in range(int(row[0]))]
    kept = [row + i for row in x for i in range(int(row[0])) if i % 3 > 0.5]
    np.testing.assert_allclose(found["lines"], np.array(lines).reshape(-1, WIDTH), rtol=1e-5)
    np.testing.assert_allclose(found["text"], np.array(kept).reshape(-1, WIDTH) @ WEIGHTS, rtol=1e-5)


def pages(count: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 4, count)
    return [
        np.concatenate([rng.integers(0, 6, (n, 1)), rng.integers(0, 9, (n, WIDTH - 1))], 1).astype(np.float32)
        for n in sizes
    ]


def load(server: LiveServer, requests: list[np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """What every request was answered, from a dozen clients at once."""
    with ThreadPoolExecutor(12) as clients:
        return list(clients.map(partial(infer, server), requests))


def test_a_pipeline_is_one_model_to_its_clients_and_right_whatever_dies(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    requests = pages(120)
    with serve(write_spec(tmp_path), tmp_path, "--journal", str(journal)) as server:
        for found, x in zip(load(server, requests), requests, strict=True):
            check(found, x)
        nothing = infer(server, np.zeros((2, WIDTH), np.float32))
        assert (nothing["text"].shape, nothing["lines"].shape) == ((0, 2), (0, WIDTH))
        parameters = infer(server, np.array([[2, 1, 1, 1]], np.float32))["parameters"]
        assert parameters["variants"] == "detect:small,crop:crop,read:base,page:page"
        assert parameters["core_ms"] > 0
        with pytest.raises(RuntimeError, match=r"500: .*ValueError: no such page"):
            infer(server, np.array([[-1, 0, 0, 0]], np.float32))
        wait_until(lambda: len(worker_pids(server)) == 8, "two workers of each stage")
        killer = threading.Thread(target=kill_a_reader, args=(server,))
        killer.start()
        for found, x in zip(load(server, requests), requests, strict=True):
            check(found, x)
        killer.join()
        wait_until(lambda: len(worker_pids(server)) == 8, "the lost worker is replaced")
    with journal.open("rb") as lines:
        header, *records = read(lines)
    assert isinstance(header, Header)
    change = replay([record for record in records if isinstance(record, Record)], machines_of(header))
    assert change is None, "\n".join(describe(change))


def kill_a_reader(server: LiveServer) -> None:
    """Kill a worker behind the first stage: one that maps another worker's arena beside its own."""

    def readers() -> list[int]:
        arenas = {pid: " ".join(mapped_arenas(pid)) for pid in worker_pids(server)}
        return [pid for pid, lines in arenas.items() if lines.count("steelyard-replica-") > 1]

    wait_until(lambda: bool(readers()), "a worker reads another one's outputs")
    os.kill(readers()[0], signal.SIGKILL)
