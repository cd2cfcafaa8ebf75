"""IPA's loop on two stages that can be reckoned in the head.

A row takes 0.1 s on a core of `light` (0.5) and 0.2 s of `heavy` (0.8), a pair 0.15 s and 0.3 s; n cores are
n times as fast. The second stage has one variant, half as slow as `light`, of unknown accuracy.
"""

import msgspec
import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, StageRules
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Objective, PathAccuracy, Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.testing.builders import TableTimes

LIGHT = Variant("light", 0.5, batch_rows_max=2, cores_max=4)
HEAVY = Variant("heavy", 0.8, batch_rows_max=2, cores_max=4)
ONLY = Variant("only", batch_rows_max=1, cores_max=4)
SERVICE = Service(
    "video", 1.0, (Stage("detect", (HEAVY, LIGHT)), Stage("classify", (ONLY,), ("detect",))), reply_s=0.0
)
TABLE = TableTimes({1: 0.1, 2: 0.15}, factors={"heavy": 2.0, "only": 0.5})
TIMES = {("video", "detect"): TABLE, ("video", "classify"): TABLE}


def policy(service: Service = SERVICE, *, name: str = "ipa", **options: object) -> Policy:
    return make_policy(name, PolicyContext({"video": service}, TIMES, options))


def snapshot(
    now_s: float, rates: tuple[int, ...], last: Decision | None = None, *, cores: float = 32.0
) -> ClusterSnapshot:
    desired = last.plan.services["video"] if last is not None and last.plan is not None else None
    view = ServiceView("video", (), rates, desired, ())
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def shape(decision: Decision) -> list[tuple[str, int, float, int]]:
    """Variant, replicas, cores, batch of each stage."""
    assert decision.plan is not None
    stages = [decision.plan.services["video"].stages[name] for name in ("detect", "classify")]
    return [(s.mix[0].variant, len(s.replicas), s.replicas[0].cores, s.batch_rows_max) for s in stages]


def test_the_weights_choose_between_accuracy_and_cores() -> None:
    # 20 a second. detect: `light` ceil(20 x 0.1) = 2 cores, `heavy` ceil(20 x 0.3 / 2) = 3 with pairs (4 with
    # single rows); classify ceil(20 x 0.05) = 1. 0.3 of accuracy for one core more.
    decision = policy().decide(snapshot(0.0, (5, 20, 10)))
    assert shape(decision) == [("heavy", 3, 1.0, 2), ("only", 1, 1.0, 1)]
    assert decision.next_at_s == 10.0
    assert decision.runner_up == "video: accuracy 0.5000 on 3 cores"
    assert shape(policy(cost_weight=0.29).decide(snapshot(0.0, (20,))))[0] == ("heavy", 3, 1.0, 2)
    assert shape(policy(cost_weight=0.31).decide(snapshot(0.0, (20,))))[0] == ("light", 2, 1.0, 1)


def test_a_service_s_objective_replaces_the_weights() -> None:
    floor = msgspec.structs.replace(SERVICE, objective=Objective(accuracy_floor=0.5))
    assert shape(policy(floor).decide(snapshot(0.0, (20,))))[0][0] == "light"
    cap = msgspec.structs.replace(SERVICE, objective=Objective(cost_max_cores=4))
    assert shape(policy(cap).decide(snapshot(0.0, (20,))))[0][0] == "heavy"


def test_replicas_that_change_their_variant_can_be_weighed() -> None:
    # `heavy` gains 0.3, but its 3 replicas would have to be switched to: 0.11 each is too much.
    def chosen(switch: float) -> str:
        weights = (1.0, 0.0, switch)
        service = msgspec.structs.replace(SERVICE, objective=Objective(weights=weights))
        running = policy(variants="lightest").decide(snapshot(0.0, (20,)))
        return shape(policy(service).decide(snapshot(10.0, (20,), running)))[0][0]

    assert chosen(0.09) == "heavy"
    assert chosen(0.11) == "light"


def test_measured_paths_count_instead_of_the_product() -> None:
    measured = (
        PathAccuracy({"detect": "heavy", "classify": "only"}, 0.51),
        PathAccuracy({"detect": "light", "classify": "only"}, 0.50),
    )
    service = msgspec.structs.replace(SERVICE, path_accuracies=measured)
    decision = policy(service).decide(snapshot(0.0, (20,)))  # 0.01 for one core more, at 0.005 a core
    assert shape(decision)[0][0] == "heavy"
    assert "accuracy 0.5100" in decision.reason
    assert shape(policy(service, cost_weight=0.02).decide(snapshot(0.0, (20,))))[0][0] == "light"


def test_the_prediction_is_the_largest_second_of_the_look_back() -> None:
    counts = (40, *[10] * 30)  # `light`: ceil(40 x 0.15 / 2) = 3 with pairs, ceil(10 x 0.1) = 1
    assert shape(policy(variants="lightest").decide(snapshot(0.0, counts)))[0][1] == 3
    assert shape(policy(look_back="30s", variants="lightest").decide(snapshot(0.0, counts)))[0][1] == 1
    assert (
        shape(policy(look_back="30s", margin=1.0, variants="lightest").decide(snapshot(0.0, counts)))[0][1]
        == 2
    )


def test_a_replica_has_the_cores_of_its_base_allocation() -> None:
    # 8 a second of a replica: `light` 10 on one core; `heavy` 6.67 on one with pairs, 10 on two; `only` 20.
    # Then 20 a second are two replicas of `heavy` with single rows.
    decision = policy(base_rate=8).decide(snapshot(0.0, (20,)))
    assert shape(decision) == [("heavy", 2, 2.0, 1), ("only", 1, 1.0, 1)]


def test_every_size_is_looked_at_where_asked_for() -> None:
    # An SLO of 90 ms is shared out as 67.5 and 22.5 ms: `heavy` takes 50 ms on 4 cores, `only` 12.5 on 4. Of
    # all sizes `only` on 2 does: 50 + 25 ms.
    tight = msgspec.structs.replace(SERVICE, slo_s=0.09)
    sizes = {
        which: [cores for _, _, cores, _ in shape(policy(tight, sizes=which).decide(snapshot(0.0, (5,))))]
        for which in ("base", "all")
    }
    assert sizes == {"base": [4.0, 4.0], "all": [4.0, 2.0]}


def test_baselines_fix_variants_or_replicas() -> None:
    seen = snapshot(0.0, (20,))
    assert shape(policy(variants="lightest").decide(seen))[0] == ("light", 2, 1.0, 1)
    assert shape(policy(variants="heaviest", cost_weight=10).decide(seen))[0] == ("heavy", 3, 1.0, 2)
    # RIM: three replicas of `heavy` carry 20 with pairs, not 30: then three of `light` do, with single rows
    fixed = {"detect": 3, "classify": 2}
    assert shape(policy(replicas=fixed).decide(seen)) == [("heavy", 3, 1.0, 2), ("only", 2, 1.0, 1)]
    assert shape(policy(replicas=fixed).decide(snapshot(0.0, (30,))))[0] == ("light", 3, 1.0, 1)
    dotted = {"video.detect": 2, "other.read": 1}
    assert shape(policy(replicas=dotted).decide(seen))[0] == ("light", 2, 1.0, 1)


def test_what_does_not_fit_is_the_cheapest_plan_cut() -> None:
    # 100 a second: `light` ceil(100 x 0.15 / 2) = 8 and `only` 5 do not fit 6 cores
    decision = policy().decide(snapshot(0.0, (100,), cores=6.0))
    stages = shape(decision)
    assert [variant for variant, *_ in stages] == ["light", "only"]
    assert sum(count for _, count, *_ in stages) == 6
    assert "13 cores do not fit" in decision.reason


def test_an_slo_that_no_plan_keeps_leaves_what_is_there() -> None:
    impossible = msgspec.structs.replace(SERVICE, slo_s=0.01)
    first = policy(impossible).decide(snapshot(0.0, (20,)))
    assert shape(first)[0][:2] == ("light", 1)
    later = policy(impossible).decide(snapshot(10.0, (20,), first))
    assert later.plan is None
    assert "no plan keeps the SLO" in later.reason


def test_published_waits_for_batches_and_drops_by_age() -> None:
    decision = policy().decide(snapshot(0.0, (20,)))
    assert decision.plan is not None
    rules = decision.plan.services["video"].stages["detect"].rules
    assert (rules.forming, rules.drop, rules.age_s_max) == ("timeout", "age", 1.5)
    assert rules.timeout_s == pytest.approx(1 / 20)  # (2 - 1) / 20
    ours = policy(name="ipa+ours").decide(snapshot(0.0, (20,)))
    assert ours.plan is not None
    assert ours.plan.services["video"].stages["detect"].rules == StageRules()


def test_options_are_refused_in_one_line() -> None:
    with pytest.raises(SpecError, match="no 'light'; there are: lightest"):
        policy(variants="light")
    with pytest.raises(SpecError, match="unknown option 'detekt'; it has: detect, classify"):
        policy(replicas={"detekt": 2})
    unknown = (Stage("detect", (LIGHT, Variant("b"))), *SERVICE.stages[1:])
    with pytest.raises(SpecError, match="stage detect: variant b has no accuracy"):
        policy(msgspec.structs.replace(SERVICE, stages=unknown))
