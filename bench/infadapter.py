"""InfAdapter's case: one model in five variants, 750 ms, and a burst; on its published capacity table.

*By reckoning*: for budgets of 8, 14 and 20 cores and loads of 20 to 300 requests a second, the dynamic
program against enumeration of all sets, and the mix against the published rule (capacities on a line, less a
fifth) and against the best single variant, each with the cores that the other one took. A rule is judged on
the measured capacities, of which all keep a fifth as headroom.

*Simulated*: a stretch of 21 minutes of the Twitter series that is most like the paper's burst (27 to 274
requests a second, mean 97) and the steepest surge, loads scaled with the budget. The baseline is the
Kubernetes VPA with one fixed variant, which here resizes in place, where the authors' ran as create before
delete; as published (`vpa`: nothing is ever dropped, so that a backlog makes everybody late who comes after
it) and on the shared data plane (`vpa+ours`). What no table says is made from it: a replica of n cores takes
rows one at a time, each in the constant time with which Poisson arrivals at exactly the published capacity
have a 0.99 quantile of 750 ms. So what the simulator carries within the SLO is the published table. Loading
takes the published seconds, a resize 50 ms.

The table is not ours to ship (it carries no licence): give its path.

    python bench/infadapter.py [--quick] [--table CSV] [--trace FILE] [--seeds 1] [--budgets 20]
"""

import argparse
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _record import write
from surges import SLICE_S, TRACE, counts_of, surges

from steelyard.core.types import Service, Stage, Variant
from steelyard.metrics.runs import RunSummary
from steelyard.plan.infadapter import (
    SAFETY,
    Candidate,
    Mix,
    MixProblem,
    best_single,
    evaluated,
    fitted,
    front,
    solve,
)
from steelyard.plan.infadapter_brute import best_value
from steelyard.plan.infadapter_capacity import carried_rps
from steelyard.plan.tails import Floats
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.many import simulate_many
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import CountTrace, count_trace

SHARED = Path(__file__).parents[2] / "shared" / "data" / "profiles" / "infadapter-capacity.csv"
SLO_S, QUANTILE = 0.75, 0.99
CORES_MAX = 20
BUDGETS = (8, 14, 20)
LOADS = range(20, 301, 5)
PAPERS = {"least": 27.0, "most": 274.0, "mean": 97.0}
STRETCH_S, SURGES = 1260, 1
NODE_CORES = 40
"""Twice the largest budget: as in the paper, what starts does not have to wait for what it replaces."""


class Known(NamedTuple):
    """A variant as published: ImageNet top-1 accuracy, and seconds until it is loaded and ready."""

    depth: str
    accuracy: float
    load_s: float


VARIANTS = (
    Known("18", 0.69758, 6.44),
    Known("34", 0.73314, 6.79),
    Known("50", 0.7613, 6.82),
    Known("101", 0.77374, 7.77),
    Known("152", 0.78312, 8.52),
)

MIXES: dict[str, tuple[str, dict[str, Any]]] = {
    "infadapter": ("infadapter", {}),
    "infadapter, measured capacities": ("infadapter", {"capacity": "measured"}),
    "infadapter, measured, shared data plane": ("infadapter+ours", {"capacity": "measured"}),
    "best single variant (MS+)": ("infadapter", {"mix": False}),
    "steelyard": ("steelyard", {}),
}


def capacities(path: Path) -> dict[str, tuple[float, ...]]:
    """Requests a second within 750 ms on 1 to 20 cores, by depth."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["SLA"] == str(int(SLO_S * 1000))]
    found = {(row["ARCH"], int(row["CPU"])): float(row["capacity"] or 0) for row in rows}
    return {known.depth: tuple(found[known.depth, n] for n in range(1, CORES_MAX + 1)) for known in VARIANTS}


def problem(
    table: dict[str, tuple[float, ...]], rate: float, cores: int, *, fits: bool = False
) -> MixProblem:
    """The published problem, on measured capacities or on the published line."""
    candidates = tuple(
        Candidate(
            f"resnet{known.depth}",
            known.accuracy,
            fitted(table[known.depth]) if fits else tuple(SAFETY * rps for rps in table[known.depth]),
            known.load_s,
        )
        for known in VARIANTS
    )
    return MixProblem(candidates, rate, cores)


def reckoned(table: dict[str, tuple[float, ...]], loads: Sequence[int]) -> list[dict[str, Any]]:
    """For each budget: equality with enumeration, solve times, and gains at equal cores."""
    rows = []
    for budget in BUDGETS:
        equal = 0
        solve_ms: list[float] = []
        over_rule: list[float] = []
        over_single: list[float] = []
        too_little = 0
        for rate in loads:
            asked = problem(table, float(rate), budget)
            began_s = time.process_time()
            ours = solve(asked)
            solve_ms.append(1000 * (time.process_time() - began_s))
            best = best_value(asked)
            value = ours.value if isinstance(ours, Mix) else None
            equal += value == best if value is None or best is None else abs(value - best) < 1e-9
            points = front(asked)
            rule = solve(problem(table, float(rate), budget, fits=True))
            if isinstance(rule, Mix):
                judged = _judged(asked, rule)
                if judged is None:
                    too_little += 1
                else:
                    over_rule.append(_best_at(points, rule.cores) - judged)
            single = best_single(asked)
            if isinstance(single, Mix):
                over_single.append(_best_at(points, single.cores) - single.accuracy)
        rows.append(
            {
                "budget": budget,
                "loads": len(loads),
                "equal": equal,
                "solve_ms_max": max(solve_ms),
                "rule_plans": len(over_rule) + too_little,
                "rule_too_little": too_little,
                "gain_over_rule": _spread(over_rule),
                "gain_over_single": _spread(over_single),
            }
        )
    return rows


def _judged(measured: MixProblem, rule: Mix) -> float | None:
    """Accuracy of the rule's cores on measured capacities; None where they do not carry the load."""
    cores = {portion.variant: portion.cores for portion in rule.portions}
    judged = evaluated(measured, [cores.get(each.name, 0) for each in measured.candidates])
    carries = sum(portion.share for portion in judged.portions) >= 1 - 1e-9
    return judged.accuracy if carries else None


def _best_at(points: Sequence[Mix], cores: int) -> float:
    """The highest accuracy on at most so many cores; 0 where nothing carries the load."""
    return max((mix.accuracy for mix in points if mix.cores <= cores), default=0.0)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"least": min(values), "mean": sum(values) / len(values), "most": max(values)}


def service_s(rps: Floats) -> Floats:
    """The constant service times with which replicas carry exactly `rps` within the SLO."""
    low, high = np.full(rps.shape, 1e-4), np.full(rps.shape, SLO_S)
    for _ in range(50):
        middle = (low + high) / 2
        carries = carried_rps(middle, middle, slo_s=SLO_S, quantile=QUANTILE) > rps
        low, high = np.where(carries, middle, low), np.where(carries, high, middle)
    found: Floats = (low + high) / 2
    return found


def times_of(table: dict[str, tuple[float, ...]]) -> StageTimes:
    """The service times of all variants."""
    times_ms = 1000 * service_s(np.array([table[known.depth] for known in VARIANTS]))
    declared = {}
    for known, of_variant in zip(VARIANTS, times_ms.tolist(), strict=True):
        points = tuple((1, float(n), ms, ms) for n, ms in enumerate(of_variant, start=1))
        declared[f"resnet{known.depth}"] = DeclaredLatency(table=points, spread=0.0, distribution="fixed")
    return StageTimes("images", "classify", declared=declared)


def service(budget: int, depths: Sequence[str]) -> Service:
    """The service with some of the variants, the most accurate first."""
    variants = tuple(
        Variant(f"resnet{k.depth}", k.accuracy, 1, CORES_MAX, k.load_s, 0.05)
        for k in sorted(VARIANTS, key=lambda k: -k.accuracy)
        if k.depth in depths
    )
    stage = Stage("classify", variants)
    return Service("images", SLO_S, (stage,), QUANTILE, reply_s=0.0, cores_max=float(budget))


def scenarios(times: StageTimes, trace: CountTrace, budget: int, seed: int, *, quick: bool) -> list[Scenario]:
    """Every policy on one load."""
    scaled = trace.scale(budget / CORES_MAX) if budget != CORES_MAX else trace
    asked: dict[str, tuple[str, dict[str, Any], list[str]]] = {
        f"{policy}, {k.depth}": (policy, {}, [k.depth]) for policy in ("vpa", "vpa+ours") for k in VARIANTS
    }
    every = [known.depth for known in VARIANTS]
    asked |= {label: (policy, options, every) for label, (policy, options) in MIXES.items()}
    if quick:
        asked = {
            label: asked[label] for label in ("vpa, 50", "infadapter", "infadapter, measured capacities")
        }
    return [
        Scenario(
            services={"images": service(budget, depths)},
            times=(times,),
            traces={"images": scaled},
            policy=policy,
            options=options,
            nodes=(SimulatedNode("node", NODE_CORES),),
            seed=seed,
            label=label,
        )
        for label, (policy, options, depths) in asked.items()
    ]


def like_the_papers(path: Path) -> int:
    """Where the 21 minutes without missing seconds begin that are most like the paper's burst.

    Nearest by the sum of squared logarithms of ratios of least, most and mean; every whole minute is tried.
    """
    counts = counts_of(path)
    best, found = math.inf, 0
    for begin in range(0, len(counts) - STRETCH_S + 1, 60):
        part = counts[begin : begin + STRETCH_S]
        least = int(part.min())
        if not least:
            continue
        levels = {"least": least, "most": int(part.max()), "mean": float(part.mean())}
        distance = sum(math.log(level / PAPERS[name]) ** 2 for name, level in levels.items())
        if distance < best:
            best, found = distance, begin
    return found


def loads(path: Path, *, quick: bool) -> dict[str, CountTrace]:
    """Stretches of the series by name."""
    counts = counts_of(path)
    begin = like_the_papers(path)
    found = {"burst like the paper's": counts[begin : begin + (STRETCH_S // 7 if quick else STRETCH_S)]}
    if not quick:
        for each in surges(path, SURGES):
            found[each.name] = counts[each.from_s : each.from_s + SLICE_S]
    return {name: count_trace(part) for name, part in found.items()}


def row(budget: int, label: str, runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Sums over loads and seeds; accuracy by completed requests."""
    requests = sum(run.requests - run.cancelled for run in runs)
    completed = sum(run.completed for run in runs)
    known = [run for run in runs if run.accuracy_mean is not None]
    seconds = sum(run.simulated_s or 0.0 for run in runs)
    return {
        "budget": budget,
        "policy": label,
        "violations": sum(run.violations for run in runs) / requests,
        "cores_mean": sum(run.core_seconds for run in runs) / seconds,
        "accuracy": sum((run.accuracy_mean or 0.0) * run.completed for run in known) / max(completed, 1),
        "cold_starts": sum(run.cold_starts or 0 for run in runs),
        "resizes": sum(run.resizes or 0 for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few loads, one short run; nothing is stored")
    parser.add_argument("--table", type=Path, default=SHARED)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budgets", default="20", help="of the simulations, separated by commas")
    options = parser.parse_args()
    table = capacities(options.table)
    proofs = reckoned(table, LOADS[::8] if options.quick else LOADS)
    for each in proofs:
        print(each)
    times = times_of(table)
    found: list[dict[str, Any]] = []
    traces = loads(options.trace, quick=options.quick)
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    for budget in [int(each) for each in options.budgets.split(",")]:
        asked = [
            one
            for trace in traces.values()
            for seed in seeds
            for one in scenarios(times, trace, budget, seed, quick=options.quick)
        ]
        runs: dict[str, list[RunSummary]] = {}
        for run in simulate_many(asked):
            runs.setdefault(run.label, []).extend(run.summaries)
        for label, summaries in runs.items():
            found.append(row(budget, label, summaries))
            shown = found[-1]
            print(
                f"{budget:3} cores {label:40} {shown['violations']:8.3%} violations, "
                f"{shown['cores_mean']:6.2f} cores, accuracy {shown['accuracy']:.4f}",
                flush=True,
            )
    if not options.quick:
        payload = {"plans": proofs, "runs": found, "loads": list(traces), "seconds": STRETCH_S}
        write("infadapter", payload, seed=options.seeds)


if __name__ == "__main__":
    main()
