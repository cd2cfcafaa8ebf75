"""Stages at which requests are lost that others have worked on: more time is left to them.

One row takes 10 ms at a stage; the plan spends 30 ms at `b`, of an objective of 100 ms.
"""

import pytest
from msgspec.structs import replace

from steelyard.core.commands import Reject, Shed
from steelyard.core.crowding import CALM_S, LOOK_S
from steelyard.core.events import WindowClosed
from steelyard.core.plan import ServicePlan, StageRules
from steelyard.testing.bench import ServiceBench, ends
from steelyard.testing.builders import TableTimes, make_pipeline, make_plan

TIMES = TableTimes({1: 0.010, 8: 0.024})


def crowded_bench(rules: StageRules | None = None, *, others: int = 0) -> ServiceBench:
    """At 1 s: one request was lost at `b`, where another one ran for too long, and `others` were answered."""
    service = make_pipeline({"a": (), "b": ("a",)}, slo_s=0.1)
    plan = make_plan(service, rules=rules, batch_rows_max=1)
    stages = {name: replace(stage, budget_s=0.030) for name, stage in plan.stages.items()}
    bench = ServiceBench(service, TIMES, ServicePlan(service.name, stages))
    bench.tell(WindowClosed())
    bench.ready(1, stage="a")
    bench.ready(2, stage="b")
    bench.arrive(slo_s=0.1)
    bench.arrive(slo_s=0.1)
    for _ in range(2):
        bench.complete(1, service_s=0.010)
    while not (lost := ends(bench.wake())):  # it could not begin later than at 90 ms
        assert bench.now_s < 0.1
    assert isinstance(lost[2], Shed)
    bench.complete(2, service_s=0.010)
    for _ in range(others):
        bench.arrive(slo_s=0.1)
        bench.complete(1, service_s=0.010)
        bench.complete(2, service_s=0.010)
    bench.now_s = LOOK_S
    bench.tell(WindowClosed())
    return bench


def left_to_b_s(bench: ServiceBench, slo_s: float) -> float:
    """How much earlier than as a whole a request that comes now is due at `a`."""
    bench.arrive(slo_s=slo_s)
    (piece,) = bench.machine.stages["a"].queue
    left_s = piece.open.due_s - piece.due_s
    bench.cancel(piece.open.request.id.sequence)
    return left_s


def test_before_a_crowded_stage_requests_are_due_by_what_its_plan_spends() -> None:
    bench = crowded_bench()
    bench.arrive(slo_s=0.1)  # keeps the only replica of `a` busy
    assert left_to_b_s(bench, 0.1) == pytest.approx(0.030)
    assert left_to_b_s(bench, 0.2) == pytest.approx(0.030)
    assert left_to_b_s(bench, 0.06) == pytest.approx(0.018)  # its part of the objective
    assert left_to_b_s(bench, 0.03) == pytest.approx(0.010)  # a row takes as long


def test_who_cannot_be_there_in_time_is_refused_and_may_come_again() -> None:
    bench = crowded_bench()
    bench.machine.stages["b"].remaining.reserve(0.095)  # 5 ms are left to `a`, of which a row takes 10
    (end,) = ends(bench.arrive(slo_s=0.1)).values()
    assert isinstance(end, Reject)
    assert end.retry_after_s == CALM_S


@pytest.mark.parametrize(("others", "is_crowded"), [(7, True), (8, False)])
def test_a_few_losses_crowd_no_stage(others: int, is_crowded: bool) -> None:
    # One of nine is more than a tenth; one of ten is not.
    assert crowded_bench(others=others).machine.stages["a"].remaining.is_reserved == is_crowded


def test_it_is_crowded_until_nobody_was_lost_or_refused_for_a_while() -> None:
    bench = crowded_bench()
    remaining = bench.machine.stages["a"].remaining
    assert remaining.after_s(0) == pytest.approx(0.030)
    assert isinstance(ends(bench.arrive(slo_s=0.001))[3], Reject)
    bench.now_s += 0.9 * CALM_S
    bench.tell(WindowClosed())
    assert remaining.is_reserved
    bench.now_s += 0.2 * CALM_S
    bench.tell(WindowClosed())
    assert not remaining.is_reserved
    assert remaining.after_s(0) == pytest.approx(0.010)


def test_rules_that_drop_otherwise_stay_as_they_were_published() -> None:
    bench = crowded_bench(StageRules(drop="infeasible"))
    assert not bench.machine.stages["a"].remaining.is_reserved


def test_what_is_lost_at_the_first_stage_crowds_nobody() -> None:
    service = make_pipeline({"a": (), "b": ("a",)}, slo_s=0.1)
    bench = ServiceBench(service, TIMES, make_plan(service, batch_rows_max=1))
    bench.ready(1, stage="a")
    bench.ready(2, stage="b")
    bench.arrive(slo_s=0.1)
    bench.arrive(slo_s=0.1)
    while not ends(bench.wake()):
        assert bench.now_s < 0.1
    assert not bench.machine.stages["a"].remaining.is_reserved
