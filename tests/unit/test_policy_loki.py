"""Loki as a policy: what it wants by hand, its baselines, and whole simulated runs."""

from typing import Any

import pytest
from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Input, Items, Service, Stage, Variant
from steelyard.metrics.runs import RunSummary
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import count_trace

MS = {"x": 40.0, "n": 10.0, "big": 10.0, "tiny": 2.0}
"""Of single rows, and so much for each further row."""
DETECT = Stage("detect", (Variant("x", 0.5, 1), Variant("n", 0.4, 1)))
CARS = Stage(
    "cars",
    (Variant("big", 0.9, 2), Variant("tiny", 0.72, 2)),
    after=("detect",),
    fan_out=4,
    items_of="detect",
    each="boxes",
    items=Items({"x": 4.0, "n": 1.0}, "fixed"),
    inputs=(Input("box", "detect", "boxes"),),
)
TRAFFIC = Service("traffic", 0.5, (DETECT, CARS), reply_s=0.0, answers=("cars",))
SERVERS = 6


def stage_times(stage: Stage) -> StageTimes:
    declared = {
        v.name: DeclaredLatency(
            table=((1, 1.0, MS[v.name], None), (2, 1.0, 2 * MS[v.name], None)),
            distribution="fixed",
            spread=0.0,
        )
        for v in stage.variants
    }
    return StageTimes("traffic", stage.name, declared=declared)


def context(**options: Any) -> PolicyContext:
    times = {("traffic", stage.name): service_times(stage_times(stage)) for stage in TRAFFIC.stages}
    return PolicyContext({"traffic": TRAFFIC}, times, options)


def decide(
    policy: Policy,
    rate: int,
    *,
    now_s: float = 30.0,
    desired: ServicePlan | None = None,
    cores: float = SERVERS,
) -> Decision:
    view = ServiceView("traffic", (), (rate,) * 20, desired, ())
    return policy.decide(ClusterSnapshot(now_s, 0.1, (NodeView("n", cores, cores),), (view,)))


def wanted(decision: Decision) -> dict[str, int]:
    assert decision.plan is not None
    counts: dict[str, int] = {}
    for stage in decision.plan.services["traffic"].stages.values():
        for replica in stage.replicas:
            counts[replica.variants[0]] = counts.get(replica.variants[0], 0) + 1
    return counts


def test_hardware_first_then_accuracy() -> None:
    """20 requests x 1.1: 22 x 40 ms = 0.88 of one x; 22 x 4 x 1.1 = 97 cars x 10 ms = 0.97 of one big.

    At 100, x and big would take 4.4 + 4.84 servers of six: accuracy gives way, and all are used.
    """
    assert wanted(decide(make_policy("loki", context()), 10)) == {"x": 1, "big": 1}
    assert wanted(decide(make_policy("loki", context()), 20)) == {"x": 1, "big": 1}
    busy = decide(make_policy("loki", context()), 100)
    assert sum(wanted(busy).values()) == SERVERS
    assert "n" in wanted(busy)
    assert wanted(decide(make_policy("loki", context(variants="accurate")), 100)).keys() == {"x", "big"}


def test_the_tables_route_by_path() -> None:
    decision = decide(make_policy("loki", context()), 100)
    assert decision.plan is not None
    stages = decision.plan.services["traffic"].stages
    assert stages["detect"].paths == ()
    assert {share.variant for share in stages["detect"].mix} == {"x", "n"}
    assert stages["cars"].rules.choice == "table"
    assert {path.path for path in stages["cars"].paths} == {("x",), ("n",)}
    for path in stages["cars"].paths:
        assert sum(share.share for share in path.shares) == pytest.approx(1.0)


def test_below_plan_it_routes_to_the_accurate_until_it_plans_anew() -> None:
    policy = make_policy("loki", context())
    first = decide(policy, 100)
    calm = decide(policy, 10, now_s=31.0)
    assert calm.plan is not None
    assert wanted(calm) == wanted(first)
    assert calm.reason.startswith("traffic: routes for 10/s")
    mix = calm.plan.services["traffic"].stages["detect"].mix
    assert [(share.variant, share.share) for share in mix] == [("x", 1.0)]
    assert wanted(decide(policy, 10, now_s=41.0)) == {"x": 1, "big": 1}


def test_demand_beyond_the_plan_is_planned_for_at_once() -> None:
    policy = make_policy("loki", context())
    decide(policy, 10)
    assert decide(policy, 100, now_s=31.0).reason.startswith("traffic: routes")  # 2 s of rest
    assert decide(policy, 100, now_s=32.0).reason.startswith("traffic: beyond plan: 100/s: 6 of 6 servers")


def test_a_price_buys_fewer_servers() -> None:
    """A server costs 10 / 6 of accuracy: one of each stage, whatever it is worth."""
    assert sum(wanted(decide(make_policy("loki", context(price=10.0)), 40)).values()) == 2


def test_stages_apart_do_not_know_what_they_cause() -> None:
    """Planned by what each stage is given now: cars expect 4 a request by x, though n answers next."""
    decision = decide(make_policy("loki", context(plans="tasks")), 100)
    assert sum(wanted(decision).values()) == SERVERS
    assert decision.plan is not None
    assert decision.plan.services["traffic"].stages["cars"].paths == ()


def test_every_stage_has_a_replica() -> None:
    assert wanted(decide(make_policy("loki", context()), 0, cores=2.0)) == {"x": 1, "big": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plans": "task"}, "option plans: no 'task'; there are: tasks, pipeline"),
        ({"price": -1}, "option price: want 0 to 100, got -1"),
        ({"period": 10}, "option period: want a duration such as 15s or 2m, got 10"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_policy("loki", context(**options))


def test_what_is_no_tree_is_refused() -> None:
    join = Stage("join", (Variant("j"),), after=("detect", "cars"))
    made = context()
    service = replace(TRAFFIC, stages=(*TRAFFIC.stages, join))
    times = {**made.service_times, ("traffic", "join"): made.service_times["traffic", "detect"]}
    with pytest.raises(
        SpecError, match=r"stage traffic\.join: want one stage before it, there is cars, detect"
    ):
        make_policy("loki", PolicyContext({"traffic": service}, times))
    mixed = replace(DETECT, variants=(Variant("x", 0.5), Variant("n", 0.4, device="gpu")))
    with pytest.raises(SpecError, match="its servers are alike, variants are for cpu, gpu"):
        make_policy("loki", PolicyContext({"traffic": replace(TRAFFIC, stages=(mixed, CARS))}, times))


def simulated(policy: str, rate: int, **options: Any) -> RunSummary:
    run = simulate(
        Scenario(
            {"traffic": TRAFFIC},
            tuple(stage_times(stage) for stage in TRAFFIC.stages),
            {"traffic": count_trace([rate] * 8)},
            policy,
            options,
            (SimulatedNode("n", SERVERS),),
            seed=5,
        )
    )
    return run.summaries[0]


@pytest.mark.long
def test_accuracy_scaling_carries_what_hardware_alone_cannot() -> None:
    """60 requests need 60 x 0.04 + 240 x 0.01 = 4.8 servers of six at best accuracy; 120 would need 9.6."""
    calm = simulated("loki", 45)
    assert calm.violation_ratio < 0.02
    assert calm.accuracy_mean == pytest.approx(0.5 * 0.9)  # x and big throughout
    hardware, both = simulated("loki", 120, variants="accurate"), simulated("loki", 120)
    assert hardware.violation_ratio > 0.2
    assert both.violation_ratio < hardware.violation_ratio / 2
    assert simulated("loki+ours", 120).violation_ratio < 0.1
