"""What FA2's program saves against splitting the budget first, at the rates of the surges, by reckoning.

The claim (RTAS 2022): 19 % fewer CPU resources on average than state-of-the-art autoscalers. What those were
is only known by kind, so three are reckoned, on FA2's own assumptions (one-core replicas, batches that fill
evenly, no wait for a free replica), each second of the surges at its own rate:

- `equal`: every stage gets the same part of the SLO, then the fewest replicas by itself;
- `proportional`: its part is in proportion to its service time for one row (as GrandSLAm, EuroSys 2019);
- `inferline`: the planner of InferLine (SoCC 2020) as released with Themis, which may use larger replicas.

Seconds in which one of the two has no plan are left out and counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headlines_cases import DIVISORS, resolved
from msgspec.structs import replace
from surges import SLICE_S, Slice, counts_of

from steelyard.core.plan import Infeasible
from steelyard.core.types import Service, ServiceTimes
from steelyard.plan import fa2, inferline
from steelyard.plan.problem import PlannedService, PlanProblem, PlanStage, stage_of
from steelyard.workload.trace import count_trace

Answer = PlannedService | Infeasible


def savings(pipeline: str, trace: Path, slices: Sequence[Slice]) -> dict[str, Any]:
    """By comparison: the share of core-seconds that FA2's program saves, and seconds without a plan."""
    known = resolved(pipeline, 0.0)
    service = next(iter(known.services.values()))
    problem = _problem(service, known.service_times())
    seconds = _seconds_by_rate(pipeline, trace, slices)
    others: dict[str, Callable[[PlanProblem], int | None]] = {
        "equal": lambda asked: _split(asked, [1.0] * len(asked.stages)),
        "proportional": lambda asked: _split(asked, [s.service_time_s[0][0] for s in asked.stages]),
        "inferline": lambda asked: _cores(inferline.plan(replace(asked, wait="exponential", quantile=0.9))),
    }
    found: dict[str, Any] = {}
    for name, other in others.items():
        ours = theirs = left_out = 0
        for rate, count in seconds.items():
            asked = replace(problem, arrival_rate_rps=float(rate))
            own, against = _cores(fa2.solve(asked)), other(asked)
            if own is None or against is None:
                left_out += count
            else:
                ours += count * own
                theirs += count * against
        share = sum(seconds.values())
        found[name] = {"saving": 1 - ours / theirs if theirs else None, "left_out": left_out / share}
    return found


def _problem(service: Service, times: dict[tuple[str, str], ServiceTimes]) -> PlanProblem:
    """On medians, as the papers' programs are."""
    stages = tuple(
        replace(stage_of(stage, stage.variants[0], times[service.name, stage.name]), latency_s=())
        for stage in service.stages
    )
    return PlanProblem(service.name, stages, 1.0, service.slo_s)


def _seconds_by_rate(pipeline: str, trace: Path, slices: Sequence[Slice]) -> Counter[int]:
    counts = counts_of(trace)
    scaled = (
        count_trace(counts[each.from_s : each.from_s + SLICE_S]).scale(1 / DIVISORS[pipeline]).counts
        for each in slices
    )
    return Counter(rate for of_slice in scaled for rate in of_slice.tolist() if rate > 0)


def _split(problem: PlanProblem, weights: Sequence[float]) -> int | None:
    """Cores when each stage plans within its own part of the SLO; the pipelines here are chains."""
    total = 0
    for stage, weight in zip(problem.stages, weights, strict=True):
        budget_s = problem.slo_s * weight / sum(weights)
        cores = _cores(fa2.solve(replace(problem, stages=(_alone(stage),), slo_s=budget_s)))
        if cores is None:
            return None
        total += cores
    return total


def _alone(stage: PlanStage) -> PlanStage:
    return replace(stage, after=())


def _cores(answer: Answer) -> int | None:
    return None if isinstance(answer, Infeasible) else answer.cores
