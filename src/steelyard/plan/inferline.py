"""InferLine: a planner that steps down from the fastest configuration, a tuner that keeps its utilisation.

As the baseline of the Themis authors' revision of 2025 has it:

- *Planner*, once: every stage at its largest size, single rows, n = ceil(rate / h). Then, as long as one is
  feasible, the cheapest move among: one row more in a batch, one replica less, one core less; of one stage.
  Feasible: every stage carries its rate, and service time plus the time to fill a batch at its 0.9 quantile
  stays within the SLO on every path.
- *Tuner*, from then on, rate = the largest of the last 30 s: n = ceil(rate / (h u)), u the utilisation that
  the stage was planned for; fewer replicas than there are only by the lowest u of all stages.

    plan(problem) -> PlannedService | Infeasible
    utilisations(problem, planned) -> tuple[float, ...]
    tune(problem, planned, planned_for, present) -> tuple[int, ...]      replicas by stage

Of moves that cost the same, the first stage's comes first, and rows before replicas before cores. A larger
batch is free, so it is taken when nothing saves, and batches end as large as is feasible. Of the problem,
`wait` is looked at (the baseline: `exponential`; `gamma` is its other choice) and the cores' price;
`quantile` is 0.9.

Source: Crankshaw et al., "InferLine: Latency-Aware Provisioning and Scaling for Prediction Serving
Pipelines", SoCC 2020, in the form released with Themis.
"""

from collections.abc import Iterator, Sequence
from math import ceil

from msgspec.structs import replace

from steelyard.plan.answer import latency_s
from steelyard.plan.options import capacity_rps, evaluated
from steelyard.plan.problem import Infeasible, PlannedService, PlannedStage, PlanProblem, PlanStage

QUANTILE = 0.9
_ROUNDING = 1e-9


def plan(problem: PlanProblem) -> PlannedService | Infeasible:
    """The configuration that the planner's steps end in.

    `cost_bound` is 0: steps that only go down prove nothing.

    Raises:
        SpecError: the stages' names or order are wrong, or there is no such wait model.
    """
    problem = replace(problem, quantile=QUANTILE)
    present = tuple(_fastest(problem, stage) for stage in problem.stages)
    if not _feasible(problem, present):
        least_s = latency_s(problem, present)
        return Infeasible(
            problem.service,
            f"the SLO of {problem.slo_s * 1000:g} ms is below the least latency, {least_s * 1000:.4g} ms",
            nearest_slo_s=least_s,
        )
    while True:
        following = [moved for moved in _moves(problem, present) if _feasible(problem, moved)]
        if not following:
            cost = _cost(problem, present)
            return PlannedService(problem.service, present, latency_s(problem, present), cost, 0.0)
        present = min(following, key=lambda moved: _cost(problem, moved))


def utilisations(problem: PlanProblem, planned: PlannedService) -> tuple[float, ...]:
    """What the tuner keeps: rate / (n h) of each stage, as planned."""
    return tuple(
        problem.rate_rps(stage) / (choice.replicas * capacity_rps(stage, choice.rows, choice.cores))
        for stage, choice in zip(problem.stages, planned.stages, strict=True)
    )


def tune(
    problem: PlanProblem,
    planned: PlannedService,
    planned_for: Sequence[float],
    present: Sequence[int],
) -> tuple[int, ...]:
    """Replicas of each stage for the problem's rate, cores and rows staying as planned; at least one.

    Args:
        problem: at the rate of now.
        planned: the planner's answer.
        planned_for: `utilisations` at the rate that was planned for.
        present: replicas there are.
    """
    lowest = min(planned_for)
    wanted: list[int] = []
    for stage, choice, own, there in zip(problem.stages, planned.stages, planned_for, present, strict=True):
        capacity = capacity_rps(stage, choice.rows, choice.cores)
        more = _replicas(problem.rate_rps(stage), capacity, own)
        fewer = _replicas(problem.rate_rps(stage), capacity, lowest)
        wanted.append(more if more > there else min(there, fewer))
    return tuple(wanted)


def _replicas(rate: float, capacity: float, utilisation: float) -> int:
    return max(1, ceil(rate / (capacity * utilisation) - _ROUNDING)) if utilisation > 0 else 1


def _fastest(problem: PlanProblem, stage: PlanStage) -> PlannedStage:
    cores = min(stage.cores_max, max(problem.nodes, default=stage.cores_max))
    count = ceil(problem.rate_rps(stage) / capacity_rps(stage, 1, cores) - _ROUNDING)
    return _timed(problem, stage, max(1, count), cores, 1)


def _moves(problem: PlanProblem, present: tuple[PlannedStage, ...]) -> Iterator[tuple[PlannedStage, ...]]:
    for index, (stage, choice) in enumerate(zip(problem.stages, present, strict=True)):
        n, c, b = choice.replicas, choice.cores, choice.rows
        for replicas, cores, rows in ((n, c, b + 1), (n - 1, c, b), (n, c - 1, b)):
            if replicas >= 1 and cores >= 1 and rows <= stage.rows_max:
                moved = _timed(problem, stage, replicas, cores, rows)
                yield (*present[:index], moved, *present[index + 1 :])


def _timed(problem: PlanProblem, stage: PlanStage, replicas: int, cores: int, rows: int) -> PlannedStage:
    time_s, _ = evaluated(problem, stage, replicas, cores, rows)
    return PlannedStage(stage.name, replicas, cores, rows, time_s)


def _feasible(problem: PlanProblem, present: tuple[PlannedStage, ...]) -> bool:
    carried = all(
        choice.replicas * capacity_rps(stage, choice.rows, choice.cores) * (1 + _ROUNDING)
        >= problem.rate_rps(stage)
        for stage, choice in zip(problem.stages, present, strict=True)
    )
    return carried and latency_s(problem, present) <= problem.slo_s * (1 + _ROUNDING)


def _cost(problem: PlanProblem, present: tuple[PlannedStage, ...]) -> float:
    return sum(
        evaluated(problem, stage, choice.replicas, choice.cores, choice.rows)[1]
        for stage, choice in zip(problem.stages, present, strict=True)
    )
