"""IPA's case: five pipelines, accuracy against cores at every load, violations, and the solver's time.

*By reckoning*, for loads of 1 to 34 requests a second: the published program (base allocation, published
batch cap and weights) against the same cores spent by the front over every measured size and batches up to 8,
and against the cheapest plan of the same accuracy. FA2-low and FA2-high fix the least and the most accurate
variant of each stage, RIM the replicas: as many as the most accurate variants need for the mean load, and at
least what the least accurate need for the largest.

*Simulated*, with Poisson arrivals within each second on four stretches of 10 minutes: violations (late or
dropped) over requests, mean cores, accuracy over requests. `ipa, 20 s` looks back as far as its predictor
looks ahead; `ipa, no cap` may use batches up to 8; `ipa+ours` plans for busy replicas and runs on the shared
data plane. The published timeouts stand beside them for comparison, not to the digit: the paper's own loads
are not known to the second.

*The solver*: the whole front at 9 stages x 9 variants x 8 batches, latency rounded up to a five-hundredth of
the SLO, CPU time over 10 random pipelines; and equality with enumeration at 4 x 4.

    python bench/ipa.py [--quick] [--profiles FOLDER] [--trace FILE] [--seed 1]
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _record import write
from ipa_cases import PROFILES, Pipeline, loads, pipelines
from msgspec.structs import replace
from surges import TRACE

from steelyard.core.types import Objective
from steelyard.metrics.runs import RunSummary
from steelyard.plan.accuracy import pick
from steelyard.plan.ipa import IpaFront, IpaPoint, IpaProblem, IpaStage, IpaVariant, front
from steelyard.sim.many import simulate_many
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import CountTrace

RATES = range(1, 35)
ROWS_MAX = 8
NODE_CORES = 576
"""Six machines of 96 cores, as published."""
UNMEASURED_BASE = {"base_rate": 1e6}
"""In a simulation a variant has one size, that of its base allocation: no other is looked for."""
PUBLISHED_TIMEOUTS = {
    name: count / 14437
    for name, count in {"video": 69, "audio-qa": 132, "audio-sent": 50, "sum-qa": 803, "nlp": 257}.items()
}
"""Share of requests that timed out with the published predictor; read off the authors' logs."""
SHAPE, BATCHES = (9, 9), (1, 2, 4, 8, 16, 32, 64, 128)


def at_load(pipeline: Pipeline, rate: float) -> dict[str, Any]:
    """What each baseline would run at one rate, and what the front makes of its cores; None: no plan."""

    def found(stages: tuple[IpaStage, ...]) -> IpaFront:
        return front(IpaProblem(pipeline.name, stages, rate, pipeline.slo_s))

    published = found(pipeline.planned(rows_max=pipeline.batch_max, every_size=False))
    every = found(pipeline.planned(rows_max=ROWS_MAX, every_size=True))
    weights = Objective(weights=(1.0, pipeline.core_weight, 0.0))
    ipa = pick(published.points, weights, cores_max=float("inf"))
    row: dict[str, Any] = {"rate": rate, "ipa": _point(ipa)}
    for name, place in (("fa2_low", 0), ("fa2_high", -1)):
        stages = tuple(
            _with_variant(stage, place)
            for stage in pipeline.planned(rows_max=pipeline.batch_max, every_size=False)
        )
        points = found(stages).points
        row[name] = _point(points[0] if points else None)
    if ipa is not None:
        row["at_its_cores"] = _point(pick(every.points, None, cores_max=ipa.cores))
        floor = Objective(accuracy_floor=ipa.accuracy)
        row["at_its_accuracy"] = _point(pick(every.points, floor, cores_max=float("inf")))
        row["weighed"] = _point(pick(every.points, weights, cores_max=float("inf")))
    return row


def _with_variant(stage: IpaStage, place: int) -> IpaStage:
    """A stage with its least (0) or most (-1) accurate variant."""
    rising = sorted(stage.variants, key=lambda variant: variant.accuracy)
    return replace(stage, variants=(rising[place],))


def _point(point: IpaPoint | None) -> dict[str, float] | None:
    return None if point is None else {"accuracy": point.accuracy, "cores": point.cores}


def rim_replicas(pipeline: Pipeline, mean: float, most: float) -> dict[str, int]:
    """Fixed replicas of each stage: the most accurate variant at the mean load, the least at the largest."""
    found = {}
    for stage in pipeline.planned(rows_max=pipeline.batch_max, every_size=False):
        rising = sorted(stage.variants, key=lambda variant: variant.accuracy)
        need = [
            min(np.ceil(rate * time_s / rows) for rows, time_s in zip(stage.rows, v.service_s, strict=False))
            for v, rate in ((rising[-1], mean), (rising[0], most))
        ]
        found[stage.name] = int(max(1, *need))
    return found


def scenarios(pipeline: Pipeline, traces: dict[str, CountTrace], seed: int, *, quick: bool) -> list[Scenario]:
    """Every policy on every load."""
    weights = {"accuracy_weight": 1.0, "cost_weight": pipeline.core_weight, **UNMEASURED_BASE}
    published = {**weights, "batch_max": pipeline.batch_max}
    wide = {**weights, "batch_max": ROWS_MAX}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "ipa": ("ipa", published),
        "ipa, 20 s": ("ipa", {**published, "look_back": "20s"}),
        "ipa, no cap": ("ipa", wide),
        "ipa+ours": ("ipa+ours", wide),
        "fa2-low": ("ipa", {**published, "variants": "lightest"}),
        "fa2-high": ("ipa", {**published, "variants": "heaviest"}),
        "rim": ("ipa", published),
    }
    if quick:
        asked = {label: asked[label] for label in ("ipa", "ipa+ours", "rim")}
    found = []
    for load, trace in traces.items():
        fixed = rim_replicas(pipeline, float(trace.counts.mean()), float(trace.counts.max()))
        for label, (policy, options) in asked.items():
            found.append(
                Scenario(
                    services={pipeline.name: pipeline.service(NODE_CORES)},
                    times=pipeline.times(),
                    traces={pipeline.name: trace},
                    policy=policy,
                    options={**options, "replicas": fixed} if label == "rim" else options,
                    nodes=(SimulatedNode("node", NODE_CORES),),
                    seed=seed,
                    label=f"{label}|{load}",
                )
            )
    return found


def row(pipeline: str, label: str, runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Sums over the loads."""
    requests = sum(run.requests - run.cancelled for run in runs)
    completed = sum(run.completed for run in runs)
    return {
        "pipeline": pipeline,
        "policy": label,
        "violations": sum(run.violations for run in runs) / requests,
        "cores_mean": sum(run.core_seconds for run in runs) / sum(run.simulated_s or 0.0 for run in runs),
        "accuracy": sum((run.accuracy_mean or 0.0) * run.completed for run in runs) / max(completed, 1),
        "cold_starts": sum(run.cold_starts or 0 for run in runs),
    }


def random_pipeline(rng: np.random.Generator, shape: tuple[int, int], batches: Sequence[int]) -> IpaProblem:
    """More accurate variants take longer and have larger replicas; batches gain by 10 to 70 %."""
    stages = []
    total_s = 0.0
    for index in range(shape[0]):
        times_s = rng.uniform(0.02, 0.1) * np.cumprod(rng.uniform(1.1, 1.6, shape[1]))
        accuracies = np.sort(rng.uniform(0.5, 0.95, shape[1]))
        total_s += float(times_s.mean())
        variants = []
        for place in range(shape[1]):
            each = float(rng.uniform(0.3, 0.9))
            service_s = tuple(float(times_s[place]) * (1 - each + each * rows) for rows in batches)
            cores = 1 << (4 * place // shape[1])
            variants.append(IpaVariant(f"v{place}", float(accuracies[place]), cores, service_s))
        stages.append(IpaStage(f"s{index}", tuple(variants), tuple(batches)))
    return IpaProblem("random", tuple(stages), float(rng.uniform(5, 50)), total_s * float(rng.uniform(2, 5)))


def timed(seed: int, count: int) -> dict[str, Any]:
    """CPU milliseconds of whole fronts, and of reading one plan back."""
    rng = np.random.default_rng(seed)
    front_ms, plan_ms, points = [], [], []
    for _ in range(count):
        problem = random_pipeline(rng, SHAPE, BATCHES)
        best = []
        for _ in range(3):
            began_s = time.process_time()
            found = front(problem)
            best.append(1000 * (time.process_time() - began_s))
        began_s = time.process_time()
        found.plan(found.points[len(found.points) // 2])
        plan_ms.append(1000 * (time.process_time() - began_s))
        front_ms.append(min(best))
        points.append(len(found.points))
    return {
        "stages": SHAPE[0],
        "variants": SHAPE[1],
        "batches": len(BATCHES),
        "problems": count,
        "front_ms": {"median": float(np.median(front_ms)), "max": max(front_ms)},
        "plan_ms_max": max(plan_ms),
        "points": {"median": float(np.median(points)), "max": max(points)},
    }


def equal_to_enumeration(seed: int, count: int) -> dict[str, Any]:
    """Fronts at 4 stages x 4 variants x 2 batches against all of their plans."""
    rng = np.random.default_rng(seed)
    equal = 0
    for _ in range(count):
        problem = random_pipeline(rng, (4, 4), (1, 4))
        found = [(point.cores, point.accuracy) for point in front(problem).points]
        known = _enumerated(problem)
        equal += len(found) == len(known) and all(
            cores == c and abs(accuracy - a) < 1e-9
            for (cores, accuracy), (c, a) in zip(found, known, strict=True)
        )
    return {"problems": count, "equal": equal, "plans_each": (4 * 2) ** 4}


def _enumerated(problem: IpaProblem) -> list[tuple[int, float]]:
    """Every combination of (variant, batch), from the definition."""
    ticks, cores, accuracy = np.zeros(1), np.zeros(1), np.ones(1)
    for stage in problem.stages:
        each = [
            (
                np.ceil((time_s + (rows - 1) / problem.rate_rps) / (problem.slo_s / 500) - 1e-9),
                variant.cores * max(1, np.ceil(problem.rate_rps * time_s / rows - 1e-9)),
                variant.accuracy,
            )
            for variant in stage.variants
            for rows, time_s in zip(stage.rows, variant.service_s, strict=True)
        ]
        options = np.array(each)
        ticks = np.add.outer(ticks, options[:, 0]).ravel()
        cores = np.add.outer(cores, options[:, 1]).ravel()
        accuracy = np.multiply.outer(accuracy, options[:, 2]).ravel()
    within = ticks <= 500
    order = np.lexsort((-accuracy[within], cores[within]))
    known: list[tuple[int, float]] = []
    for c, a in zip(cores[within][order].tolist(), accuracy[within][order].tolist(), strict=True):
        if not known or a > known[-1][1] * (1 + 1e-12):
            known.append((int(c), a))
    return known


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pipeline, short loads; nothing is stored")
    parser.add_argument("--profiles", type=Path, default=PROFILES)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    known = pipelines(options.profiles)
    if options.quick:
        known = {"video": known["video"]}
    solver = timed(options.seed, 3 if options.quick else 10)
    proof = equal_to_enumeration(options.seed, 20 if options.quick else 200)
    print(solver, proof)
    reckoned = {
        name: [at_load(each, float(rate)) for rate in (RATES[::8] if options.quick else RATES)]
        for name, each in known.items()
    }
    for name, rows in reckoned.items():
        gains = [r["at_its_cores"]["accuracy"] - r["ipa"]["accuracy"] for r in rows if r["ipa"]]
        saved = [1 - r["at_its_accuracy"]["cores"] / r["ipa"]["cores"] for r in rows if r["ipa"]]
        print(
            f"{name:12} {len(gains)} loads, PAS least {min(gains):+.4f} mean {np.mean(gains):+.4f}, "
            f"cores saved {np.mean(saved):.1%}"
        )
    traces = loads(options.trace)
    if options.quick:
        traces = {"bursty": traces["bursty"].slice(120, 300)}
    found: list[dict[str, Any]] = []
    for name, each in known.items():
        runs: dict[str, list[RunSummary]] = {}
        for run in simulate_many(scenarios(each, traces, options.seed, quick=options.quick)):
            runs.setdefault(run.label.partition("|")[0], []).extend(run.summaries)
        for label, summaries in runs.items():
            found.append(row(name, label, summaries))
            shown = found[-1]
            print(
                f"{name:12} {label:14} {shown['violations']:8.3%} violations, "
                f"{shown['cores_mean']:6.1f} cores, PAS {shown['accuracy']:.4f}",
                flush=True,
            )
    if not options.quick:
        payload = {
            "solver": solver,
            "enumeration": proof,
            "loads": list(traces),
            "plans": reckoned,
            "runs": found,
            "published_timeouts": PUBLISHED_TIMEOUTS,
        }
        write("ipa", payload, seed=options.seed)


if __name__ == "__main__":
    main()
