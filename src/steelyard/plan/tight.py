"""The joint program, with the loss that the SLO allows counted once instead of once a stage.

The sum of the stages' quantiles is safe but dear: it plans for all stages being slow at once. Here a stage
may lose more than its share, as far as the waits of all stages together, convolved (`steelyard.plan.tails`),
still keep the SLO at its quantile. How much more is found by trying a few scales, most generous first; the
cheapest plan that keeps the SLO wins, and the safe one is always among them.
"""

from msgspec.structs import replace

from steelyard.plan import joint
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem
from steelyard.plan.tails import StageLoad, graph_tail
from steelyard.plan.waits import wait_model

SCALES = (16.0, 8.0, 5.6, 4.0, 2.8, 2.0, 1.4)


def solve(problem: PlanProblem) -> PlannedService | Infeasible:
    """The cheapest plan by which at most 1 - quantile of the requests are late.

    Its times, latency and bound are those of the scale that it was found at (`PlanProblem.loss_scale`).
    The same as `joint.solve` for one stage, and for wait models that do not count busy replicas.

    Raises:
        SpecError: the stages' names or order are wrong, or there is no such wait model.
    """
    best = joint.solve(problem)
    if len(problem.stages) == 1 or not wait_model(problem.wait).busy:
        return best
    for scale in SCALES:
        looser = joint.solve(replace(problem, loss_scale=scale))
        if isinstance(looser, Infeasible):
            return best  # the most generous scale is: all are
        if isinstance(best, PlannedService) and looser.cost >= best.cost:
            return best  # scales that follow are dearer still
        if late_ratio(problem, looser) <= 1.0 - problem.quantile:
            return looser
    return best


def late_ratio(problem: PlanProblem, plan: PlannedService) -> float:
    """Share of requests that take longer than the SLO, by the waits of all stages together."""
    loads = [
        StageLoad(
            problem.rate_rps(stage),
            chosen.replicas,
            stage.service_time_s[chosen.rows - 1][chosen.cores - 1],
            chosen.rows,
            (stage.latency_s or stage.service_time_s)[chosen.rows - 1][chosen.cores - 1],
            stage.service_time_s[min(chosen.rows, stage.burst) - 1][chosen.cores - 1],
            float(stage.burst),
        )
        for stage, chosen in zip(problem.stages, plan.stages, strict=True)
    ]
    return graph_tail(problem.after(), loads, problem.slo_s)
