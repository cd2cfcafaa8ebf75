"""InfAdapter's loop on capacities that can be reckoned in the head.

One row takes 0.1 s on a core of `fast` and 0.2 s of `exact`, and n cores are n times as fast. The SLO is so
loose that capacity is 95 % of that: 9.5 n and 4.75 n requests a second. On the published line less a fifth,
in whole requests: `fast` 7, 15, 22, 30, 38, 45, 53, 60, `exact` 3, 7, 11, 15, 19, 22, 26, 30 on 1 to 8 cores.
"""

import msgspec
import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, StageRules
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Objective, Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.testing.builders import TableTimes
from steelyard.workload.trace import count_trace

FAST = Variant("fast", 0.7, cores_max=8, cold_start_s=4.0)
EXACT = Variant("exact", 0.8, cores_max=8, cold_start_s=8.0)
STAGE = Stage("main", (EXACT, FAST))
SERVICE = Service("s", 100.0, (STAGE,), reply_s=0.0)
TIMES = {("s", "main"): TableTimes({1: 0.1}, factors={"exact": 2.0})}


def policy(service: Service = SERVICE, *, name: str = "infadapter", **options: object) -> Policy:
    times = {("s", stage.name): TIMES["s", "main"] for stage in service.stages}
    return make_policy(name, PolicyContext({"s": service}, times, options))


def snapshot(now_s: float, rate: int, last: Decision | None = None, *, cores: float = 8.0) -> ClusterSnapshot:
    """`rate` rows in the last second, fewer before; `last` is carried out."""
    desired = last.plan.services["s"] if last is not None and last.plan is not None else None
    view = ServiceView("s", (), (rate // 2, rate), desired, ())
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def shape(decision: Decision) -> dict[str, float]:
    assert decision.plan is not None
    return {r.variants[0]: r.cores for r in decision.plan.services["s"].stages["main"].replicas}


def test_it_plans_for_the_largest_second_and_a_tenth() -> None:
    # 20 a second, so 22: `exact` on 6 carries 22, 0.8 - 0.05 x 6/8 = 0.7625; `exact` 2 and `fast` 2 carry 7
    # and 15 at 0.7318 - 0.025; `fast` on 3 0.7 - 0.01875.
    decision = policy().decide(snapshot(0.0, 20))
    assert shape(decision) == {"exact": 6.0}
    assert decision.next_at_s == 30.0
    assert "22 requests a second" in decision.reason


def test_a_mix_is_filled_from_the_most_accurate() -> None:
    # 30 a second, so 33: `exact` 5 (19) and `fast` 2 (15) carry it: 19 / 33 of 0.8, the rest of 0.7, on 7
    # cores 0.7576 - 0.04375 = 0.7138; `exact` 6 (22) and `fast` 2 0.7667 - 0.05 = 0.7167.
    decision = policy().decide(snapshot(0.0, 30))
    assert shape(decision) == {"exact": 6.0, "fast": 2.0}
    assert decision.plan is not None
    mix = decision.plan.services["s"].stages["main"].mix
    assert [m.variant for m in mix] == ["exact", "fast"]
    assert [m.share for m in mix] == pytest.approx([22 / 33, 11 / 33])


def test_more_at_once_and_less_after_four_calm_decisions() -> None:
    one = policy()
    first = one.decide(snapshot(0.0, 10))
    assert shape(first) == {"exact": 3.0}  # 11 a second
    second = one.decide(snapshot(30.0, 20, first))
    assert shape(second) == {"exact": 6.0}
    for calm in range(3):
        assert one.decide(snapshot(60.0 + 30 * calm, 10, second)).plan is None
    assert shape(one.decide(snapshot(150.0, 10, second))) == {"exact": 3.0}


def test_growth_in_between_starts_the_count_again() -> None:
    one = policy()
    first = one.decide(snapshot(0.0, 10))
    for now_s in (30.0, 60.0, 90.0):
        assert one.decide(snapshot(now_s, 5, first)).plan is None
    second = one.decide(snapshot(120.0, 20, first))
    assert shape(second) == {"exact": 6.0}
    assert one.decide(snapshot(150.0, 5, second)).plan is None


def test_what_is_too_much_goes_to_the_variant_that_carries_most() -> None:
    decision = policy().decide(snapshot(0.0, 80))  # 88 of at most 60
    assert shape(decision) == {"fast": 8.0}
    assert "too many" in decision.reason


def test_a_single_core_is_fewer_than_a_variant_needs_but_serves() -> None:
    assert shape(policy().decide(snapshot(0.0, 1, cores=1.0))) == {"fast": 1.0}


def test_measured_capacities_lose_nothing_to_the_line() -> None:
    # 0.8 x 4.75 x 6 = 22.8 carries 20.7 x 1.1 = 22.77, where the line's 22 does not.
    times = snapshot(0.0, 20)
    view = msgspec.structs.replace(times.services[0], arrival_rows_by_second=(20,))
    exact = msgspec.structs.replace(times, services=(view,))
    assert shape(policy(capacity="measured").decide(exact)) == {"exact": 6.0}
    # a headroom of 0.7 carries 19.95 on 6 and 23.3 on 7
    assert shape(policy(capacity="measured", headroom=0.7).decide(exact)) == {"exact": 7.0}


def test_the_best_single_variant_is_the_papers_baseline() -> None:
    # 33 a second: `exact` carries 30 at most, `fast` on 5 38
    assert shape(policy(mix=False).decide(snapshot(0.0, 30))) == {"fast": 5.0}


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Objective(accuracy_floor=0.73), {"exact": 2.0, "fast": 2.0}),  # 0.7318 on 4 cores
        (Objective(accuracy_floor=0.79), {"exact": 6.0}),
        (Objective(cost_max_cores=3), {"fast": 3.0}),
        (Objective(weights=(1.0, 0.05, 0.0)), {"fast": 3.0}),  # 0.1 for 3 cores is 0.033 a core
        (Objective(weights=(1.0, 0.01, 0.0)), {"exact": 6.0}),
    ],
)
def test_an_objective_points_at_the_front(objective: Objective, expected: dict[str, float]) -> None:
    decision = policy(msgspec.structs.replace(SERVICE, objective=objective)).decide(snapshot(0.0, 20))
    assert shape(decision) == expected


def test_published_assigns_rows_and_drops_nothing() -> None:
    for name, routing in (("infadapter", "assigned"), ("infadapter+ours", "least_finish")):
        decision = policy(name=name).decide(snapshot(0.0, 20))
        assert decision.plan is not None
        stage = decision.plan.services["s"].stages["main"]
        assert (stage.rules.routing, stage.batch_rows_max) == (routing, 1)
        assert (stage.rules == StageRules()) == (name == "infadapter+ours")


def test_what_it_cannot_plan_is_refused_in_one_line() -> None:
    pair = msgspec.structs.replace(SERVICE, stages=(STAGE, Stage("next", (FAST,), ("main",))))
    with pytest.raises(SpecError, match="has 2 stages; it plans for one"):
        policy(pair)
    unknown = Stage("main", (Variant("a", 0.5), Variant("b")))
    with pytest.raises(SpecError, match="stage main: variant b has no accuracy"):
        policy(msgspec.structs.replace(SERVICE, stages=(unknown,)))
    with pytest.raises(SpecError, match="option mix: want true or false"):
        policy(mix=1)
    with pytest.raises(SpecError, match="no 'measure'; there are: measured"):
        policy(capacity="measure")
    device = Stage("main", (Variant("gpu", 0.5, device="t4"),))
    with pytest.raises(SpecError, match="no variant that runs on cores"):
        policy(msgspec.structs.replace(SERVICE, stages=(device,)))


def test_requests_are_answered_by_the_planned_shares() -> None:
    # 30 a second, so 33 expected, on 8 + 2 of 16 cores: `exact` 30 of 33 and `fast` the rest, 0.7909.
    declared = {
        name: DeclaredLatency(
            table=tuple((1, float(cores), 1000 * time_s / cores, None) for cores in range(1, 9)),
            distribution="fixed",
        )
        for name, time_s in (("fast", 0.1), ("exact", 0.2))
    }
    service = msgspec.structs.replace(SERVICE, slo_s=1.0)
    run = simulate(
        Scenario(
            {"s": service},
            (StageTimes("s", "main", declared=declared),),
            {"s": count_trace([30] * 20)},
            "infadapter",
            {},
            (SimulatedNode("node", 16),),
        )
    )
    (summary,) = run.summaries
    assert summary.violations == 0
    assert summary.accuracy_mean == pytest.approx((30 * 0.8 + 3 * 0.7) / 33, abs=1e-3)
