"""Three axes against two: a simulated surge beyond what the cores carry at full accuracy.

A text recogniser in three variants that cost 2.9, 11.5 and 14 ms a line on one core, in the proportions of a
small family of public ones; 85 % of a line's time is shared by further cores, and batches gain nothing, as is
usual for such models. Their accuracies are placeholders (exact lines of 300 rendered ones): nothing here
depends on them but the mean accuracies. `steelyard` with all three axes, without variants (the accurate one
alone), and with the small one alone; and with floors of mean accuracy and a cap of cores. Arrivals are
synthetic: a base rate, a surge, the base rate again, Poisson.

    python bench/variants.py [--quick] [--seeds 5] [--processes 1]
"""

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from _record import write

from steelyard.core.types import Objective, Service, Stage, Variant
from steelyard.metrics.runs import RunSummary
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.many import simulate_many
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.synth import counts_of, surge

COST_MS = {"small": 14.0, "v3": 11.5, "tiny": 2.9}
"""A line on one core, most accurate first."""
ACCURACY = {"small": 0.99, "v3": 0.94, "tiny": 0.89}
SHARED = 0.85
"""Part of a line's time that further cores share."""
SLO_S, COLD_START_S, LOAD_S = 0.2, 0.5, 0.3
CORES = 4
LINE = (
    "{case:38} {surge:4.1f}x: {violations:8.3%} violations, accuracy {accuracy:.3f}, "
    "{core_seconds:6.1f} core-s, p99 {p99_ms:4.0f} ms, {switches:6.0f} switches, {resizes:5.0f} resizes"
)
BASE, SURGES = 0.4, (0.8, 1.5, 2.5)
"""Rates, over what the cores carry at full accuracy."""


class Case(NamedTuple):
    """What is compared: a name, the variants there are, and the objective."""

    name: str
    variants: tuple[str, ...]
    objective: Objective | None = None


CASES = (
    Case("three axes", ("small", "v3", "tiny")),
    Case("two axes: the accurate variant alone", ("small",)),
    Case("two axes: the small variant alone", ("tiny",)),
    Case("three axes, floor 0.95", ("small", "v3", "tiny"), Objective(accuracy_floor=0.95)),
    Case("three axes, floor 0.92", ("small", "v3", "tiny"), Objective(accuracy_floor=0.92)),
    Case("three axes, at most 2 cores", ("small", "v3", "tiny"), Objective(cost_max_cores=2.0)),
)


def scenario(case: Case, surge_of: float, seed: int, seconds: int) -> Scenario:
    """One run: the base rate, from a third of the time on the surge, for a third."""
    variants = tuple(
        Variant(name, ACCURACY[name], 8, CORES, COLD_START_S, 0.001, load_s=LOAD_S) for name in case.variants
    )
    service = Service("read", SLO_S, (Stage("read", variants),), objective=case.objective)
    declared = {
        name: DeclaredLatency((SHARED * COST_MS[name], (1 - SHARED) * COST_MS[name], 0.0, 0.0))
        for name in case.variants
    }
    full_rps = CORES * 1000.0 / COST_MS["small"]
    rates = surge(
        seconds,
        base_rps=BASE * full_rps,
        surge_rps=surge_of * full_rps,
        from_s=seconds // 3,
        to_s=2 * seconds // 3,
    )
    return Scenario(
        {"read": service},
        (StageTimes("read", "read", (), declared),),
        {"read": counts_of(rates, np.random.default_rng(seed))},
        "steelyard",
        {},
        (SimulatedNode("local", CORES),),
        seed=seed,
        label=case.name,
    )


def row(case: Case, surge_of: float, runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Means over the seeds, and the worst of violations."""
    return {
        "case": case.name,
        "surge": surge_of,
        "violations": fmean(run.violation_ratio for run in runs),
        "violations_max": max(run.violation_ratio for run in runs),
        "accuracy": fmean(run.accuracy_mean or 0.0 for run in runs),
        "core_seconds": fmean(run.core_seconds for run in runs),
        "p99_ms": fmean(run.latency_ms["p99"] or 0.0 for run in runs),
        "switches": fmean(run.switches or 0 for run in runs),
        "resizes": fmean(run.resizes or 0 for run in runs),
    }


def main() -> None:
    """Run, print and store."""
    options = _arguments()
    seeds = range(1, (1 if options.quick else options.seeds) + 1)
    seconds = 30 if options.quick else options.seconds
    rows = []
    for surge_of in SURGES[1:2] if options.quick else SURGES:
        for case in CASES:
            scenarios = [scenario(case, surge_of, seed, seconds) for seed in seeds]
            runs = simulate_many(scenarios, processes=options.processes)
            rows.append(row(case, surge_of, [run.summaries[0] for run in runs]))
            print(LINE.format(**rows[-1]))
    payload = {
        "cost_ms": COST_MS,
        "accuracies": ACCURACY,
        "shared": SHARED,
        "slo_ms": SLO_S * 1e3,
        "cores": CORES,
        "seconds": seconds,
        "base": BASE,
        "rows": rows,
    }
    write("variants_quick" if options.quick else "variants", payload, seed=len(seeds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, one surge, 30 s")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
