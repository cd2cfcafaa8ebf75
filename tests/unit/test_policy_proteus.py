"""Policies that share devices among services: what they want by hand, and a whole simulated run."""

from typing import Any

import pytest
from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, ReplicaPlan, ServicePlan, StageRules
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, Stage, Variant
from steelyard.plan.infaas import switched
from steelyard.plan.proteus import Family, Hosted
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.families import batches, slots_of
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.testing.builders import TableTimes
from steelyard.workload.trace import count_trace

SLO_S = 0.2
MS = {"good": 80.0, "quick": 20.0, "good@gpu": 10.0}
"""Of single rows; batches of two take as long."""
VARIANTS = (
    Variant("good", 0.8, batch_rows_max=2, cold_start_s=0.5),
    Variant("quick", 0.4, batch_rows_max=2, cold_start_s=0.5),
    Variant("good@gpu", 0.8, batch_rows_max=2, cold_start_s=0.5, device="gpu"),
)
STAGE = Stage("s", VARIANTS)
SERVICES = {name: Service(name, SLO_S, (STAGE,), reply_s=0.0) for name in ("a", "b")}
NODES = (NodeView("n", 3.0, 3.0, devices={"gpu": 1}),)


def stage_times(service: str) -> StageTimes:
    declared = {
        name: DeclaredLatency(
            table=((1, 1.0, ms, None), (2, 1.0, ms, None)), distribution="fixed", spread=0.0
        )
        for name, ms in MS.items()
    }
    return StageTimes(service, "s", declared=declared)


def context(**options: Any) -> PolicyContext:
    times = {(name, "s"): service_times(stage_times(name)) for name in SERVICES}
    return PolicyContext(SERVICES, times, options)


def snapshot(
    rates: dict[str, int], desired: dict[str, ServicePlan] | None = None, now_s: float = 30.0
) -> ClusterSnapshot:
    views = tuple(
        ServiceView(name, (), (rate,) * 20, (desired or {}).get(name), ()) for name, rate in rates.items()
    )
    return ClusterSnapshot(now_s, 0.1, NODES, views)


def hosted(decision: Decision) -> dict[str, list[str]]:
    assert decision.plan is not None
    return {
        name: sorted(replica.variants[0] for replica in plan.stages["s"].replicas)
        for name, plan in decision.plan.services.items()
    }


def decide(policy: Policy, rates: dict[str, int]) -> Decision:
    return policy.decide(snapshot(rates))


def test_devices_go_where_they_are_worth_most() -> None:
    """The gpu answers 2 / 10 ms = 200 a second, good on a core 25, quick 100; headroom 1.05.

    a: 100 x 1.05 = 105 rows fit the gpu; b: 20 x 1.05 = 21 fit a good core. The core left does no harm.
    """
    decision = decide(make_policy("proteus", context()), {"a": 100, "b": 20})
    wanted = hosted(decision)
    assert wanted["a"][-1] == "good@gpu"
    assert set(wanted["b"]) == {"good"}
    assert "at accuracy 1.0000" in decision.reason  # relative to the best of the service
    plan = decision.plan
    assert plan is not None
    replicas = [r for one in plan.services.values() for r in one.stages["s"].replicas]
    assert sorted(r.device for r in replicas) == ["cpu", "cpu", "gpu"]
    assert sum(r.cores for r in replicas) == 3.0  # the gpu takes one of the node's three


def test_accuracy_gives_way_where_devices_are_short() -> None:
    """a and b 150 each: the gpu for one (157.5 of 200), quick cores for the other: 2 x 100 of 157.5."""
    decision = decide(make_policy("proteus", context()), {"a": 150, "b": 150})
    wanted = hosted(decision)
    assert sorted(wanted.values()) == [["good@gpu"], ["quick", "quick"]]
    plan = decision.plan
    assert plan is not None
    stage = next(p.stages["s"] for n, p in plan.services.items() if wanted[n] == ["quick", "quick"])
    assert [(share.variant, share.share) for share in stage.mix] == [("quick", 1.0)]
    assert stage.rows_max == {"quick": 2}
    assert (stage.rules.forming, stage.rules.routing) == ("adaptive", "assigned")


def test_it_waits_for_its_period_unless_demand_exceeds_capacity() -> None:
    policy = make_policy("proteus", context())
    first = policy.decide(snapshot({"a": 100, "b": 20}, now_s=30.0))
    assert first.plan is not None
    assert policy.decide(snapshot({"a": 100, "b": 20}, now_s=33.0)).plan is None
    again = policy.decide(snapshot({"a": 100, "b": 90}, now_s=34.0))
    assert again.plan is not None
    assert again.reason.startswith("b beyond capacity")
    assert policy.decide(snapshot({"a": 900, "b": 90}, now_s=35.0)).plan is None  # 2 s of rest
    assert policy.decide(snapshot({"a": 100, "b": 90}, now_s=44.0)).plan is not None


def test_devices_that_host_what_is_wanted_keep_it() -> None:
    present = (ReplicaPlan(1.0, ("quick",), "n"), ReplicaPlan(1.0, ("good",), "n"))
    hosting = {("n", "cpu"): [("b", replica.variants[0]) for replica in present]}
    slots = slots_of(NODES, 1, hosting)
    assert [(slot.kind, slot.present) for slot in slots] == [
        ("gpu", None),
        ("cpu", ("b", "quick")),
        ("cpu", ("b", "good")),
    ]
    assert [slot.kind for slot in slots_of((NodeView("n", 5.0, 5.0),), 2, {})] == ["cpu", "cpu"]


def test_a_device_may_host_a_family() -> None:
    """Every variant of a family that is fast enough on a device is at hand there; the data plane chooses."""
    decision = decide(make_policy("proteus", context(hosts="families")), {"a": 100, "b": 20})
    assert decision.plan is not None
    replicas = [r for plan in decision.plan.services.values() for r in plan.stages["s"].replicas]
    assert sorted((r.device, r.variants) for r in replicas) == [
        ("cpu", ("good", "quick")),
        ("cpu", ("good", "quick")),
        ("gpu", ("good@gpu",)),
    ]
    stage = decision.plan.services["b"].stages["s"]
    assert stage.rules == StageRules(choice="fit")
    assert [share.variant for share in stage.mix] == ["good", "quick"]  # the most accurate first
    assert stage.rows_max == {"good": 2, "quick": 2}


def test_a_family_is_at_hand_as_far_as_memory_goes() -> None:
    """Three devices share the node's memory: 100 bytes each hold one variant of 60, 120 hold two."""
    large = tuple(replace(variant, memory_bytes=60) for variant in VARIANTS)
    services = {n: replace(s, stages=(replace(STAGE, variants=large),)) for n, s in SERVICES.items()}
    for memory_bytes, variants in ((300, ("good",)), (360, ("good", "quick"))):
        times = context().service_times
        policy = make_policy("proteus", PolicyContext(services, times, {"hosts": "families"}))
        node = replace(NODES[0], memory_bytes=memory_bytes)
        plan = policy.decide(replace(snapshot({"a": 100, "b": 20}), nodes=(node,))).plan
        assert plan is not None
        found = {r.variants for s in plan.services.values() for r in s.stages["s"].replicas}
        assert found == {variants, ("good@gpu",)}


def test_a_device_that_hosts_a_family_changes_variants_without_a_move() -> None:
    """b: 20 rows fit a good core (25), 90 want a quick one (100)."""
    changes = {}
    for hosts in ("variants", "families"):
        policy = make_policy("proteus", context(hosts=hosts))
        calm = policy.decide(snapshot({"a": 100, "b": 20}))
        assert calm.plan is not None
        busy = policy.decide(snapshot({"a": 100, "b": 90}, calm.plan.services, now_s=45.0))
        changes[hosts] = hosted(calm) != hosted(busy)
    assert changes == {"variants": True, "families": False}


def test_on_each_kind_accuracy_gives_way_from_what_is_planned_there() -> None:
    """b at 170 rows a second wants both cores quick (2 x 100): good is at hand there, but not to be used."""
    plan = decide(make_policy("proteus", context(hosts="families")), {"a": 15, "b": 350}).plan
    assert plan is not None
    stages = [service.stages["s"] for service in plan.services.values()]
    cores = [stage for stage in stages if any(r.device == "cpu" for r in stage.replicas)]
    assert all(r.variants == ("good", "quick") for s in cores for r in s.replicas if r.device == "cpu")
    assert any("good" not in [share.variant for share in stage.mix] for stage in cores)


def test_full_batches_are_dropped_when_they_are_old() -> None:
    decision = decide(make_policy("infaas", context(batching="full")), {"a": 100, "b": 20})
    assert decision.plan is not None
    rules = decision.plan.services["a"].stages["s"].rules
    assert (rules.forming, rules.routing, rules.drop) == ("full", "assigned", "age")
    assert rules.age_s_max == pytest.approx(2 * SLO_S)


def test_clipper_decides_once() -> None:
    """HA hosts good alone, HT on a core quick alone; neither changes when the rate does."""
    for variants, found in (("accurate", {"good", "good@gpu"}), ("fast", {"quick", "good@gpu"})):
        policy = make_policy("clipper", context(variants=variants))
        wanted = hosted(policy.decide(snapshot({"a": 100, "b": 20})))
        assert {name for names in wanted.values() for name in names} <= found
        assert policy.decide(snapshot({"a": 900, "b": 900}, now_s=99.0)).plan is None


def test_sommelier_keeps_the_placement() -> None:
    policy = make_policy("sommelier", context(headroom=1.05))
    wanted = hosted(policy.decide(snapshot({"a": 100, "b": 20})))
    turned = hosted(policy.decide(snapshot({"a": 20, "b": 100}, now_s=50.0)))
    assert {name: len(names) for name, names in turned.items()} == {n: len(v) for n, v in wanted.items()}
    assert "good@gpu" in turned["a"]  # it would be worth more at b
    assert "quick" in turned["b"]


def test_infaas_switches_where_it_costs_least() -> None:
    """40 x 1.05 = 42 rows on two good cores (50) stay; 80 need one quick (25 + 100), 190 both."""
    good, quick = Hosted("good", "cpu", 1.0, 25.0), Hosted("quick", "cpu", 0.5, 100.0)
    family = Family("f", 40.0, (good, quick))
    both = {("f", "good"): 2}
    assert switched(family, both) == both
    assert switched(replace(family, demand_rps=80.0), both) == {("f", "good"): 1, ("f", "quick"): 1}
    assert switched(replace(family, demand_rps=190.0), both) == {("f", "quick"): 2}
    assert switched(replace(family, demand_rps=10.0), {("f", "quick"): 2}) == both
    assert switched(replace(family, demand_rps=900.0), both) == {("f", "quick"): 2}  # all that it can do


def test_batches_below_half_of_the_slo() -> None:
    """Batches take 40 ms a row: with 0.2 s, 2 rows are 80 ms < 100 ms, 4 are not."""
    stage = Stage("s", (Variant("v", 1.0, batch_rows_max=8),))
    found = batches(stage, TableTimes({1: 0.04, 8: 0.32}), 0.2, 1)["v"]
    assert found.rows == 2
    assert found.rate_rps == pytest.approx(25.0)
    slow = batches(stage, TableTimes({1: 0.4, 8: 3.2}), 0.2, 1)["v"]  # nothing is fast enough
    assert slow.rows == 1
    assert slow.rate_rps == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("proteus", {"batching": "adaptve"}, "option batching: no 'adaptve'; there are: adaptive"),
        ("proteus", {"variants": "fast"}, "unknown option 'variants'"),
        ("proteus", {"hosts": "family"}, "option hosts: no 'family'; there are: families, variants"),
        ("proteus", {"change": -1}, "option change: want 0 to 10, got -1"),
        ("clipper", {"variants": "quick"}, "option variants: no 'quick'; there are: accurate, fast"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_policy(name, context(**options))


def test_services_that_are_none_for_it_are_refused() -> None:
    two = replace(SERVICES["a"], stages=(STAGE, replace(STAGE, name="t", after=("s",))))
    with pytest.raises(SpecError, match="policy proteus: service a has 2 stages; it is for services of one"):
        make_policy("proteus", PolicyContext({"a": two}, {}))
    unknown = replace(STAGE, variants=(Variant("x", 0.5), Variant("y")))
    times = {("a", "s"): TableTimes({1: 0.01})}
    with pytest.raises(
        SpecError, match=r"variant y of a\.s has no accuracy; it chooses variants by accuracy"
    ):
        make_policy("proteus", PolicyContext({"a": replace(SERVICES["a"], stages=(unknown,))}, times))


@pytest.mark.long
@pytest.mark.parametrize("policy", ["proteus", "proteus+ours", "infaas", "sommelier", "clipper"])
def test_devices_change_hands_in_a_simulation(policy: str) -> None:
    """The demand of a and b changes places after 12 s; the ledger asserts that no device is held twice."""
    traces = {"a": count_trace([90] * 12 + [15] * 13), "b": count_trace([15] * 12 + [90] * 13)}
    run = simulate(
        Scenario(
            SERVICES,
            tuple(stage_times(name) for name in SERVICES),
            dict(traces),
            policy,
            {},
            (SimulatedNode("n", 3, devices={"gpu": 1}),),
            seed=3,
        )
    )
    for summary in run.summaries:
        assert summary.requests == 12 * 90 + 13 * 15 or summary.requests == 12 * 15 + 13 * 90
        assert summary.completed > 0.5 * summary.requests
    if policy.startswith("proteus"):
        assert sum(summary.cold_starts or 0 for summary in run.summaries) >= 1  # the gpu went to b


@pytest.mark.long
def test_variants_at_hand_carry_a_surge_that_devices_are_moved_for() -> None:
    """On three cores b rises from 15 to 90 a second at 12 s: a core does 25 with good, 100 with quick.

    A plan changes at 13 s at the earliest, and what changes takes 0.5 s to load. Variants at hand change with
    the next batch.
    """
    traces = {"a": count_trace([15] * 25), "b": count_trace([15] * 12 + [90] * 13)}
    violations = {}
    for hosts in ("variants", "families"):
        scenario = Scenario(
            SERVICES,
            tuple(stage_times(name) for name in SERVICES),
            dict(traces),
            "proteus+ours",
            {"hosts": hosts},
            (SimulatedNode("n", 3),),
            seed=3,
        )
        violations[hosts] = sum(summary.violations for summary in simulate(scenario).summaries)
    assert violations["families"] < 0.5 * violations["variants"]
