from itertools import product
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.plan import fa2
from steelyard.plan.check import violations
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, PlanStage, Table, tabulate


def table(alpha: float, beta: float, gamma: float, zeta: float, most: int = 8) -> Table:
    return tabulate(lambda b, c: (alpha * b / c + beta * b + gamma / c + zeta) / 1000, most, most)


YOLO = PlanStage("detect", table(148.8, 37.5, 5.4, -15.5))
RESNET = PlanStage("classify", table(34.7, 2.06, 19.5, 14.3), after=("detect",))
VIDEO = PlanProblem("video", (YOLO, RESNET), 20.0, 0.78)


def sizes(plan: PlannedService | Infeasible) -> list[tuple[int, int, int]]:
    assert isinstance(plan, PlannedService)
    return [(stage.replicas, stage.cores, stage.rows) for stage in plan.stages]


def test_the_video_pipeline() -> None:
    # YOLOv5n: l(1) = 176.2 ms: ceil(20 x 0.1762) = 4; b = 2: 362.5 ms, ceil(20 x 0.18125) = 4, and slower.
    # ResNet18: l(1) = 70.56: 2; l(2) = 107.3: ceil(1.07) = 2; l(3) = 144.1: ceil(0.96) = 1, with 2 gaps of
    # 50 ms.
    plan = fa2.solve(VIDEO)
    assert sizes(plan) == [(4, 1, 1), (1, 1, 3)]
    assert isinstance(plan, PlannedService)
    assert plan.latency_s == pytest.approx(0.1762 + 0.14408 + 0.1)
    assert (plan.cost, plan.gap) == (5.0, 0.0)


def test_budgets_are_not_rounded_to_milliseconds() -> None:
    # l(1) + l(1) = 176.2 + 70.56 = 246.76 ms is enough; in whole ms it would be 177 + 71 and one to spare
    assert isinstance(fa2.solve(replace(VIDEO, slo_s=0.24676)), PlannedService)
    tight = fa2.solve(replace(VIDEO, slo_s=0.2467))
    assert isinstance(tight, Infeasible)
    assert tight.nearest_slo_s == pytest.approx(0.24676)
    assert tight.binding == "the SLO of 246.7 ms is below the least latency, 246.8 ms"


def test_other_settings_of_a_problem_are_not_looked_at() -> None:
    other = replace(VIDEO, wait="tail", nodes=(1,))
    assert fa2.solve(other) == fa2.solve(VIDEO)


def test_at_no_rate_one_replica_each() -> None:
    assert sizes(fa2.solve(replace(VIDEO, arrival_rate_rps=0.0))) == [(1, 1, 1), (1, 1, 1)]


def test_branches_share_the_budget_between_fork_and_join() -> None:
    # Side by side each may take all of 780 ms: the second stage then needs one replica at b = 3 as above.
    side = replace(VIDEO, stages=(YOLO, replace(RESNET, after=())), slo_s=0.2442)
    assert sizes(fa2.solve(side)) == [(4, 1, 1), (1, 1, 3)]


positive = st.floats(1.0, 80.0)
numbers = st.tuples(positive, positive, positive, positive)


@given(st.lists(numbers, min_size=1, max_size=3), st.floats(1.0, 60.0), st.floats(0.1, 2.0))
def test_chains_are_as_cheap_as_by_brute_force(
    coefficients: list[tuple[float, float, float, float]], rate: float, slo_s: float
) -> None:
    stages = tuple(
        PlanStage(str(i), table(a, b, c, d, most=4), after=(str(i - 1),) if i else ())
        for i, (a, b, c, d) in enumerate(coefficients)
    )
    problem = PlanProblem("s", stages, rate, slo_s)
    plan = fa2.solve(problem)
    costs = [
        sum(ceil(rate * s.service_time_s[b][0] / (b + 1) - 1e-9) for s, b in zip(stages, rows, strict=True))
        for rows in product(range(4), repeat=len(stages))
        if sum(s.service_time_s[b][0] + b / rate for s, b in zip(stages, rows, strict=True)) <= slo_s
    ]
    assert (plan.cost if isinstance(plan, PlannedService) else None) == min(costs, default=None)
    if isinstance(plan, PlannedService):
        assert violations(replace(problem, wait="fill"), plan) == []
