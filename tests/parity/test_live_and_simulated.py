"""The real server with sleeping workers, and its own arrivals simulated, tell the same story.

Short, and the machine may be busy with anything: the bands are wide. bench/parity_sleep.py has narrow ones.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from steelyard.demo.processes import steelyard_command
from steelyard.sim.run import simulate
from steelyard.testing.live import serve, wait_until
from steelyard.testing.recorded import RecordedRun, recorded_run

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SPEC = """\
version: 1
cluster: {cores: 2}
models:
  sleeper:
    variants:
      base:
        runtime: sleep
        options: {alpha_ms: 40, beta_ms: 4, gamma_ms: 4, zeta_ms: 4, spread: 0.05, load_ms: 200}
        latency: {alpha_ms: 40, beta_ms: 4, gamma_ms: 4, zeta_ms: 4, spread: 0.05}
        batch_max: 4
        cores_max: 2
        cold_start: 350ms
services:
  naps: {slo: {latency: 400ms}, pipeline: {sleep: {model: sleeper}}}
policies:
  two: {name: static, replicas: 2, cores: 1, batch: 4}
"""
COUNTS = (6, 6, 24, 24, 24, 6)
"""A second; one core answers 19 rows a second one by one, two replicas of one 38."""


def live(folder: Path, policy: str) -> RecordedRun:
    """Serve the trace, and read the journal."""
    spec, trace, payload = folder / "spec.yaml", folder / "trace.txt", folder / "x.npy"
    journal, result = folder / "run.journal", folder / "load.json"
    spec.write_text(SPEC)
    trace.write_text("".join(f"{count}\n" for count in COUNTS))
    np.save(payload, np.ones((1, 1), np.float32))
    with serve(spec, folder, "--policy", policy, "--journal", str(journal)) as server:
        command = steelyard_command(
            "load", server.url, "--model", "naps", "--trace", str(trace), "--input", str(payload),
            "--json", str(result),
        )  # fmt: skip
        done = subprocess.run(command, timeout=100, check=False, capture_output=True)
        assert done.returncode in (0, 1), done.stderr  # 1: the generator was late, as on a busy machine
        end_s = server.status()["now_s"] + 1.0
        wait_until(lambda: server.status()["now_s"] >= end_s, "the end of the trace")
    assert json.loads(result.read_text())["offered"] == sum(COUNTS)
    return recorded_run(journal, "naps")


@pytest.mark.parametrize("policy", ["two", "steelyard"])
def test_simulation_tells_what_the_server_did(policy: str, tmp_path: Path) -> None:
    run = live(tmp_path, policy)
    assert run.requests == sum(COUNTS)
    (simulated,) = simulate(run.scenario(seed=1)).summaries
    assert simulated.requests == run.requests
    assert simulated.core_seconds == pytest.approx(run.core_seconds, rel=0.02 if policy == "two" else 0.35)
    assert abs(simulated.violations - run.violations) <= 0.25 * run.requests
    p50_ms = float(np.median(run.latencies_s)) * 1e3
    assert simulated.latency_ms["p50"] == pytest.approx(p50_ms, rel=0.5)
    assert run.constants.service_ratio > 0.97  # a sleeping batch takes what it was told, never less
