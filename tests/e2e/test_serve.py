"""A real server, a real model, a stock client: the answers are bare ONNX Runtime's."""

import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from steelyard.control.rebuild import machines_of
from steelyard.journal.codec import read
from steelyard.journal.diff import describe
from steelyard.journal.records import CONTROL, Header, Record
from steelyard.journal.replay import replay
from steelyard.testing.live import WAIT_S_MAX, LiveServer, serve

pytestmark = pytest.mark.slow
ROWS = (1, 3, 8)
LATENCY = "{alpha_ms: 0.5, beta_ms: 0.1, gamma_ms: 0.2, zeta_ms: 0.2}"


def write_spec(folder: Path, model: Path, *, policy: str = "static", slo: str = "5s") -> Path:
    spec = folder / "spec.yaml"
    spec.write_text(
        f"""\
version: 1
models:
  classifier:
    variants:
      base: {{onnx: {model}, batch_max: 8, cores_max: 2, latency: {LATENCY}}}
services:
  digits:
    slo: {{latency: {slo}}}
    pipeline:
      classify: {{model: classifier}}
policy: {policy}
"""
    )
    return spec


def bare(model: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What ONNX Runtime answers in this process, with one thread as the worker has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    (y,) = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    answer: np.ndarray[Any, Any] = y
    return answer


def infer(server: LiveServer, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One inference over HTTP in plain JSON."""
    body = {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}]}
    request = urllib.request.Request(
        f"{server.url}/v2/models/digits/infer",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S_MAX) as answer:
        output = json.load(answer)["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def test_tritonclient_gets_what_onnx_runtime_answers(tmp_path: Path, mlp: Path) -> None:
    rng = np.random.default_rng(1)
    inputs = {f"x{rows}": rng.normal(size=(rows, 64)).astype(np.float32) for rows in ROWS}
    np.savez(tmp_path / "in.npz", **inputs)  # type: ignore[arg-type]
    with serve(write_spec(tmp_path, mlp), tmp_path) as server:
        client = [sys.executable, str(Path(__file__).with_name("triton_infer.py"))]
        address = server.url.removeprefix("http://")
        done = subprocess.run(
            [*client, address, "digits", str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "out.npz")
    for name, x in inputs.items():
        want = bare(mlp, x)
        np.testing.assert_array_equal(answers[f"binary_{name}"], want)  # bit for bit: the same rows alone
        np.testing.assert_array_equal(answers[f"json_{name}"], want)


def test_batched_with_others_the_answers_stay_within_rounding(tmp_path: Path, mlp: Path) -> None:
    rng = np.random.default_rng(2)
    inputs = [rng.normal(size=(int(rng.integers(1, 4)), 64)).astype(np.float32) for _ in range(160)]
    answers: dict[int, np.ndarray[Any, Any]] = {}
    journal = tmp_path / "journal.jsonl"
    with serve(write_spec(tmp_path, mlp), tmp_path, "--journal", str(journal)) as server:

        def client(first: int) -> None:
            for index in range(first, len(inputs), 16):
                answers[index] = infer(server, inputs[index])

        clients = [threading.Thread(target=client, args=(first,)) for first in range(16)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    assert len(answers) == len(inputs)
    for index, x in enumerate(inputs):
        np.testing.assert_allclose(answers[index], bare(mlp, x), rtol=1e-5, atol=1e-5)
    batches = [command for record in records_of(journal) for command in record.commands if is_batch(command)]
    assert max(len(batch.slices) for batch in batches) > 1, "no requests were batched together"


def is_batch(command: object) -> bool:
    return type(command).__name__ == "RunBatch"


def records_of(journal: Path) -> list[Any]:
    with journal.open("rb") as lines:
        return [line for line in read(lines) if isinstance(line, Record)]


@pytest.mark.parametrize("policy", ["static", "steelyard", "themis"])
def test_a_live_journal_replays_to_the_same_commands(tmp_path: Path, mlp: Path, policy: str) -> None:
    journal = tmp_path / "journal.jsonl"
    x = np.ones((2, 64), dtype=np.float32)
    with serve(write_spec(tmp_path, mlp, policy=policy), tmp_path, "--journal", str(journal)) as server:
        clients = [threading.Thread(target=lambda: [infer(server, x) for _ in range(60)]) for _ in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    with journal.open("rb") as lines:
        header, *records = read(lines)
    assert isinstance(header, Header)
    machines = machines_of(header)
    assert machines.keys() == {"service/digits", CONTROL}
    found = replay([record for record in records if isinstance(record, Record)], machines)
    assert found is None, "\n".join(describe(found))
    assert sum(is_batch(command) for record in records_of(journal) for command in record.commands) >= 60
