"""Sponge on ResNet18 alone, (34.7, 2.06, 19.5, 14.3) ms, SLO 780 ms, and on the video pipeline of Themis.

l(b, 1) = 36.76 b + 33.8 ms and l(b, 2) = 19.41 b + 24.05 ms; the limit is 0.9 x 780 = 702 ms.
"""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView, ServiceWindow
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.times import CoefficientTimes

YOLO = Stage("detect", (Variant("yolov5n", batch_rows_max=8, cores_max=8),))
RESNET = Stage("classify", (Variant("resnet18", batch_rows_max=8, cores_max=8),))
SINGLE = Service("video", 0.78, (RESNET,))
VIDEO = Service("video", 0.78, (YOLO, Stage("classify", RESNET.variants, after=("detect",))))
TIMES = {
    ("video", "detect"): CoefficientTimes(148.8, 37.5, 5.4, -15.5),
    ("video", "classify"): CoefficientTimes(34.7, 2.06, 19.5, 14.3),
}


def context(service: Service = SINGLE, *, future: tuple[int, ...] = (), **options: object) -> PolicyContext:
    return PolicyContext({"video": service}, TIMES, options, future={"video": future} if future else None)


def plan(service: Service, *shapes: tuple[int, float]) -> ServicePlan:
    stages = {}
    for stage, (count, cores) in zip(service.stages, shapes, strict=True):
        variant = stage.variants[0].name
        replicas = (ReplicaPlan(cores, (variant,)),) * count
        stages[stage.name] = StagePlan(replicas, (VariantShare(variant, 1.0),))
    return ServicePlan("video", stages)


def snapshot(
    rate: int,
    desired: ServicePlan | None,
    *,
    budgets: tuple[float | None, ...] = (None, None, None, None),
    cores: float = 64.0,
) -> ClusterSnapshot:
    """At 10 s; `rate` rows in each of the last two seconds, whose four windows have these least budgets."""
    windows = tuple(
        ServiceWindow(
            "video", 8 + i / 2, 8.5 + i / 2, 0, rate // 2, 0, 0, 0, 0, 0, 0, (), budget_s_min=budget
        )
        for i, budget in enumerate(budgets)
    )
    view = ServiceView("video", windows, (rate, rate), desired, ())
    return ClusterSnapshot(10.0, 0.1, (NodeView("local", cores, cores),), (view,))


def shape(decision: Decision) -> list[tuple[int, float, int]]:
    assert decision.plan is not None
    stages = decision.plan.services["video"].stages.values()
    return [(len(s.replicas), s.replicas[0].cores, s.batch_rows_max) for s in stages]


def test_the_fewest_cores_then_the_smallest_batch() -> None:
    # 20 at once on 1 core: at best batches of 5, 4 x 217.6 = 870 ms. On 2 cores single rows take
    # 20 x 43.46 = 869 ms, batches of 2 take 10 x 62.87 = 629 ms.
    decision = make_policy("sponge", context()).decide(snapshot(20, None))
    assert shape(decision) == [(1, 2.0, 2)]
    assert decision.next_at_s == 11.0


@pytest.mark.parametrize(
    ("budget_s", "expected"),
    [
        # 200 ms lost: 502 are left. 2 cores: batches of 4 take 5 x 101.7 = 508, of 5 take 4 x 121.1 = 484.
        (0.58, (1, 2.0, 5)),
        # 400 ms lost: 302 are left. 3 cores: at best 3 x 116.2 = 349 (7). 4 cores, l = 10.735 b + 19.175:
        # batches of 4 take 5 x 62.1 = 311, of 5 take 4 x 72.9 = 291.
        (0.38, (1, 4.0, 5)),
    ],
)
def test_what_the_network_has_used_up_is_taken_from_the_budget(
    budget_s: float, expected: tuple[int, float, int]
) -> None:
    # the least budget of the last second counts: the two last windows
    budgets = (0.1, None, budget_s, 0.7)
    decision = make_policy("sponge", context()).decide(snapshot(20, plan(SINGLE, (1, 2.0)), budgets=budgets))
    assert shape(decision) == [expected]


def test_cores_go_down_at_once() -> None:
    # 5 at once: 5 x 70.56 = 353 ms on 1 core
    decision = make_policy("sponge", context()).decide(snapshot(5, plan(SINGLE, (1, 8.0))))
    assert shape(decision) == [(1, 1.0, 1)]


def test_what_is_not_feasible_leaves_things_as_they_are() -> None:
    # 200 at once on 8 cores: 25 x 67.9 ms
    decision = make_policy("sponge", context()).decide(snapshot(200, plan(SINGLE, (1, 2.0))))
    assert decision.plan is None
    assert "no size is feasible" in decision.reason
    # to begin with, the one instance that was asked for has all the cores there are
    decision = make_policy("sponge", context(replicas=1)).decide(snapshot(200, None))
    assert shape(decision) == [(1, 8.0, 1)]


def test_instances_for_the_largest_rate_that_is_known() -> None:
    # The trace has 200/s. Two instances: 13 x 67.9 = 883 ms on 8 cores; three: ceil(67 / 8) x 67.9 = 611 ms.
    # At 20/s each of three has 7 at once: 7 x 70.56 = 494 ms on 1 core.
    decision = make_policy("sponge", context(future=(20, 200))).decide(snapshot(20, None))
    assert shape(decision) == [(3, 1.0, 1)]
    assert shape(make_policy("sponge", context(replicas=2)).decide(snapshot(5, None))) == [(2, 1.0, 1)]


def test_a_pipeline_is_the_vertical_program_of_themis_with_the_replicas_of_its_authors() -> None:
    # The maximum is 62. On 8 cores YOLOv5n takes 41.28 ms, 62 x 0.04128 = 2.6; ResNet18 23.14 ms, 1.4:
    # 3 + 2, which is what the release starts. At 20/s V wants 6.7 of each YOLOv5n: 2 cores (10.09/s), and 10
    # of each ResNet18: 1 core.
    policy = make_policy("sponge", context(VIDEO, future=(20, 62)))
    assert shape(policy.decide(snapshot(20, None))) == [(3, 2.0, 1), (2, 1.0, 1)]
    # V(20 | 2, 1), derived in the tests of themis; no replicas beyond those there are
    assert shape(policy.decide(snapshot(20, plan(VIDEO, (2, 1.0), (1, 1.0))))) == [(2, 2.0, 1), (1, 2.0, 1)]
    assert shape(policy.decide(snapshot(60, plan(VIDEO, (2, 1.0), (1, 1.0)))))[0][0] == 2


def test_a_pipeline_within_a_smaller_budget_needs_more_cores() -> None:
    # At 5/s and 780 ms: 1 core each (176.2 + 70.6 ms). 580 ms lost leave 200: YOLOv5n on 2 cores takes
    # 99.1 ms, 99.1 + 70.6 = 170 ms.
    policy = make_policy("sponge", context(VIDEO))
    present = plan(VIDEO, (1, 1.0), (1, 1.0))
    assert shape(policy.decide(snapshot(5, present))) == [(1, 1.0, 1), (1, 1.0, 1)]
    budgets = (None, None, 0.2, 0.2)
    assert shape(policy.decide(snapshot(5, present, budgets=budgets))) == [(1, 2.0, 1), (1, 1.0, 1)]


def test_what_does_not_fit_the_node_is_left_out() -> None:
    decision = make_policy("sponge", context(VIDEO)).decide(
        snapshot(60, plan(VIDEO, (2, 1.0), (1, 1.0)), cores=8.0)
    )
    cut = shape(decision)
    assert [n for n, _, _ in cut] == [2, 1]
    assert sum(n * c for n, c, _ in cut) <= 8.0


def test_published_orders_by_deadline_and_admits_all() -> None:
    decision = make_policy("sponge", context()).decide(snapshot(5, None))
    assert decision.plan is not None
    rules = decision.plan.services["video"].stages["classify"].rules
    assert (rules.order, rules.forming, rules.drop, rules.admission) == ("edf", "hold", "infeasible", "open")
    ours = make_policy("sponge+ours", context()).decide(snapshot(5, None)).plan
    assert ours is not None
    assert ours.services["video"].stages["classify"].rules == StageRules()


def test_wrong_options_are_one_clear_line() -> None:
    with pytest.raises(SpecError, match="unknown option 'instances'; it has: replicas"):
        make_policy("sponge", context(instances=2))
    with pytest.raises(SpecError, match="option replicas: want a number, got 'many'"):
        make_policy("sponge", context(replicas="many"))
