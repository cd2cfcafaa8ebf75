from math import log

import pytest
from msgspec.structs import replace

from steelyard.plan import inferline
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, PlanStage, tabulate

# 100 ms a row on one core, 50 on two; a batch of two takes 1.5 times as long
STAGE = PlanStage("a", tabulate(lambda rows, cores: 0.05 * (1 + rows) / cores, 2, 2))
PROBLEM = PlanProblem("s", (STAGE,), 30.0, 1.0, wait="exponential")


def planned(problem: PlanProblem) -> PlannedService:
    plan = inferline.plan(problem)
    assert isinstance(plan, PlannedService)
    return plan


def sizes(plan: PlannedService) -> list[tuple[int, int, int]]:
    return [(stage.replicas, stage.cores, stage.rows) for stage in plan.stages]


def test_steps_down_from_the_fastest() -> None:
    # Start: 2 cores, single rows, ceil(30 / 20) = 2 replicas, cost 4. One replica less carries 20: no. One
    # core less carries 20: no. One row more: 2 x 26.7 >= 30, and 75 ms + ln(10) / 30 = 152 ms: yes, for
    # nothing. Then one replica carries 26.7: no; one core, 2 x 13.3: no. It ends at cost 4, where 3 x 1
    # core would cost 3.
    plan = planned(PROBLEM)
    assert sizes(plan) == [(2, 2, 2)]
    assert plan.latency_s == pytest.approx(0.075 + log(10) / 30)
    assert (plan.cost, plan.cost_bound) == (4.0, 0.0)


def test_the_cheapest_move_is_taken_first() -> None:
    # At 12/s: one replica of 2 cores (20). A core less carries 10 with single rows: no. A row more, then a
    # core less: 13.3/s, and 150 ms + ln(10) / 12 = 342 ms.
    assert sizes(planned(replace(PROBLEM, arrival_rate_rps=12.0))) == [(1, 1, 2)]
    # within 200 ms there is no time for that: 75 + 192 = 267 ms on two cores already
    assert sizes(planned(replace(PROBLEM, arrival_rate_rps=12.0, slo_s=0.2))) == [(1, 2, 1)]


def test_too_tight_an_slo() -> None:
    answer = inferline.plan(replace(PROBLEM, slo_s=0.04))
    assert isinstance(answer, Infeasible)
    assert answer.nearest_slo_s == pytest.approx(0.05)


def test_the_tuner_keeps_the_utilisation() -> None:
    plan = planned(PROBLEM)
    used = inferline.utilisations(PROBLEM, plan)
    assert used == pytest.approx((30 / (2 * 2 / 0.075),))  # 0.5625
    # 45/s: 45 / (26.7 x 0.5625) = 3; just above it, 4
    assert inferline.tune(replace(PROBLEM, arrival_rate_rps=45.0), plan, used, (2,)) == (3,)
    assert inferline.tune(replace(PROBLEM, arrival_rate_rps=45.1), plan, used, (2,)) == (4,)


def test_scaling_in_goes_by_the_lowest_utilisation_of_all() -> None:
    problem = replace(PROBLEM, stages=(STAGE, replace(STAGE, name="b", after=("a",))))
    plan = planned(problem)
    # planned for 0.8 and 0.4; at 15/s by its own the first would take ceil(15 / (26.7 x 0.8)) = 1, by the
    # lowest ceil(15 / (26.7 x 0.4)) = ceil(1.41) = 2 of the 3 it has
    slow = replace(problem, arrival_rate_rps=15.0)
    assert inferline.tune(slow, plan, (0.8, 0.4), (3, 3)) == (2, 2)
    # fewer than there are is never more than there are
    assert inferline.tune(slow, plan, (0.8, 0.1), (3, 3)) == (3, 6)
    assert inferline.tune(replace(problem, arrival_rate_rps=0.0), plan, (0.8, 0.4), (3, 3)) == (1, 1)
