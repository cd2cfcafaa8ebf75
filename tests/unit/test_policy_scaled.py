"""The loop around the scalers: when it looks and ticks, what it begins with, what it cuts, which batches."""

import pytest

from steelyard.core.plan import Decision, ServicePlan, StageRules
from steelyard.core.snapshot import (
    BusyCell,
    ClusterSnapshot,
    NodeView,
    ReplicaView,
    ServiceView,
    ServiceWindow,
    StageWindow,
)
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.hpa import make_hpa
from steelyard.policies.kpa import make_kpa
from steelyard.policies.scaled import longest_path, measured_batch
from steelyard.policies.vpa import make_vpa
from steelyard.profile.times import CoefficientTimes

DETECT = Stage("detect", (Variant("yolo", batch_rows_max=8, cores_max=8),))
CLASSIFY = Stage("classify", (Variant("resnet", batch_rows_max=8, cores_max=8),), ("detect",), fan_out=2)
VIDEO = Service("video", 0.78, (DETECT, CLASSIFY))
TIMES = {  # 100 ms and 50 ms a row on one core, in batches of any size
    ("video", "detect"): CoefficientTimes(100.0, 0.0, 0.0, 0.0),
    ("video", "classify"): CoefficientTimes(50.0, 0.0, 0.0, 0.0),
}


def context(*, published: bool = True, **options: object) -> PolicyContext:
    return PolicyContext({"video": VIDEO}, TIMES, options, published=published)


def snapshot(
    now_s: float,
    desired: ServicePlan | None,
    *,
    rate: int = 0,
    busy: tuple[float, float] = (0.0, 0.0),
    cores: float = 64.0,
) -> ClusterSnapshot:
    """A cluster in which all that is desired is ready, seen over the last 3 s."""
    cells = (
        BusyCell("detect", "yolo", 1, 1.0, 1, busy[0]),
        BusyCell("classify", "resnet", 1, 1.0, 1, busy[1]),
    )
    stages = (StageWindow("detect", 0, 0, None, 0), StageWindow("classify", 0, 0, None, 0))
    windows = tuple(
        ServiceWindow("video", now_s - 3 + i, now_s - 2 + i, 0, rate, 0, 0, 0, 0, 0, 0, stages, cells)
        for i in range(3)
    )
    replicas = tuple(
        ReplicaView(i, "video", name, "local", "ready", r.cores, r.cores, r.cores, r.variants, 0.0)
        for name, stage in (desired.stages.items() if desired else ())
        for i, r in enumerate(stage.replicas)
    )
    view = ServiceView("video", windows, (rate, rate), desired, replicas)
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def planned(decision: Decision) -> ServicePlan:
    assert decision.plan is not None
    return decision.plan.services["video"]


def shape(plan: ServicePlan) -> list[tuple[int, float]]:
    return [(len(stage.replicas), stage.replicas[0].cores) for stage in plan.stages.values()]


def test_it_begins_with_every_stage_sized_for_the_rate_that_it_is_given() -> None:
    # 14/s: detect 14 x 0.1 / 0.7 = 2; classify is given 28/s: 28 x 0.05 / 0.7 = 2
    decision = make_hpa(context()).decide(snapshot(0.0, None, rate=14))
    assert shape(planned(decision)) == [(2, 1.0), (2, 1.0)]
    assert decision.reason.startswith("begin for 14/s: detect 2x1 cores")


def test_between_ticks_it_looks_and_changes_nothing() -> None:
    policy = make_hpa(context())
    plan = planned(policy.decide(snapshot(0.0, None, rate=14)))
    times = []
    now_s = 0.0
    for _ in range(5):
        decision = policy.decide(snapshot(now_s := now_s + 3.0, plan, busy=(2.0, 1.4)))
        times.append((now_s, decision.plan is not None, decision.next_at_s))
    # looks every 3 s, a tick after 15
    assert times == [(3, False, 6), (6, False, 9), (9, False, 12), (12, False, 15), (15, True, 18)]
    # detect: 2 of 2 busy, ratio 1 / 0.7: ceil(2.86) = 3; classify: 1.4 of 2 is the target
    assert shape(planned(decision)) == [(3, 1.0), (2, 1.0)]


def test_being_asked_early_is_not_a_tick() -> None:
    # as another service's policy may make happen
    policy = make_kpa(context())
    plan = planned(policy.decide(snapshot(0.0, None, rate=14)))
    assert policy.decide(snapshot(1.0, plan)).plan is None
    assert policy.decide(snapshot(2.0, plan)).plan is not None


def test_what_does_not_fit_the_node_is_cut_from_what_is_not_there_yet() -> None:
    # wants 20 + 20 of 10 cores: begins with 5 and 5
    policy = make_hpa(context())
    decision = policy.decide(snapshot(0.0, None, rate=140, cores=10.0))
    assert shape(planned(decision)) == [(5, 1.0), (5, 1.0)]
    assert "wants 20x1" in decision.reason
    # detect is idle, classify busy: classify wants ceil(5 / 0.7) = 8 and detect keeps its 5 (stabilised)
    decision = policy.decide(snapshot(15.0, planned(decision), busy=(0.0, 5.0), cores=10.0))
    assert shape(planned(decision)) == [(5, 1.0), (5, 1.0)]
    assert "wants 8x1" in decision.reason


def test_far_too_much_is_levelled_as_well() -> None:
    # 14,000,000/s want 2,000,000 + 2,000,000 replicas of 9 cores: each stage is cut in turn, the first stays
    # ahead
    decision = make_hpa(context()).decide(snapshot(0.0, None, rate=14_000_000, cores=9.0))
    assert sorted(shape(planned(decision))) == [(4, 1.0), (5, 1.0)]
    assert "wants 2000000x1" in decision.reason


def test_a_vertical_one_is_cut_in_cores() -> None:
    # 2 replicas each: detect 70 x 0.1 / 2 = 3.5 x 1.15 = 4.03 of 4: 5 cores; classify as much. 20 wanted, 12
    # there
    policy = make_vpa(context(replicas=2))
    decision = policy.decide(snapshot(0.0, None, rate=70, cores=12.0))
    assert shape(planned(decision)) == [(2, 3.0), (2, 3.0)]


def test_fewer_cores_than_stages_is_said() -> None:
    decision = make_hpa(context()).decide(snapshot(0.0, None, cores=1.0))
    assert decision.plan is None
    assert decision.reason == "local has 1 cores for 2 stages"


def test_published_serves_in_order_of_arrival_and_ours_by_deadline() -> None:
    plan = planned(make_hpa(context()).decide(snapshot(0.0, None)))
    fifo = StageRules("fifo", "hold", 0.0, "none", None, "open", "round_robin")
    assert all(stage.rules == fifo for stage in plan.stages.values())
    plan = planned(make_hpa(context(published=False)).decide(snapshot(0.0, None)))
    assert all(stage.rules == StageRules() for stage in plan.stages.values())


@pytest.mark.parametrize(
    ("fixed_ms", "row_ms", "budget_ms", "expected"),
    [
        (0.0, 100.0, 1000.0, 1),  # nothing is gained
        (10.0, 1.0, 1000.0, 8),  # 11, 6, 4.3, 3.5, 3, 2.67, 2.43, 2.25 ms a row: only 8 is within 5 % of 8
        (10.0, 1.0, 13.0, 3),  # 13 ms is all there is
        (10.0, 1.0, 5.0, 1),  # not even one row fits: one all the same
        (1.0, 10.0, 1000.0, 2),  # 11, 10.5, 10.33 ... 10.125: 10.5 is within 5 % (10.63)
    ],
)
def test_batches_are_as_large_as_pays(
    fixed_ms: float, row_ms: float, budget_ms: float, expected: int
) -> None:
    def time_s(rows: int, cores: int) -> float:
        return (fixed_ms + row_ms * rows) / cores / 1000

    assert measured_batch(time_s, 1, budget_ms / 1000, 8) == expected


def test_a_batch_takes_half_of_its_stages_share_of_the_slo() -> None:
    # two stages in a row: 780 / 2 / 2 = 195 ms; 10 ms + 30 ms a row leaves 6 rows (190 ms), 31.7 ms a row;
    # the 5 rows at 32 ms, 4 at 32.5, 3 at 33.3 are within 5 % (33.25 ms): 4
    times = {key: CoefficientTimes(30.0, 0.0, 10.0, 0.0) for key in TIMES}
    plan = planned(make_hpa(PolicyContext({"video": VIDEO}, times)).decide(snapshot(0.0, None)))
    assert [stage.batch_rows_max for stage in plan.stages.values()] == [4, 4]


def test_options_say_how_large_replicas_and_batches_are() -> None:
    # 50 ms a row of detect on two cores: 28 x 0.05 / 0.7 = 2; classify: 56 x 0.025 / 0.7 = 2
    plan = planned(make_hpa(context(cores=2, batch=20)).decide(snapshot(0.0, None, rate=28)))
    assert shape(plan) == [(2, 2.0), (2, 2.0)]
    assert [stage.batch_rows_max for stage in plan.stages.values()] == [8, 8]  # what the variants take


def test_the_longest_path_is_what_shares_an_slo() -> None:
    stages = (
        Stage("a", DETECT.variants),
        Stage("b", DETECT.variants, ("a",)),
        Stage("c", DETECT.variants, ("a",)),
        Stage("d", DETECT.variants, ("b", "c")),
    )
    assert longest_path(Service("graph", 1.0, stages)) == 3
    assert longest_path(Service("apart", 1.0, stages[:1])) == 1
