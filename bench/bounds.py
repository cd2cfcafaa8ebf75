"""Bounds of requests in a mixed stream, simulated: how many that could be kept to were missed.

A chain of three stages with two, one and three variants; two replicas a stage with all of them resident, on
one and on two cores. Requests come as a Poisson process at parts of what the replicas carry with the most
accurate variants. Every other one may have bounds: each of latency, accuracy and cost with a chance of a
third, in values around what is possible, so that some sets are impossible. Times are the profile's
(`spread` 0: what is overshot is overshot by choice) or vary around it (log-normal).

    python bench/bounds.py [--quick] [--seeds 5]

Refusals are judged by enumerating the plans of an idle fleet: `impossible` had none, `not_now` had one that
the moment did not allow (`tests/property/test_bounds.py` judges those against the plans of the moment). Of
the others, the *feasible* ones: `kept`; `shed` (admitted, and lost to others or to the clock); `overshot`
by bound.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import product
from math import inf
from typing import Any

import numpy as np
from _record import write

from steelyard.core.commands import Complete, Reject
from steelyard.core.events import ReplicaReady
from steelyard.core.plan import ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId, Service, Stage, Variant
from steelyard.testing.one_machine import OneMachine

SLO_S = 0.3
STAGES = {
    "detect": {"detect-small": 0.95, "detect-tiny": 0.91},
    "classify": {"classify": 0.99},
    "read": {"read-big": 0.97, "read-mid": 0.94, "read-small": 0.88},
}
"""Accuracy by variant, most accurate first."""
ROW_MS = {
    "detect-small": 30.0,
    "detect-tiny": 12.0,
    "classify": 4.0,
    "read-big": 20.0,
    "read-mid": 11.0,
    "read-small": 4.0,
}
"""Of one row on one core; a further row of a batch takes 0.8 of that; 0.85 of it all is shared by cores."""
CORES = (1.0, 2.0)
LOADS = (0.3, 0.6, 0.9, 1.2)


class Times:
    """Service times of every variant."""

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        del bucket
        return ROW_MS[variant] / 1000 * (1 + 0.8 * (rows - 1)) * (0.15 + 0.85 / cores)

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        return 1.13 * self.service_time_s(variant, bucket, rows, cores)


TIMES = Times()


def setting() -> tuple[Service, ServicePlan]:
    """The service and its plan: all to the most accurate variants, as long as that is in time."""
    stages: list[Stage] = []
    plans: dict[str, StagePlan] = {}
    for name, variants in STAGES.items():
        after = (stages[-1].name,) if stages else ()
        stages.append(Stage(name, tuple(Variant(v, a, 4, 2) for v, a in variants.items()), after))
        mix = tuple(VariantShare(variant, float(index == 0)) for index, variant in enumerate(variants))
        plans[name] = StagePlan((), mix, 4, rules=StageRules(choice="fit"))
    return Service("ocr", SLO_S, tuple(stages), reply_s=0.0), ServicePlan("ocr", plans)


def capacity_rps() -> float:
    """Rows a second of the narrowest stage, one at a time, most accurate."""
    return min(
        sum(1 / TIMES.service_time_s(next(iter(variants)), 0, 1, cores) for cores in CORES)
        for variants in STAGES.values()
    )


def stream(load: float, seconds: float, rng: np.random.Generator) -> Iterator[Request]:
    """A Poisson stream; every other request may have bounds."""
    now_s, sequence = 0.0, 0
    while (now_s := now_s + rng.exponential(1 / (load * capacity_rps()))) < seconds:
        sequence += 1
        latency_s, min_accuracy, max_core_ms = SLO_S, None, None
        if rng.random() < 0.5:
            if rng.random() < 1 / 3:
                latency_s = float(rng.uniform(0.01, SLO_S))
            if rng.random() < 1 / 3:
                min_accuracy = float(rng.uniform(0.75, 0.93))
            if rng.random() < 1 / 3:
                max_core_ms = float(rng.uniform(15.0, 80.0))
        yield Request(
            RequestId(0, sequence),
            "ocr",
            1,
            "x",
            now_s,
            now_s + latency_s,
            min_accuracy=min_accuracy,
            max_core_ms=max_core_ms,
        )


def is_possible(request: Request) -> bool:
    """Whether any plan of an idle fleet keeps to all bounds."""
    for chosen in product(*[product(variants, CORES) for variants in STAGES.values()]):
        took_s = core_ms = 0.0
        accuracy = 1.0
        for variants, (variant, cores) in zip(STAGES.values(), chosen, strict=True):
            service_s = TIMES.service_time_s(variant, 0, 1, cores)
            took_s += service_s
            core_ms += 1000 * service_s * cores
            accuracy *= variants[variant]
        if (
            took_s <= request.deadline_s - request.arrived_s
            and core_ms <= (request.max_core_ms or inf)
            and accuracy >= (request.min_accuracy or 0.0)
        ):
            return True
    return False


def run(load: float, spread: float, seconds: float, seed: int) -> Counter[str]:
    """Ends of all requests with bounds, by what became of them."""
    rng = np.random.default_rng(seed)
    service, plan = setting()
    machine = ServiceMachine(service, dict.fromkeys(STAGES, TIMES), plan)
    places = [(name, cores) for name in STAGES for cores in CORES]
    ready = [
        (0.0, ReplicaReady(number, name, "local", cores, tuple(STAGES[name])))
        for number, (name, cores) in enumerate(places, start=1)
    ]

    def sample_s(variant: str, bucket: int, rows: int, cores: float) -> float:
        factor = float(np.exp(rng.normal(0.0, spread))) if spread else 1.0
        return factor * TIMES.service_time_s(variant, bucket, rows, cores)

    arrivals = list(stream(load, seconds, rng))
    outcomes = OneMachine(machine, [], arrivals, sample_s, events=ready).run()
    found: Counter[str] = Counter()
    for request, end, _ in outcomes.values():
        has_own = request.deadline_s - request.arrived_s < SLO_S - 1e-9
        if not has_own and request.min_accuracy is None and request.max_core_ms is None:
            continue
        found["bounded"] += 1
        if isinstance(end, Reject):
            found["not_now" if is_possible(request) else "impossible"] += 1
        elif isinstance(end, Complete):
            found["overshot" if end.missed else "kept"] += 1
            for name in end.missed:
                found[f"overshot_{name}"] += 1
        else:
            found["shed"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="how many bounds that could be kept to were missed")
    parser.add_argument("--quick", action="store_true", help="one seed, 20 s; records nothing")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    seeds, seconds = (1, 20.0) if options.quick else (options.seeds, options.seconds)
    rows: list[dict[str, Any]] = []
    for spread in (0.0, 0.05):
        for load in LOADS:
            total: Counter[str] = Counter()
            for seed in range(seeds):
                total += run(load, spread, seconds, seed)
            feasible = total["kept"] + total["overshot"] + total["shed"]
            row = {"load": load, "spread": spread, **total, "feasible": feasible}
            row["overshot_ratio"] = total["overshot"] / max(feasible, 1)
            row["shed_ratio"] = total["shed"] / max(feasible, 1)
            rows.append(row)
            print(
                f"load {load:.1f}, spread {spread:.2f}: {total['bounded']} with bounds, "
                f"{total['impossible']} impossible, {total['not_now']} not now; of {feasible} feasible "
                f"{row['overshot_ratio']:.3%} overshot, {row['shed_ratio']:.3%} shed"
            )
    if not options.quick:
        write("bounds", {"seconds": seconds, "seeds": seeds, "slo_s": SLO_S, "rows": rows}, seed=0)


if __name__ == "__main__":
    main()
