"""The default policy on single snapshots: one reaction, one decision, its options.

A row takes 20 ms on one core, and one core carries 60 rows a second in batches of five.
"""

from collections.abc import Mapping, Sequence

import pytest
from msgspec import structs

from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    GrantCancel,
    GrantCores,
    GrantStart,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import (
    ClusterSnapshot,
    NodeView,
    ReplicaView,
    ServiceView,
    ServiceWindow,
    StageWindow,
)
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.profile.times import CoefficientTimes

SLO_S = 0.16


def service_of(
    name: str = "ocr", *, least: float = 1.0, cores_max: float | None = None, weight: float = 1.0
) -> Service:
    variant = Variant("m", batch_rows_max=8, cores_max=2, cold_start_s=0.15)
    least = min(least, cores_max or least)
    return Service(
        name, SLO_S, (Stage("read", (variant,)),), cores_min=least, cores_max=cores_max, weight=weight
    )


def context(*services: Service, options: Mapping[str, object] | None = None) -> PolicyContext:
    named = {s.name: s for s in services or (service_of(),)}
    times = {(name, "read"): CoefficientTimes(10.0, 6.0, 0.0, 4.0) for name in named}
    return PolicyContext(named, times, options)


def replica(
    number: int, cores: float, *, service: str = "ocr", node: str = "local", loading: bool = False
) -> ReplicaView:
    state = "starting" if loading else "ready" if cores else "parked"
    return ReplicaView(number, service, "read", node, state, cores, cores, cores, ("m",), 0.0)  # type: ignore[arg-type]


def view(
    *replicas: ReplicaView, queue: int = 0, per_window: int = 0, service: str = "ocr", windows: int = 40
) -> ServiceView:
    """A service at the end of four seconds of equal windows."""
    stage = StageWindow("read", queue, queue, 0.1 if queue else None, 0)
    seen = tuple(
        ServiceWindow(service, i / 10, (i + 1) / 10, per_window, per_window, 0, 0, 0, 0, 0, 0, (stage,))
        for i in range(windows)
    )
    wanted = tuple(ReplicaPlan(r.cores_desired, ("m",), r.node) for r in replicas)
    plan = ServicePlan(service, {"read": StagePlan(wanted, (VariantShare("m", 1.0),))}) if wanted else None
    return ServiceView(service, seen, (10 * per_window,) * 3, plan, replicas)


def cluster(*views: ServiceView, fractional: bool = False, **nodes: float) -> ClusterSnapshot:
    """Nodes by name and cores; one of two cores by default."""
    free = dict(nodes or {"local": 2.0})
    for replica in (r for v in views for r in v.replicas):
        free[replica.node] -= replica.cores_desired
    named = tuple(
        NodeView(name, cores, free[name], fractional) for name, cores in (nodes or {"local": 2.0}).items()
    )
    return ClusterSnapshot(4.0, 0.1, named, views)


def grants(snapshot: ClusterSnapshot, made: PolicyContext | None = None) -> Sequence[object]:
    answer = make_policy("steelyard", made or context()).react(snapshot)
    return answer.grants if answer else ()


# One reaction


def test_no_queue_is_no_need() -> None:
    assert grants(cluster(view(replica(1, 1.0), replica(2, 0.0), per_window=5))) == ()


def test_a_queue_that_is_worked_off_in_time_is_no_need() -> None:
    # 65 ms may be waited, and a core carries 60/s: two rows are 31/s to carry, and 30 arrive
    assert grants(cluster(view(replica(1, 1.0), replica(2, 0.0), queue=2, per_window=3))) == ()


def test_a_queue_that_takes_all_the_time_there_is_wakes_the_parked_replica() -> None:
    answer = make_policy("steelyard", context()).react(
        cluster(view(replica(1, 1.0), replica(2, 0.0), queue=6, per_window=4))
    )
    assert answer is not None
    assert answer.grants == (GrantCores(2, 1.0),)
    assert "ocr.read: 6 wait, 92.8 rows/s to carry: 1 -> 2 cores" in answer.reason  # 6 / 0.0646


def test_nothing_is_granted_that_is_not_there_or_not_allowed() -> None:
    assert grants(cluster(view(replica(1, 1.0), queue=20, per_window=9), local=1.0)) == ()
    limited = context(service_of(cores_max=1.0))
    assert grants(cluster(view(replica(1, 1.0), queue=20, per_window=9)), limited) == ()


def test_a_burst_beyond_the_cores_of_a_replica_starts_more_of_them_at_once() -> None:
    found = grants(cluster(view(replica(1, 1.0), queue=30, per_window=20), local=8.0))
    assert found[0] == GrantCores(1, 2.0)
    starts = [g for g in found if isinstance(g, GrantStart)]
    assert len(starts) == 6  # all that the node has left
    assert all(g.replica == ReplicaPlan(1.0, ("m",), "local") for g in starts)


def test_a_start_is_given_up_when_the_burst_is_over() -> None:
    seen = cluster(view(replica(1, 1.0), replica(2, 1.0, loading=True), per_window=1))
    assert grants(seen) == (GrantCancel(2),)


def test_a_start_that_the_need_is_for_is_left_alone() -> None:
    assert grants(cluster(view(replica(1, 1.0), replica(2, 1.0, loading=True), per_window=6))) == ()


def test_what_one_service_gives_up_another_has_in_the_same_window() -> None:
    made = context(service_of("a"), service_of("b"))
    policy = make_policy("steelyard", made)
    rich = (replica(1, 1.0, service="a"), replica(2, 1.0, service="a"))
    poor = (replica(3, 1.0, service="b"), replica(4, 0.0, service="b"))
    quiet = cluster(view(*rich, service="a"), view(*poor, service="b"), local=3.0)
    policy.react(quiet)
    answer = policy.react(cluster(view(*rich, service="a"), view(*poor, queue=6, service="b"), local=3.0))
    assert answer is not None
    assert answer.grants == (GrantCores(2, 0.0), GrantCores(4, 1.0))  # the shrink first


def test_growth_takes_the_free_cores_of_each_replicas_own_node() -> None:
    replicas = (replica(1, 1.0, node="x"), replica(2, 1.0, node="y"))
    found = grants(cluster(view(*replicas, queue=40, per_window=20), x=1.0, y=2.0))
    assert found == (GrantCores(2, 2.0),)


def test_replicas_start_where_most_is_free() -> None:
    found = grants(cluster(view(replica(1, 2.0, node="x"), queue=40, per_window=20), x=4.0, y=3.0))
    assert [g.replica.node for g in found if isinstance(g, GrantStart)] == ["y", "x", "y", "x", "y"]


def test_a_large_node_takes_little_longer_to_think_about(monkeypatch: pytest.MonkeyPatch) -> None:
    # 16 replicas grow from one core to two. Looking at all of them again for each step would be 16 x 16 times
    # and miss the 200 us that a reaction may take.
    ready = tuple(replica(i, 1.0) for i in range(1, 17))
    seen = cluster(view(*ready, queue=300, per_window=400), local=32.0)
    calls: list[float] = []
    rate_rps = StageSizing.rate_rps

    def counted(self: StageSizing, cores: float) -> float:
        calls.append(cores)
        return rate_rps(self, cores)

    monkeypatch.setattr(StageSizing, "rate_rps", counted)
    assert grants(seen) == tuple(GrantCores(i, 2.0) for i in range(1, 17))
    assert len(calls) <= 10 * len(ready)


# The first plan


def decide(snapshot: ClusterSnapshot, *services: Service) -> Decision:
    return make_policy("steelyard", context(*services)).decide(snapshot)


def begin(
    *services: Service, fractional: bool = False, rate: int = 0, **nodes: float
) -> dict[str, list[float]]:
    """Cores of each replica in the first plan, by service."""
    views = [ServiceView(s.name, (), (rate,) if rate else (), None, ()) for s in services]
    plan = decide(cluster(*views, fractional=fractional, **nodes), *services).plan
    return {
        name: [r.cores for r in planned.stages["read"].replicas]
        for name, planned in (plan.services if plan else {}).items()
    }


def test_a_service_begins_with_a_core_or_what_its_largest_rate_takes() -> None:
    assert begin(service_of()) == {"ocr": [1.0]}
    assert begin(service_of(), rate=100, local=8.0)["ocr"][:2] == [1.0, 1.0]


def test_what_is_in_reserve_is_parked() -> None:
    # 4 x 100/s are five replicas of 87/s on two cores each; two of one core carry the rate
    assert begin(service_of(), rate=100, local=8.0) == {"ocr": [1.0, 1.0, 0.0, 0.0, 0.0]}


def test_a_first_plan_fits_its_nodes() -> None:
    # Five replicas of 60/s for 300/s, but there are three cores
    assert [c for c in begin(service_of(), rate=300, x=2.0, y=1.0)["ocr"] if c] == [1.0, 1.0, 1.0]


def test_the_lightest_go_without_where_there_are_fewer_cores_than_services() -> None:
    light = service_of("b", weight=0.5)
    services = (service_of("a"), light, service_of("c"))
    views = [ServiceView(s.name, (), (), None, ()) for s in services]
    decision = decide(cluster(*views), *services)
    assert decision.plan is not None
    assert sorted(decision.plan.services) == ["a", "c"]
    assert "b: wants 1 core, 0 free" in decision.reason


def test_a_busy_heavy_service_leaves_the_light_one_its_core() -> None:
    found = begin(service_of("a", weight=5.0), service_of("b"), rate=900, local=4.0)
    assert [c for c in found["a"] if c] == [1.0, 1.0, 1.0]
    assert [c for c in found["b"] if c] == [1.0]


def test_where_parts_are_enforced_they_are_given_rather_than_nothing() -> None:
    found = begin(service_of("a"), service_of("b"), service_of("c"), fractional=True)
    assert sorted(map(sum, found.values())) == [0.5, 0.5, 1.0]


def test_a_service_that_has_gone_without_is_given_what_others_have_parked() -> None:
    services = (service_of("a"), service_of("b"))
    waiting = ServiceView("b", (), (), None, ())
    full = view(replica(1, 2.0, service="a"), service="a")
    assert "b: wants 1 core, 0 free" in decide(cluster(full, waiting), *services).reason
    roomy = view(replica(1, 1.0, service="a"), replica(2, 0.0, service="a"), service="a")
    plan = decide(cluster(roomy, waiting), *services).plan
    assert plan is not None
    assert "b" in plan.services


def test_a_limit_below_a_core_is_kept_where_that_is_possible() -> None:
    assert begin(service_of("a", cores_max=0.5), fractional=True) == {"a": [0.5]}
    assert begin(service_of("a", cores_max=0.5)) == {}
    assert begin(service_of("a", cores_max=0.5), service_of("b")) == {"b": [1.0]}


def test_a_service_begins_with_its_least_cores() -> None:
    assert begin(service_of(least=3.0), local=8.0) == {"ocr": [1.0, 1.0, 1.0]}
    assert begin(service_of(least=3.0)) == {"ocr": [1.0, 1.0]}


def test_a_service_keeps_its_least_cores_whatever_arrives() -> None:
    made = context(service_of(least=3.0))
    three = tuple(replica(i, 1.0) for i in (1, 2, 3))
    policy = make_policy("steelyard", made)
    for second in range(50):
        seen = structs.replace(cluster(view(*three), local=8.0), now_s=4.0 + second)
        assert policy.react(seen) is None
        plan = policy.decide(seen).plan
        assert plan is None or len(plan.services["ocr"].stages["read"].replicas) == 3
    found = grants(cluster(view(replica(1, 1.0), replica(2, 0.0)), local=8.0), made)
    assert found == (GrantCores(1, 2.0), GrantCores(2, 1.0))


# Replicas that leave


def test_a_replica_leaves_when_it_has_occupied_the_price_of_a_cold_start() -> None:
    # Two parked replicas that nothing wants cost 0.05 cores each. A cold start counts as a second at least,
    # so the price is 2 core-seconds: due after 40 decisions, a second apart.
    policy = make_policy("steelyard", context())
    seen = cluster(view(replica(1, 1.0), replica(2, 0.0), replica(3, 0.0), per_window=1))
    counts = []
    for second in range(43):
        plan = policy.decide(structs.replace(seen, now_s=4.0 + second)).plan
        counts.append(len(plan.services["ocr"].stages["read"].replicas) if plan else 3)
    assert counts.index(1) in (40, 41)


def test_nobody_leaves_while_more_waits_than_is_planned_for() -> None:
    policy = make_policy("steelyard", context())
    seen = cluster(view(replica(1, 1.0), replica(2, 0.0), queue=5, per_window=1))
    for second in range(50):
        plan = policy.decide(structs.replace(seen, now_s=4.0 + second)).plan
        assert plan is None or len(plan.services["ocr"].stages["read"].replicas) == 2


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"violation_taget": 0.1}, "violation_target"),
        ({"violation_target": 0.9}, "violation_target"),
        ({"violation_target": "low"}, "violation_target"),
        ({"without": "parking"}, "option without: want a list, got 'parking'"),
        ({"without": ["parkin"]}, "unknown ingredient 'parkin'; there are: parking"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_nearest_that_does(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make_policy("steelyard", context(options=options))


def test_a_higher_violation_target_asks_for_fewer_cores() -> None:
    seen = cluster(view(replica(1, 1.0), replica(2, 0.0), queue=6, per_window=4))
    assert grants(seen, context(options={"violation_target": 0.0001}))
    assert not grants(seen, context(options={"violation_target": 0.3}))
