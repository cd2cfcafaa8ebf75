"""What the parity benches share: one live run with its journal, the same arrivals simulated, both compared.

The live run's journal says when each request arrived and what the machine took for dispatch, cold start and
resize (`steelyard.testing.recorded`); nothing else goes from the live run into the simulated one. Latencies
are the server's own, arrival to answer, for both; the client's are beside them.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from _live import finish_load, start_load
from numpy.typing import NDArray
from peers.stalls import Stalls

from steelyard.sim.result import latencies_s
from steelyard.sim.run import Simulation
from steelyard.sim.scenario import Scenario
from steelyard.testing.live import serve, wait_until
from steelyard.testing.recorded import RecordedRun, recorded_run

SIMULATED_SEEDS = 5
"""Draws of the service times for each live run."""


class Side(NamedTuple):
    """One run, live or simulated."""

    requests: int
    violations: int
    core_seconds: float
    latencies_s: NDArray[np.float64]


class Pair(NamedTuple):
    """One live run, and its arrivals simulated several times.

    `stalled` is the share of the live run that a stall of the machine has spoilt; 0 where nobody watched.
    """

    policy: str
    seed: int
    live: Side
    simulated: tuple[Side, ...]
    run: RecordedRun
    client: dict[str, Any]
    stalled: float


def pair(
    spec: Path,
    service: str,
    policy: str,
    counts: Sequence[int],
    payload: Path,
    *,
    seed: int,
    watchers: Sequence[Path] = (),
    **physics: Any,
) -> Pair:
    """Serve a trace, then simulate it; `watchers` are files of `peers.stalls.watched`."""
    stalls = Stalls(watchers, began_s := perf_counter())
    with tempfile.TemporaryDirectory() as made:
        run, client = live_run(spec, service, policy, counts, payload, Path(made), seed=seed)
    stalls.look()
    stalled = stalls.share(perf_counter() - began_s)
    scenarios = [run.scenario(seed=draw, **physics) for draw in range(SIMULATED_SEEDS)]
    live = Side(run.requests, run.violations, run.core_seconds, run.latencies_s)
    return Pair(policy, seed, live, tuple(map(simulated, scenarios)), run, client, stalled)


def live_run(
    spec: Path, service: str, policy: str, counts: Sequence[int], payload: Path, folder: Path, *, seed: int
) -> tuple[RecordedRun, dict[str, Any]]:
    """Serve one trace to its end; what the journal says, and what the generator measured."""
    journal = folder / "run.journal"
    with serve(spec, folder, "--policy", policy, "--journal", str(journal)) as server:
        slo_s = server.status()["services"][service]["slo_ms"] / 1e3
        load = start_load(server, service, counts, payload, folder, slo_s=slo_s, seed=seed)
        client = finish_load(*load, seconds_max=len(counts) + 60.0)
        end_s = server.status()["now_s"] + 1.0  # the trace ends with the second of its last arrival
        wait_until(lambda: server.status()["now_s"] >= end_s, "the end of the trace")
    return recorded_run(journal, service), client


def simulated(scenario: Scenario) -> Side:
    """One run of one service."""
    simulation = Simulation(scenario)
    (summary,) = simulation.run().summaries
    (service,) = scenario.services.values()
    latencies = latencies_s(service, simulation.accounts[service.name].ends())
    return Side(summary.requests, summary.violations, summary.core_seconds, latencies)


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Live against simulated over all seeds of a policy: differences in points, ratios simulated to live."""
    live = [pair.live for pair in pairs]
    sides = [side for pair in pairs for side in pair.simulated]
    ours, theirs = _figures(sides), _figures(live)
    return {
        "policy": pairs[0].policy,
        "seeds": len(pairs),
        "requests": sum(side.requests for side in live),
        "live": theirs,
        "simulated": ours,
        "violations_points": 100 * (ours["violation_ratio"] - theirs["violation_ratio"]),
        "core_seconds_ratio": ours["core_seconds"] / theirs["core_seconds"],
        "p50_ratio": ours["p50_ms"] / theirs["p50_ms"],
        "p99_ratio": ours["p99_ms"] / theirs["p99_ms"],
        "live_p99_ms": sorted(_ms(side, 0.99) for side in live),
        "client_p50_ms": median(pair.client["latency_ms"]["p50"] for pair in pairs),
        "client_p99_ms": median(pair.client["latency_ms"]["p99"] for pair in pairs),
        "client_violation_ratio": sum(pair.client["violations"] for pair in pairs)
        / sum(pair.client["offered"] for pair in pairs),
        "void": sum(bool(pair.client["void"]) for pair in pairs),
        "constants": [pair.run.constants._asdict() for pair in pairs],
    }


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    live, ours = row["live"], row["simulated"]
    return (
        f"{row['policy']:12} {row['requests']:6}  violations {100 * live['violation_ratio']:6.2f} % "
        f"{row['violations_points']:+6.2f} points  core-seconds {live['core_seconds']:7.1f} "
        f"x {row['core_seconds_ratio']:.3f}  p50 {live['p50_ms']:6.1f} ms x {row['p50_ratio']:.3f}  "
        f"p99 {live['p99_ms']:6.1f} ms x {row['p99_ratio']:.3f}  (simulated p99 {ours['p99_ms']:.1f})"
    )


def misses(row: dict[str, Any], within: Mapping[str, float]) -> list[str]:
    """Which of the bands a policy does not keep: points from 0, ratios from 1."""
    off = {key: abs(row[key] - (0.0 if key.endswith("points") else 1.0)) for key in within}
    return [f"{key} {row[key]:.3f}" for key, band in within.items() if off[key] > band]


def _figures(sides: Sequence[Side]) -> dict[str, float]:
    """Of all runs together; core-seconds of one."""
    together = np.concatenate([side.latencies_s for side in sides])
    return {
        "violation_ratio": sum(side.violations for side in sides) / sum(side.requests for side in sides),
        "core_seconds": sum(side.core_seconds for side in sides) / len(sides),
        "p50_ms": float(np.quantile(together, 0.5)) * 1e3,
        "p99_ms": float(np.quantile(together, 0.99)) * 1e3,
    }


def _ms(side: Side, share: float) -> float:
    return float(np.quantile(side.latencies_s, share)) * 1e3
