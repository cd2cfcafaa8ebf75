"""The fewest cores for replicas whose number stays as it is: what can be had at once, without a cold start.

    minimise    sum over stages of price(n, c), which is n c by default
    subject to  sum of q(n, c, b) + l(b, c) over every path <= SLO,    n b / l(b, c) >= rate

The programs that Themis published charge c instead of n c, so that a stage of three replicas counts like a
stage of one; that is kept as published in `steelyard.plan.themis`.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from steelyard.plan.answer import cheapest
from steelyard.plan.options import choices
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem


def solve(problem: PlanProblem, replicas: Sequence[int]) -> PlannedService | Infeasible:
    """Cores and batches for `replicas` of each stage; nodes are not looked at.

    Raises:
        SpecError: the stages' names or order are wrong, or there is no such wait model.
    """
    stages = tuple(
        replace(stage, replicas_max=count) for stage, count in zip(problem.stages, replicas, strict=True)
    )
    fixed = replace(problem, stages=stages)
    return cheapest(fixed, choices(fixed, replicas=replicas))
