"""Replicas, cores and batches of every stage together, and the nodes they go to.

Without nodes this is one pass over frontiers, exact. With nodes the same pass gives a lower bound, and mostly
the answer: its plan is placed, and if that works no other is cheaper. If it does not, plans that are easier
to place are looked at: with smaller replicas, with fewer cores, and those that one stage's choice makes out
of them. The cheapest that fits is the answer, and its `gap` says how far from the bound it is.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec.structs import replace

from steelyard.plan.answer import cheapest, latency_s, obstacle
from steelyard.plan.graph import SLACK
from steelyard.plan.options import Ints, StageChoices, choices
from steelyard.plan.packing import pack
from steelyard.plan.problem import Infeasible, PlannedService, PlannedStage, PlanProblem
from steelyard.plan.shape import heads_and_tails_s

CORE_WEIGHTS = (0.0, 1.0, 1e6)
"""What a core costs beside its price while plans are looked for that fit: from nothing to everything."""
SWAPS_MAX = 400
"""Changes of one stage that are looked at for each plan that does not fit."""


def solve(problem: PlanProblem) -> PlannedService | Infeasible:
    """The cheapest plan found; proven cheapest where its `gap` is 0.

    Raises:
        SpecError: the stages' names or order are wrong, or there is no such wait model.
    """
    every = choices(problem)
    best = cheapest(problem, every)
    if not problem.nodes:
        return best
    if isinstance(best, Infeasible):
        return _too_small_nodes(problem, best)
    placed = place(problem, best)
    return placed if placed is not None else _refitted(problem, every, best)


def place(problem: PlanProblem, plan: PlannedService) -> PlannedService | None:
    """The plan with the node of every replica, or None if they do not fit."""
    nodes = pack([stage.cores for stage in plan.stages for _ in range(stage.replicas)], problem.nodes)
    if nodes is None:
        return None
    stages: list[PlannedStage] = []
    for stage in plan.stages:
        stages.append(replace(stage, nodes=nodes[: stage.replicas]))
        nodes = nodes[stage.replicas :]
    return replace(plan, stages=tuple(stages))


def _refitted(
    problem: PlanProblem, every: Sequence[StageChoices], unplaced: PlannedService
) -> PlannedService | Infeasible:
    best: PlannedService | None = None
    for plan in _easier(problem, every):
        for candidate in (plan, *_swapped(problem, every, plan)):
            if best is not None and candidate.cost >= best.cost:
                break  # candidates come in order of cost
            best = place(problem, candidate) or best
    if best is None:
        return _too_few_cores(problem, every)
    return replace(best, cost_bound=unplaced.cost_bound)


def _easier(problem: PlanProblem, every: Sequence[StageChoices]) -> Iterator[PlannedService]:
    """The cheapest plans with ever smaller replicas, and at ever higher weights of a core."""
    sizes = sorted({int(size) for among in every for size in np.unique(among.cores)}, reverse=True)
    for size in sizes:
        small = [among.where(among.cores <= size) for among in every]
        if obstacle(problem, small) is not None:
            return
        for weight in CORE_WEIGHTS:
            weighed = [
                among._replace(cost=among.cost + weight * among.replicas * among.cores) for among in small
            ]
            plan = cheapest(problem, weighed)
            if isinstance(plan, PlannedService):
                cost = plan.cost - weight * plan.cores
                yield replace(plan, cost=cost, cost_bound=0.0)


def _swapped(
    problem: PlanProblem, every: Sequence[StageChoices], plan: PlannedService
) -> list[PlannedService]:
    """The plans that differ from `plan` in one stage, within the SLO, cheapest first."""
    found: list[PlannedService] = []
    rooms_s = _rooms_s(problem, plan)
    for index, (among, own, room_s) in enumerate(zip(every, plan.stages, rooms_s, strict=True)):
        fitting = np.flatnonzero((among.time_s <= room_s) & _fewest(among, room_s))
        old = _cost_of(among, own)
        for option in fitting:
            stage = among.planned(own.name, int(option))
            cost = plan.cost - old + float(among.cost[option])
            stages = (*plan.stages[:index], stage, *plan.stages[index + 1 :])
            found.append(PlannedService(plan.service, stages, latency_s(problem, stages), cost, 0.0))
    return sorted(found, key=lambda candidate: candidate.cost)[:SWAPS_MAX]


def _fewest(among: StageChoices, room_s: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of the options of one size that are fast enough, only those with the fewest replicas."""
    fast = among.time_s <= room_s
    least: Ints = np.full(int(among.cores.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, among.cores[fast], among.replicas[fast])
    return np.asarray(among.replicas == least[among.cores])


def _rooms_s(problem: PlanProblem, plan: PlannedService) -> list[float]:
    """Seconds that each stage may take while the others stay as they are."""
    times = [stage.time_s for stage in plan.stages]
    heads, tails = heads_and_tails_s(problem.after(), times)
    limit_s = problem.slo_s * (1 + SLACK)
    return [limit_s - a - z + 2 * own for a, z, own in zip(heads, tails, times, strict=True)]


def _cost_of(among: StageChoices, own: PlannedStage) -> float:
    same = (among.replicas == own.replicas) & (among.cores == own.cores) & (among.rows == own.rows)
    return float(among.cost[np.flatnonzero(same)[0]])


def _too_small_nodes(problem: PlanProblem, answer: Infeasible) -> Infeasible:
    """The same, with the nodes named if it is they that make it infeasible."""
    free = solve(replace(problem, nodes=()))
    if isinstance(free, Infeasible):
        return answer
    return Infeasible(
        problem.service,
        f"cores: {sizes_text(free)} do not fit nodes with at most {max(problem.nodes)} free",
        nearest_slo_s=answer.nearest_slo_s,
        nearest_cores=float(max(free.cores, sum(problem.nodes) + 1)),
    )


def sizes_text(plan: PlannedService) -> str:
    """Replicas and their cores: `5 replicas of 1 core for detect, 1 replica of 2 cores for classify`."""
    return ", ".join(
        f"{_counted(stage.replicas, 'replica')} of {_counted(stage.cores, 'core')} for {stage.name}"
        for stage in plan.stages
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _too_few_cores(problem: PlanProblem, every: Sequence[StageChoices]) -> Infeasible:
    fewest = cheapest(
        problem,
        [among._replace(cost=(among.replicas * among.cores).astype(np.float64)) for among in every],
    )
    assert isinstance(fewest, PlannedService), "it was feasible at other prices"
    nodes = ", ".join(map(str, problem.nodes))
    return Infeasible(
        problem.service,
        f"cores: {sizes_text(fewest)} do not fit nodes with {nodes} free",
        nearest_cores=float(max(fewest.cores, sum(problem.nodes) + 1)),
    )
