"""Live against simulated with known service times: the real server, whose workers sleep.

A surge is replayed through HTTP against `steelyard serve` with the `sleep` runtime (fake replicas that take
l(b, c) = alpha b / c + beta b + gamma / c + zeta and need no core for it), and the arrivals that the server
stamped are simulated with the same policy. Wanted, over all seeds of a policy: violations within 1 point,
core-seconds within 5 %, p50 and p99 within 10 %.

Where it runs: generator, front end and decisions at nice 0, unpinned; sleeping workers; one machine, nothing
else running.

    python bench/parity_sleep.py [--seeds 5] [--seconds 40] [--policies steelyard,static2] [--dry]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _parity import SIMULATED_SEEDS, compare, misses, pair, show
from _record import write

from steelyard.workload.synth import counts_of, surge

SERVICE = "naps"
BASE_RPS, SURGE_RPS = 8.0, 30.0
"""One core answers 19 rows a second one by one, two replicas of a core 38."""
COEFFICIENTS = {"alpha_ms": 40.0, "beta_ms": 4.0, "gamma_ms": 4.0, "zeta_ms": 4.0, "spread": 0.05}
LOAD_MS = 400.0
POLICIES = ("static1", "static2", "steelyard")
SPEC = """\
version: 1
cluster: {{cores: 2}}
models:
  sleeper:
    variants:
      base:
        runtime: sleep
        options: {{{options}, load_ms: {load_ms:g}}}
        latency: {{{options}}}
        batch_max: 4
        cores_max: 2
        cold_start: {cold_start_ms:g}ms
services:
  {service}: {{slo: {{latency: 250ms}}, pipeline: {{sleep: {{model: sleeper}}}}}}
policies:
  static1: {{name: static, replicas: 1, cores: 1, batch: 4}}
  static2: {{name: static, replicas: 2, cores: 1, batch: 4}}
policy: steelyard
"""
WITHIN = {"violations_points": 1.0, "core_seconds_ratio": 0.05, "p50_ratio": 0.10, "p99_ratio": 0.10}


def write_spec(path: Path) -> Path:
    """The sleeping service."""
    options = ", ".join(f"{key}: {value:g}" for key, value in COEFFICIENTS.items())
    cold_start_ms = LOAD_MS + 130
    path.write_text(
        SPEC.format(service=SERVICE, options=options, load_ms=LOAD_MS, cold_start_ms=cold_start_ms)
    )
    return path


def surge_counts(seconds: int, seed: int) -> list[int]:
    """The base rate, a surge in the second quarter of the time, the base rate."""
    rates = surge(
        seconds, base_rps=BASE_RPS, surge_rps=SURGE_RPS, from_s=seconds // 4, to_s=max(seconds // 2, 1)
    )
    counts: list[int] = counts_of(rates, np.random.default_rng(seed)).counts.tolist()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=40, help="length of each run")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    options = parser.parse_args()
    policies = options.policies.split(",")
    with tempfile.TemporaryDirectory() as made:
        spec = write_spec(Path(made) / "spec.yaml")
        payload = Path(made) / "x.npy"
        np.save(payload, np.ones((1, 1), np.float32))
        pairs = [
            pair(spec, SERVICE, policy, surge_counts(options.seconds, seed), payload, seed=seed)
            for seed in range(1, options.seeds + 1)
            for policy in policies
        ]
    rows = [compare([p for p in pairs if p.policy == policy]) for policy in policies]
    for row in rows:
        row["misses"] = misses(row, WITHIN)
        print(show(row), "missed: " + "; ".join(row["misses"]) if row["misses"] else "", flush=True)
        print("   ", row["constants"][-1], "client", row["client_p50_ms"], row["client_p99_ms"])
    if not options.dry:
        settings = {"coefficients": COEFFICIENTS, "within": WITHIN, "simulated_seeds": SIMULATED_SEEDS}
        placement = "generator, front end: nice 0, unpinned; sleeping workers; one machine"
        write(
            "parity_sleep",
            {**settings, "seconds": options.seconds, "placement": placement, "policies": rows},
            seed=options.seeds,
        )


if __name__ == "__main__":
    main()
