"""Whether a plan is what it says it is: every constraint of its problem, one by one, without a solver.

Each function checks one constraint and says in words where it is broken. The checker knows no frontiers, no
trees and no options; only the formulas of the wait models are shared with what it checks.
"""

from collections import Counter
from collections.abc import Iterator

from steelyard.plan.options import evaluated
from steelyard.plan.problem import PlannedService, PlannedStage, PlanProblem, PlanStage

TOLERANCE = 1e-6
"""Relative; of times, rates and costs."""


def violations(problem: PlanProblem, plan: PlannedService) -> list[str]:
    """Every broken constraint in words; empty if the plan holds."""
    wanted, given = ([stage.name for stage in stages] for stages in (problem.stages, plan.stages))
    if wanted != given:
        return [f"the plan has the stages {', '.join(given)}, the problem {', '.join(wanted)}"]
    pairs = list(zip(problem.stages, plan.stages, strict=True))
    outside = [line for stage, chosen in pairs for line in size(stage, chosen)]
    if outside:
        return outside  # no table says what such a plan would take
    broken = [line for stage, chosen in pairs for line in capacity(problem, stage, chosen)]
    broken += [line for stage, chosen in pairs for line in stated_time(problem, stage, chosen)]
    return [*broken, *latency(problem, plan), *placement(problem, plan), *stated_cost(problem, plan)]


def size(stage: PlanStage, chosen: PlannedStage) -> Iterator[str]:
    """1 <= n <= replicas_max, 1 <= c <= cores_max, 1 <= b <= rows_max."""
    for what, value, most in (
        ("replicas", chosen.replicas, stage.replicas_max),
        ("cores", chosen.cores, stage.cores_max),
        ("rows", chosen.rows, stage.rows_max),
    ):
        if not 1 <= value <= most:
            yield f"stage {stage.name}: {value} {what}, want 1 to {most}"


def capacity(problem: PlanProblem, stage: PlanStage, chosen: PlannedStage) -> Iterator[str]:
    """Rate: n b / l(b, c) >= rate x fan_out."""
    rate = problem.arrival_rate_rps * stage.fan_out
    carried = chosen.replicas * chosen.rows / stage.service_time_s[chosen.rows - 1][chosen.cores - 1]
    if carried < rate * (1 - TOLERANCE):
        yield f"stage {stage.name}: carries {carried:g} rows a second of {rate:g}"


def stated_time(problem: PlanProblem, stage: PlanStage, chosen: PlannedStage) -> Iterator[str]:
    """The stage's time is q(n, c, b) + l(b, c)."""
    taken_s, _ = evaluated(problem, stage, chosen.replicas, chosen.cores, chosen.rows)
    if not abs(taken_s - chosen.time_s) <= TOLERANCE * taken_s:
        yield f"stage {stage.name}: takes {taken_s * 1000:g} ms, not {chosen.time_s * 1000:g} ms"


def latency(problem: PlanProblem, plan: PlannedService) -> Iterator[str]:
    """Sum of times over every path <= SLO; the plan's latency is the longest."""
    done_s: dict[str, float] = {}
    for stage, chosen in zip(problem.stages, plan.stages, strict=True):
        done_s[stage.name] = max((done_s[name] for name in stage.after), default=0.0) + chosen.time_s
    last = max(done_s, key=lambda name: done_s[name])
    if done_s[last] > problem.slo_s * (1 + TOLERANCE):
        yield f"{last} ends after {done_s[last] * 1000:g} ms, the SLO is {problem.slo_s * 1000:g} ms"
    if abs(done_s[last] - plan.latency_s) > TOLERANCE * done_s[last]:
        yield f"the longest path takes {done_s[last] * 1000:g} ms, not {plan.latency_s * 1000:g} ms"


def placement(problem: PlanProblem, plan: PlannedService) -> Iterator[str]:
    """Every replica is on a node, and no node has more cores in use than it has."""
    if not problem.nodes:
        return
    used: Counter[int] = Counter()
    for chosen in plan.stages:
        if len(chosen.nodes) != chosen.replicas:
            yield f"stage {chosen.name}: {len(chosen.nodes)} of {chosen.replicas} replicas have a node"
        for node in chosen.nodes:
            used[node] += chosen.cores
    for node, cores in sorted(used.items()):
        if not 0 <= node < len(problem.nodes):
            yield f"node {node}: there are {len(problem.nodes)}"
        elif cores > problem.nodes[node]:
            yield f"node {node}: {cores} cores in use, it has {problem.nodes[node]}"


def stated_cost(problem: PlanProblem, plan: PlannedService) -> Iterator[str]:
    """The cost is that of the problem's prices, and not below the bound."""
    total = sum(
        _price(problem, stage, chosen) for stage, chosen in zip(problem.stages, plan.stages, strict=True)
    )
    if abs(total - plan.cost) > TOLERANCE * max(1.0, abs(total)):
        yield f"the plan costs {total:g}, not {plan.cost:g}"
    if plan.cost_bound > plan.cost * (1 + TOLERANCE):
        yield f"the plan costs {plan.cost:g}, below its bound of {plan.cost_bound:g}"


def _price(problem: PlanProblem, stage: PlanStage, chosen: PlannedStage) -> float:
    """Every replica that is there is kept while there is use for it, those of the right size first."""
    prices = problem.prices
    kept = sorted(stage.present, key=lambda cores: cores != chosen.cores)[: chosen.replicas]
    return (
        chosen.replicas * (prices.core * chosen.cores + stage.replica_price)
        + prices.start * (chosen.replicas - len(kept))
        + prices.resize * sum(cores != chosen.cores for cores in kept)
    )
