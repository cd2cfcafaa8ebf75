"""Are the planners' answers the cheapest, and how long do they take?

* *Right*: on random problems the programs' costs are compared with enumeration of every combination
  (`steelyard.plan.brute`): chains and other series-parallel pipelines, and pipelines that are not. A sample
  is compared with a mixed-integer program too, with and without nodes to fit.
* *Tight*: how many cores a plan saves that counts the SLO's loss once for all stages.
* *Fast*: median CPU time of one plan, with one thread.

    python bench/planning.py [--problems 2000] [--milp 200] [--no-record]

Costs are equal if they differ by less than a millionth. About two minutes on one core; exits with 1 if a
proof fails. With a compiled build (docs/simulator.md) the same is recorded beside it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import _record
import numpy as np
from msgspec.structs import replace

from steelyard.plan import brute, fa2, joint, milp, tight, vertical
from steelyard.plan.check import violations
from steelyard.plan.options import choices
from steelyard.plan.pareto import leaf
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, PlanStage, Prices, Table, tabulate
from steelyard.plan.shape import shape_of
from steelyard.plan.tails import StageLoad, chain_tail

SEED = 3
WAITS = ("tail", "fill", "gamma", "exponential", "none")
EQUAL = 1e-6
NLP = ((21.4, 1.56, 53.8, 27.8), (304.6, 74.1, -13.5, 11.6), (263.9, 83.6, -1.0, 23.6))
"""Language identification, translation and summary, as published for Themis: coefficients in ms."""


def table(coefficients_ms: tuple[float, ...], rows_max: int, cores_max: int) -> Table:
    """Service times in seconds from alpha, beta, gamma, zeta in milliseconds."""
    a, b, c, d = coefficients_ms
    return tabulate(lambda r, k: (a * r / k + b * r + c / k + d) / 1000, rows_max, cores_max)


def random_coefficients_ms(rng: np.random.Generator) -> tuple[float, ...]:
    """From models that gain nothing from batches to those that gain nearly all."""
    return tuple(rng.uniform((1, 0, 0, 0), (60, 8, 40, 20)).tolist())


def random_edges(rng: np.random.Generator, stages: int, chain: bool) -> list[tuple[str, ...]]:
    """A chain, or any graph in topological order."""
    if chain:
        return [(f"s{index - 1}",) if index else () for index in range(stages)]
    share = rng.choice((0.3, 0.5, 0.7))
    return [tuple(f"s{need}" for need in range(index) if rng.random() < share) for index in range(stages)]


def with_slo(problem: PlanProblem, rng: np.random.Generator) -> PlanProblem:
    """An SLO of 0.95 to 2.5 times the least latency."""
    answer = joint.solve(replace(problem, slo_s=1e-9))
    least_s = answer.nearest_slo_s if isinstance(answer, Infeasible) else None
    return replace(problem, slo_s=(least_s or 1.0) * float(rng.uniform(0.95, 2.5)))


def random_problems(
    rng: np.random.Generator, *, split: bool, stages: tuple[int, int]
) -> Iterator[PlanProblem]:
    """Without end: pipelines that are series-parallel, or (`split`) that are not."""
    while True:
        count = int(rng.integers(stages[0], stages[1] + 1))
        edges = random_edges(rng, count, chain=not split and rng.random() < 0.5)
        made = [
            PlanStage(
                f"s{index}",
                table(random_coefficients_ms(rng), 3, 3),
                after=after,
                fan_out=float(rng.choice((1.0, 1.0, 2.0))),
                present=tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist()),
            )
            for index, after in enumerate(edges)
        ]
        problem = PlanProblem(
            "random",
            tuple(made),
            float(rng.uniform(1, 60)),
            1.0,
            wait=str(rng.choice(WAITS)),
            extra_replicas_max=1,
            prices=Prices(start=float(rng.choice((0.0, 0.5)))),
        )
        shape = shape_of(problem.after())
        if shape is not None and shape.split == split:
            yield with_slo(problem, rng)


def by_force(problem: PlanProblem) -> float | None:
    """The optimum by enumeration of what no option of the same stage beats in both time and cost."""
    every = [among.options() for among in choices(problem)]
    kept = [leaf(among.time_s, among.cost, problem.slo_s * (1 + 1e-9)).of for among in every]
    fewer = [
        among._replace(time_s=among.time_s[few], cost=among.cost[few])
        for among, few in zip(every, kept, strict=True)
    ]
    return brute.least_cost(problem.after(), fewer, problem.slo_s)


def against_enumeration(problems: Iterator[PlanProblem], count: int) -> dict[str, Any]:
    """Shares of equal costs, and gaps to the optimum where they are not."""
    equal, infeasible, proven = 0, 0, 0
    gaps: list[float] = []
    for _ in range(count):
        problem = next(problems)
        plan, optimum = joint.solve(problem), by_force(problem)
        if isinstance(plan, Infeasible) or optimum is None:
            infeasible += isinstance(plan, Infeasible) and optimum is None
            equal += isinstance(plan, Infeasible) and optimum is None
            continue
        broken = violations(problem, plan)
        assert not broken, broken
        assert plan.cost_bound <= optimum + EQUAL, "the bound is a bound"
        gap = (plan.cost - optimum) / optimum
        equal += abs(gap) < EQUAL
        proven += plan.gap == 0.0
        if gap >= EQUAL:
            gaps.append(round(gap, 6))
    return {
        "problems": count,
        "infeasible": infeasible,
        "equal_share": equal / count,
        "proven_share": proven / max(1, count - infeasible),
        "gaps": sorted(gaps),
    }


def against_milp(rng: np.random.Generator, count: int, *, nodes: bool) -> dict[str, Any]:
    """The same against the mixed-integer program, on nodes that have hardly more cores than are needed."""
    equal, infeasible, gaps, reported = 0, 0, [], []
    ours_s, milp_s = [], []
    problems = random_problems(rng, split=False, stages=(2, 5))
    others = random_problems(rng, split=True, stages=(4, 5))
    for index in range(count):
        problem = next(others if index % 4 == 3 else problems)
        free = joint.solve(problem)
        if nodes and isinstance(free, PlannedService):
            total = free.cores + int(rng.integers(0, 3))
            borders = np.sort(rng.integers(0, total + 1, int(rng.integers(0, 4))))
            sizes = np.diff(np.concatenate([[0], borders, [total]])).tolist()
            problem = replace(problem, nodes=tuple(size for size in sizes if size > 0))
        began = time.perf_counter()
        plan = joint.solve(problem)
        ours_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        exact = milp.solve(problem)
        milp_s.append(time.perf_counter() - began)
        if isinstance(plan, Infeasible) or isinstance(exact, Infeasible):
            both = isinstance(plan, Infeasible) and isinstance(exact, Infeasible)
            infeasible, equal = infeasible + both, equal + both
            continue
        assert not violations(problem, exact), violations(problem, exact)
        gap = (plan.cost - exact.cost) / exact.cost
        equal += abs(gap) < EQUAL
        reported.append(plan.gap)
        if gap >= EQUAL:
            gaps.append(round(gap, 6))
    return {
        "problems": count,
        "infeasible": infeasible,
        "equal_share": equal / count,
        "gaps": sorted(gaps),
        "reported_gap_share": float(np.mean(np.array(reported) > 0)),
        "ms_median": round(1000 * median(ours_s), 3),
        "milp_ms_median": round(1000 * median(milp_s), 3),
    }


def savings(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Cost of a plan that counts the loss once, over that of one that counts it for every stage."""
    ratios: list[float] = []
    while len(ratios) < count:
        stages = [
            PlanStage(f"s{index}", table(random_coefficients_ms(rng), 8, 8), after=after)
            for index, after in enumerate(random_edges(rng, int(rng.integers(2, 6)), rng.random() < 0.5))
        ]
        problem = with_slo(PlanProblem("random", tuple(stages), float(rng.uniform(5, 100)), 1.0), rng)
        safe, once = joint.solve(problem), tight.solve(problem)
        if isinstance(safe, PlannedService) and isinstance(once, PlannedService):
            ratios.append(once.cost / safe.cost)
    return {
        "problems": count,
        "cost_ratio_mean": round(float(np.mean(ratios)), 4),
        "cost_ratio_deciles": [round(float(q), 4) for q in np.quantile(ratios, (0.1, 0.5, 0.9))],
    }


def timings(rng: np.random.Generator) -> dict[str, float]:
    """Median milliseconds of CPU time of one call: what a core spends, whoever else wants it."""

    def chain(coefficients_ms: list[tuple[float, ...]], rows: int, cores: int, rate: float) -> PlanProblem:
        stages = tuple(
            PlanStage(f"s{i}", table(four, rows, cores), after=(f"s{i - 1}",) if i else ())
            for i, four in enumerate(coefficients_ms)
        )
        return PlanProblem("timed", stages, rate, 2.55)

    nlp = chain(list(NLP), 4, 8, 10.0)
    ten = with_slo(chain([random_coefficients_ms(rng) for _ in range(10)], 16, 16, 50.0), rng)
    ten = replace(ten, slo_s=2 * ten.slo_s)
    loads = [StageLoad(40.0, 10, 0.2, 2), StageLoad(40.0, 4, 0.08), StageLoad(40.0, 3, 0.06)]
    cases: dict[str, Callable[[], object]] = {
        "3 stages x 8 cores x 4 rows": lambda: joint.solve(nlp),
        "3 stages x 8 cores x 4 rows, fill": lambda: joint.solve(replace(nlp, wait="fill")),
        "3 stages x 8 cores x 4 rows, one 64-core node": lambda: joint.solve(replace(nlp, nodes=(64,))),
        "3 stages x 8 cores x 4 rows, loss counted once": lambda: tight.solve(nlp),
        "3 stages x 8 cores x 4 rows, replicas fixed": lambda: vertical.solve(nlp, (2, 6, 6)),
        "3 stages x 1 core x 4 rows (fa2)": lambda: fa2.solve(nlp),
        "10 stages x 16 cores x 16 rows": lambda: joint.solve(ten),
        "10 stages x 16 cores x 16 rows, fill": lambda: joint.solve(replace(ten, wait="fill")),
        "probability that 3 stages are late": lambda: chain_tail(loads, 1.0),
    }
    found: dict[str, float] = {}
    for name, call in cases.items():
        call()
        took_s = []
        for _ in range(101):
            began = time.process_time()
            call()
            took_s.append(time.process_time() - began)
        found[name] = round(1000 * median(took_s), 3)
    return found


def main() -> None:
    """Run all parts, print and record them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--milp", type=int, default=200)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    half = arguments.problems // 2
    result = {
        "series_parallel": against_enumeration(
            random_problems(rng, split=False, stages=(2, 5)), arguments.problems
        ),
        "other_graphs": against_enumeration(random_problems(rng, split=True, stages=(4, 6)), half),
        "milp": against_milp(rng, arguments.milp, nodes=False),
        "milp_with_nodes": against_milp(rng, arguments.milp, nodes=True),
        "loss_counted_once": savings(rng, half // 4),
        "cpu_ms_median": timings(rng),
    }
    for part, values in result.items():
        print(f"{part}:")
        for key, value in values.items():
            print(f"  {key}: {value}")
    if not arguments.no_record:
        _record.write("planning_compiled" if _record.IS_COMPILED else "planning", result, seed=SEED)
    exact = result["series_parallel"]["equal_share"] == result["milp"]["equal_share"] == 1.0
    if not exact or result["other_graphs"]["equal_share"] < 0.99:
        sys.exit(1)


if __name__ == "__main__":
    main()
