"""FA2: the fewest one-core replicas within an end-to-end budget, for pipelines that branch and join.

    minimise    sum over stages of n
    subject to  sum of l(b) + (b - 1) / rate over every path <= SLO,    n b / l(b) >= rate

with the rate of the stage, fan-out included. A batch is reckoned to fill evenly and to find a free replica;
one core a replica is the only size. Budgets are real numbers: unlike the release of Themis, which has this
program as its horizontal one (`steelyard.plan.themis`), nothing is rounded to milliseconds, and the time to
fill a batch does not count as busy.

    solve(problem) -> PlannedService | Infeasible

Of the problem, `wait`, `prices` and `nodes` are not looked at. At a rate of 0 a stage keeps one replica that
takes single rows.

Source: Razavi, Luthra, Koldehofe, Muehlhaeuser and Wang, "FA2: Fast, Accurate Autoscaling for Serving Deep
Learning Inference with SLA Guarantees", RTAS 2022, whose program is exact on chains; how it rewrites other
graphs is not published in code. Here series-parallel pipelines are exact as well, and for others the distance
to the optimum is in the plan's `gap`.
"""

from msgspec.structs import replace

from steelyard.plan.answer import cheapest
from steelyard.plan.options import choices
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, Prices


def solve(problem: PlanProblem) -> PlannedService | Infeasible:
    """The fewest one-core replicas; `Infeasible` if one core is too slow for the SLO.

    Raises:
        SpecError: the stages' names or order are wrong.
    """
    plain = replace(
        problem,
        wait="fill",
        prices=Prices(),
        nodes=(),
        stages=tuple(replace(stage, present=(), replica_price=0.0) for stage in problem.stages),
    )
    return cheapest(plain, choices(plain, cores_max=1))
