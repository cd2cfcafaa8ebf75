"""tritonclient over gRPC, in a process of its own: every datatype and rank, every call of a live server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.demo.processes import free_ports
from steelyard.serve.edge.tensors import KINDS
from steelyard.testing.grpc import running_grpc
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX, serve

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LATENCY = "{alpha_ms: 0.5, beta_ms: 0.1, gamma_ms: 0.2, zeta_ms: 0.2}"


def client(script: str, *arguments: str) -> str:
    """What a client's process printed; it was content."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.e2e.{script}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_datatype_and_rank_through_tritonclient() -> None:
    services = {}
    for rank in range(6):
        tensors = {dtype: (dtype, (-1,) * rank) for dtype in KINDS}
        services[f"rank{rank}"] = served(f"rank{rank}", tensors, tensors, batchable=False)
    intake = ComputingIntake(services, lambda arrays: arrays, arena_bytes=1 << 22)
    with running_grpc(intake) as server:
        printed = client("triton_grpc_round_trips", str(server.port), "12")
    # 6 ranks x 14 datatypes x (3 codings + outputs by name + stream + asyncio + its stream)
    assert printed.split() == ["588"]
    assert intake.arena.bytes_used == 0
    intake.close()


def write_spec(folder: Path, model: Path) -> Path:
    spec = folder / "spec.yaml"
    spec.write_text(
        f"""\
version: 1
models:
  classifier:
    variants:
      base: {{onnx: {model}, accuracy: 0.9, batch_max: 8, cores_max: 2, latency: {LATENCY}}}
services:
  digits: {{slo: {{latency: 5s}}, pipeline: {{classify: {{model: classifier}}}}}}
  twin: {{slo: {{latency: 5s}}, pipeline: {{classify: {{model: classifier}}}}}}
policy: static
"""
    )
    return spec


@pytest.mark.parametrize("options", [(), ("--grpc-in-process",)])
def test_every_call_of_a_live_server(tmp_path: Path, mlp: Path, options: tuple[str, ...]) -> None:
    (port,) = free_ports(1)
    with serve(write_spec(tmp_path, mlp), tmp_path, "--grpc-port", str(port), *options) as server:
        assert [one["kind"] for one in server.status()["front_ends"]] == ([] if options else ["grpc"])
        client("triton_grpc_calls", f"127.0.0.1:{port}")
        counters = server.status()["services"]["digits"]["counters"]
        assert counters["completed"] >= 8
        server.process.terminate()
        assert server.process.wait(WAIT_S_MAX) == 0


def test_without_the_extra_a_server_says_so_and_goes_on(
    tmp_path: Path, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "grpc.py").write_text("raise ModuleNotFoundError('no', name='grpc')\n")
    monkeypatch.setenv("PYTHONPATH", str(lacking), prepend=os.pathsep)
    (port,) = free_ports(1)
    with serve(write_spec(tmp_path, mlp), tmp_path, "--grpc-port", str(port)) as server:
        assert server.status()["services"].keys() == {"digits", "twin"}
        line = "no gRPC: grpc is not installed (pip install '.[grpc]' in a clone of Steelyard's repository)"
        assert server.log.read_text().count(line) == 1
