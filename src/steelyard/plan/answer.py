"""From the options of every stage to a plan, or to what stands in its way.

Cores are not limited here: nodes are `steelyard.plan.joint`'s business.
"""

from collections.abc import Sequence
from math import floor, log10

from steelyard.core.plan import Infeasible
from steelyard.plan.graph import NODES_MAX, SLACK, Solution, least_time_s, longest_path_s, solve
from steelyard.plan.options import StageChoices, capacity_rps
from steelyard.plan.problem import PlannedService, PlannedStage, PlanProblem, PlanStage
from steelyard.plan.tails import RHO_MAX
from steelyard.plan.waits import wait_model


def cheapest(
    problem: PlanProblem, choices: Sequence[StageChoices], *, nodes_max: int = NODES_MAX
) -> PlannedService | Infeasible:
    """The cheapest choice for each stage within the SLO.

    Raises:
        SpecError: the stages' names or order are wrong.
    """
    found = solve(problem.after(), [stage.options() for stage in choices], problem.slo_s, nodes_max=nodes_max)
    if found is not None:
        return planned(problem, choices, found)
    hindrance = obstacle(problem, choices)
    assert hindrance is not None, "what has no obstacle has a solution"
    return hindrance


def obstacle(problem: PlanProblem, choices: Sequence[StageChoices]) -> Infeasible | None:
    """Why no choice at all is within the SLO, whatever it costs; None if one is."""
    for stage, among in zip(problem.stages, choices, strict=True):
        if not len(among.cost):
            most, rate = _rounded_down(rate_max_rps(problem, stage)), problem.arrival_rate_rps
            replicas = "1 replica" if stage.replicas_max == 1 else f"{stage.replicas_max} replicas"
            return Infeasible(
                problem.service,
                f"stage {stage.name}: {rate:g} requests a second, at most {most:g} with at most {replicas}",
            )
    least_s = least_time_s(problem.after(), [stage.options() for stage in choices])
    if least_s > problem.slo_s * (1 + SLACK):
        return Infeasible(
            problem.service,
            f"the SLO of {problem.slo_s * 1000:g} ms is below the least latency, {least_s * 1000:.4g} ms",
            nearest_slo_s=least_s,
        )
    return None


def rate_max_rps(problem: PlanProblem, stage: PlanStage) -> float:
    """The largest rate of requests that `replicas_max` replicas of a stage carry, however slowly."""
    cores_max = min(stage.cores_max, max(problem.nodes, default=stage.cores_max))
    best_rps = max(
        (capacity_rps(stage, b, c) for b in range(1, stage.rows_max + 1) for c in range(1, cores_max + 1)),
        default=0.0,
    )
    utilisation = RHO_MAX if wait_model(problem.wait).busy else 1.0
    return stage.replicas_max * best_rps * utilisation / stage.fan_out


def _rounded_down(value: float) -> float:
    """Four significant digits, never more than the value."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(value)) - 3)
    return floor(value / unit) * unit


def planned(problem: PlanProblem, choices: Sequence[StageChoices], found: Solution) -> PlannedService:
    """A solution in the plan's words."""
    stages = tuple(
        among.planned(stage.name, index)
        for stage, among, index in zip(problem.stages, choices, found.choices, strict=True)
    )
    return PlannedService(problem.service, stages, found.time_s, found.cost, found.bound)


def latency_s(problem: PlanProblem, stages: Sequence[PlannedStage]) -> float:
    """Seconds of the longest path through planned stages."""
    return longest_path_s(problem.after(), [stage.time_s for stage in stages])
