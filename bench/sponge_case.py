"""Sponge's case: one stage, a constant rate, and a budget that shrinks with every slow upload.

20 requests a second on average for 600 s, 1000 ms each, of which the upload of 200 KB takes its part: what
arrives has the rest. The papers' bandwidth series (a 4G bus ride, 0.41 to 6.67 MB/s) is not ours to ship;
this one is SYNTHETIC: the logarithm is a first-order autoregression over the seconds, clipped to the same
range, with a mean budget near that of the original (927 ms left of 1000, least 525). Arrivals are a Poisson
process; the original's generator puts a whole second's requests into its first fifth.

The trace of each seed is written as CSV with its budgets (`t_s,latency_ms`), so that it can be given to
`steelyard simulate bench/specs/yolov5s.yaml --trace FILE --policy ...` as well.

    python bench/sponge_case.py [--seeds 5] [--traces out/sponge]
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _record import write
from numpy.typing import NDArray

from steelyard.config.load import load_spec
from steelyard.config.planning import Blueprint, blueprint
from steelyard.config.policy import chosen_policy
from steelyard.core.errors import SteelyardError
from steelyard.metrics.runs import RunSummary
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario
from steelyard.workload.read import read_trace
from steelyard.workload.trace import poisson_times

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "bench" / "specs" / "yolov5s.yaml"
SECONDS, RATE_RPS, SLO_MS, UPLOAD_MB = 600, 20, 1000.0, 0.2
BANDWIDTH_MB_S = (0.41, 6.67)
MEDIAN_MB_S, SIGMA, MEMORY = 4.5, 0.9, 0.95
"""Of the autoregression: exp of its mean, its stationary deviation, and its correlation after a second."""
POLICIES = ("sponge", "sponge+ours", "fa2", "fa2+ours", "static-8", "static-16", "steelyard")


def bandwidth_mb_s(rng: np.random.Generator) -> NDArray[np.float64]:
    """Megabytes a second, shape (SECONDS,)."""
    steps = rng.normal(size=SECONDS)
    level = np.empty(SECONDS)
    level[0] = steps[0]
    for second in range(1, SECONDS):
        level[second] = MEMORY * level[second - 1] + np.sqrt(1 - MEMORY**2) * steps[second]
    return np.clip(MEDIAN_MB_S * np.exp(SIGMA * level), *BANDWIDTH_MB_S)


def write_trace(path: Path, seed: int) -> NDArray[np.float64]:
    """A trace of requests with their budgets; returns the budgets in milliseconds, one a request."""
    rng = np.random.default_rng(seed)
    budgets_ms = SLO_MS - 1000 * UPLOAD_MB / bandwidth_mb_s(rng)
    times_s = poisson_times(RATE_RPS, SECONDS, rng)
    left_ms: NDArray[np.float64] = budgets_ms[times_s.astype(np.int64)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("t_s", "latency_ms"))
        rows.writerows((f"{t:.6f}", f"{ms:.3f}") for t, ms in zip(times_s, left_ms, strict=True))
    return left_ms


def run(known: Blueprint, policy: str, trace: Path, seed: int) -> RunSummary:
    """One policy on one seed's trace."""
    chosen = chosen_policy(load_spec(SPEC).spec, policy)
    with trace.open() as lines:
        arrivals = read_trace(lines, name=str(trace))
    made = Scenario(
        services=known.services,
        times=known.times,
        traces=dict.fromkeys(known.services, arrivals),
        policy=chosen.name,
        options=chosen.options,
        nodes=known.nodes,
        seed=seed,
        label=policy,
    )
    (summary,) = simulate(made).summaries
    return summary


def row(policy: str, runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Sums over the seeds; cores are means over time and seeds."""
    requests = sum(found.requests - found.cancelled for found in runs)
    return {
        "policy": policy,
        "violations": sum(found.violations for found in runs) / requests,
        "violations_min": min(found.violation_ratio for found in runs),
        "violations_max": max(found.violation_ratio for found in runs),
        "cores_mean": sum(found.core_seconds for found in runs) / len(runs) / SECONDS,
        "resizes": sum(found.resizes or 0 for found in runs) / len(runs),
        "cold_starts": sum(found.cold_starts or 0 for found in runs) / len(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--traces", type=Path, default=ROOT / "out" / "sponge")
    parser.add_argument("--policies", default=",".join(POLICIES))
    options = parser.parse_args()
    known = blueprint(load_spec(SPEC), cores_available=1)
    seeds = range(1, options.seeds + 1)
    traces = {seed: options.traces / f"seed-{seed}.csv" for seed in seeds}
    budgets_ms = np.concatenate([write_trace(path, seed) for seed, path in traces.items()])
    print(f"budgets: mean {budgets_ms.mean():.0f} ms, least {budgets_ms.min():.0f} ms")
    table: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for policy in options.policies.split(","):
        try:
            table.append(row(policy, [run(known, policy, traces[seed], seed) for seed in seeds]))
        except SteelyardError as error:
            refused[policy] = str(error)
            print(f"{policy:12} {error}")
            continue
        found = table[-1]
        print(
            f"{policy:12} {found['violations']:8.3%} violations, {found['cores_mean']:5.2f} cores", flush=True
        )
    payload = {
        "budget_ms": {"mean": float(budgets_ms.mean()), "min": float(budgets_ms.min())},
        "policies": table,
        "refused": refused,
    }
    if options.policies == ",".join(POLICIES):
        write("sponge_case", payload, seed=options.seeds)


if __name__ == "__main__":
    main()
