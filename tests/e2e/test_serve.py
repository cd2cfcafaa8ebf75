"""A real server, a real model, a stock client: the answers are bare ONNX Runtime's."""

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest

from steelyard.control.rebuild import machines_of
from steelyard.core.commands import RunBatch
from steelyard.journal.codec import read
from steelyard.journal.diff import describe
from steelyard.journal.records import CONTROL, Header, Record
from steelyard.journal.replay import replay
from steelyard.runtime.base import Array
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


@cache
def session(model: Path) -> ort.InferenceSession:
    """In this process, with one thread as the worker has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare(model: Path, x: Array) -> Array:
    """What ONNX Runtime answers."""
    (y,) = session(model).run(None, {"x": x})
    answer: Array = y
    return answer


def infer(server: LiveServer, x: Array) -> Array:
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


class Run(NamedTuple):
    """What a server did: what it was given, what clients of each kind got, and its journal."""

    alone: dict[str, Array]  # asked by tritonclient, one request after the other
    by_tritonclient: dict[str, Array]
    together: list[Array]  # asked by many clients at a time
    answers: dict[int, Array]
    journal: Path


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, mlp: Path) -> Run:
    """One server with a fixed allocation for all that is asked about answers; it has ended."""
    folder = tmp_path_factory.mktemp("static")
    rng = np.random.default_rng(1)
    alone = {f"x{rows}": rng.normal(size=(rows, 64)).astype(np.float32) for rows in ROWS}
    together = [rng.normal(size=(int(rng.integers(1, 4)), 64)).astype(np.float32) for _ in range(160)]
    journal = folder / "journal.jsonl"
    with serve(write_spec(folder, mlp), folder, "--journal", str(journal)) as server:
        by_tritonclient = ask_with_tritonclient(server, alone, folder)
        answers: dict[int, Array] = {}

        def client(first: int) -> None:
            for index in range(first, len(together), 16):
                answers[index] = infer(server, together[index])

        at_a_time(16, client)
        load(server)
    return Run(alone, by_tritonclient, together, answers, journal)


def ask_with_tritonclient(server: LiveServer, inputs: dict[str, Array], folder: Path) -> dict[str, Array]:
    """Answers in both forms, `binary_x1` and `json_x1` for `x1`, from a process of its own."""
    np.savez(folder / "in.npz", **inputs)  # type: ignore[arg-type]
    client = [sys.executable, str(Path(__file__).with_name("triton_infer.py"))]
    address = server.url.removeprefix("http://")
    done = subprocess.run(
        [*client, address, "digits", str(folder / "in.npz"), str(folder / "out.npz")],
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


def at_a_time(count: int, client: Callable[[int], object]) -> None:
    """Run so many clients, each told its number, until all have ended."""
    clients = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()


def load(server: LiveServer) -> None:
    """480 requests of two rows from eight clients: 120 batches of eight rows at the least."""
    x = np.ones((2, 64), dtype=np.float32)
    at_a_time(8, lambda _: [infer(server, x) for _ in range(60)])


def test_tritonclient_gets_what_onnx_runtime_answers(static: Run, mlp: Path) -> None:
    for name, x in static.alone.items():
        want = bare(mlp, x)
        # bit for bit: the same rows alone
        np.testing.assert_array_equal(static.by_tritonclient[f"binary_{name}"], want)
        np.testing.assert_array_equal(static.by_tritonclient[f"json_{name}"], want)


def test_batched_with_others_the_answers_stay_within_rounding(static: Run, mlp: Path) -> None:
    assert len(static.answers) == len(static.together)
    for index, x in enumerate(static.together):
        np.testing.assert_allclose(static.answers[index], bare(mlp, x), rtol=1e-5, atol=1e-5)
    assert max(len(batch.slices) for batch in batches_of(static.journal)) > 1, "no requests were together"


def batches_of(journal: Path) -> list[Any]:
    """The `RunBatch` commands of a journal."""
    with journal.open("rb") as lines:
        records = [line for line in read(lines) if isinstance(line, Record)]
    return [command for record in records for command in record.commands if isinstance(command, RunBatch)]


def test_a_live_journal_of_a_fixed_allocation_replays_to_the_same_commands(static: Run) -> None:
    assert_replays(static.journal)


@pytest.mark.parametrize("policy", ["steelyard", "themis"])
def test_a_live_journal_replays_to_the_same_commands(tmp_path: Path, mlp: Path, policy: str) -> None:
    journal = tmp_path / "journal.jsonl"
    with serve(write_spec(tmp_path, mlp, policy=policy), tmp_path, "--journal", str(journal)) as server:
        load(server)
    assert_replays(journal)


def assert_replays(journal: Path) -> None:
    with journal.open("rb") as lines:
        header, *records = read(lines)
    assert isinstance(header, Header)
    machines = machines_of(header)
    assert machines.keys() == {"service/digits", CONTROL}
    found = replay([record for record in records if isinstance(record, Record)], machines)
    assert found is None, "\n".join(describe(found))
    assert len(batches_of(journal)) >= 60
