"""InferLine on two stages of which one row takes 100 / c and 40 / c ms; no batches, two cores, SLO 300 ms.

At 8 rows/s the planner begins with two cores each (20 and 50 rows/s, one replica) and steps down to one core:
10 and 25 rows/s, utilisations 0.8 and 0.32.
"""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.times import CoefficientTimes

SERVICE = Service(
    "ocr",
    0.3,
    (
        Stage("detect", (Variant("a", batch_rows_max=1, cores_max=2),)),
        Stage("read", (Variant("b", batch_rows_max=1, cores_max=2),), after=("detect",)),
    ),
)
TIMES = {
    ("ocr", "detect"): CoefficientTimes(100.0, 0.0, 0.0, 0.0),
    ("ocr", "read"): CoefficientTimes(40.0, 0.0, 0.0, 0.0),
}


def policy(name: str = "inferline", **options: object) -> Policy:
    return make_policy(name, PolicyContext({"ocr": SERVICE}, TIMES, options))


def plan(detect: int, read: int) -> ServicePlan:
    def stage(variant: str, count: int) -> StagePlan:
        return StagePlan((ReplicaPlan(1.0, (variant,)),) * count, (VariantShare(variant, 1.0),))

    return ServicePlan("ocr", {"detect": stage("a", detect), "read": stage("b", read)})


def snapshot(
    now_s: float, seconds: tuple[int, ...], desired: ServicePlan | None, *, cores: float = 64.0
) -> ClusterSnapshot:
    view = ServiceView("ocr", (), seconds, desired, ())
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def shape(decision: Decision) -> list[tuple[int, float]]:
    assert decision.plan is not None
    stages = [decision.plan.services["ocr"].stages[name] for name in ("detect", "read")]
    return [(len(s.replicas), s.replicas[0].cores) for s in stages]


def test_the_planner_steps_down_to_one_core() -> None:
    decision = policy().decide(snapshot(30.0, (5, 8, 3), None))
    assert shape(decision) == [(1, 1.0), (1, 1.0)]
    assert decision.reason == "ocr: planned 1x1 cores batch 1, 1x1 cores batch 1 (rate 8)"
    assert decision.next_at_s == 30.5


def test_until_there_is_traffic_each_stage_has_a_replica_of_its_largest_size() -> None:
    one = policy()
    assert shape(one.decide(snapshot(0.0, (), None))) == [(1, 2.0), (1, 2.0)]
    assert shape(one.decide(snapshot(1.0, (8,), plan(1, 1)))) == [(1, 1.0), (1, 1.0)]  # planned now
    assert "tuned" in one.decide(snapshot(1.5, (8,), plan(1, 1))).reason


def test_the_tuner_keeps_the_planned_utilisation() -> None:
    one = policy()
    one.decide(snapshot(30.0, (8,), None))
    # 20 rows/s: 20 / (10 x 0.8) = 2.5 and 20 / (25 x 0.32) = 2.5: 3 each
    assert shape(one.decide(snapshot(30.5, (8, 20), plan(1, 1)))) == [(3, 1.0), (3, 1.0)]


def test_the_largest_of_the_last_thirty_seconds_counts() -> None:
    one = policy()
    one.decide(snapshot(30.0, (8,), None))
    assert shape(one.decide(snapshot(60.0, (20, *[8] * 29), plan(1, 1)))) == [(3, 1.0), (3, 1.0)]
    assert shape(one.decide(snapshot(61.0, (20, *[8] * 30), plan(1, 1)))) == [(1, 1.0), (1, 1.0)]


def test_fewer_replicas_are_reckoned_by_the_lowest_utilisation_and_come_after_ten_seconds() -> None:
    one = policy()
    one.decide(snapshot(30.0, (8,), None))
    # 6 rows/s: by 0.32 the first stage needs 6 / 3.2 = 1.9: 2 (by its own 0.8 one would do), the second
    # 6 / 8 = 0.75: 1.
    for tick in range(20):
        assert shape(one.decide(snapshot(31.0 + tick / 2, (6,), plan(3, 3)))) == [(3, 1.0), (3, 1.0)]
    assert shape(one.decide(snapshot(41.0, (6,), plan(3, 3)))) == [(2, 1.0), (1, 1.0)]


def test_where_nothing_is_feasible_it_keeps_the_fastest_configuration() -> None:
    tight = Service("ocr", 0.06, SERVICE.stages)  # 50 + 20 ms at best
    one = make_policy("inferline", PolicyContext({"ocr": tight}, TIMES))
    # 30 rows/s at 20 and 50 a replica of two cores
    assert shape(one.decide(snapshot(30.0, (30,), None))) == [(2, 2.0), (1, 2.0)]
    assert "tuned" in one.decide(snapshot(30.5, (30,), plan(2, 1))).reason


def test_what_does_not_fit_the_node_is_left_out() -> None:
    one = policy()
    one.decide(snapshot(30.0, (8,), None, cores=4.0))
    decision = one.decide(snapshot(30.5, (80,), plan(1, 1), cores=4.0))
    assert sum(n * c for n, c in shape(decision)) == 4.0


def test_published_batches_within_fifty_milliseconds_and_ours_does_not_wait() -> None:
    for name in ("inferline", "inferline+ours"):
        decision = policy(name).decide(snapshot(30.0, (8,), None))
        assert decision.plan is not None
        rules = decision.plan.services["ocr"].stages["read"].rules
        assert (rules.forming, rules.timeout_s) == (("timeout", 0.05) if name == "inferline" else ("hold", 0))
        assert (rules == StageRules()) == (name == "inferline+ours")


def test_wrong_options_are_one_clear_line() -> None:
    with pytest.raises(SpecError, match="unknown option 'tick'; it has: queue_model"):
        policy(tick=3)
    with pytest.raises(SpecError, match="no 'exp'; there are: exponential"):
        policy(queue_model="exp")
