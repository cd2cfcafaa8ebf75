"""The policy in a closed loop: the live drivers and machines on virtual time.

One row takes 20 ms on one core and 13 ms on two (10 b / c + 6 b + 4), so one core carries 50 single rows a
second.
"""

import pytest
from msgspec import structs

from steelyard.core.commands import DrainReplica, RecordDecision, ResizeReplica, StartReplica, StopReplica
from steelyard.core.plan import (
    GrantCancel,
    GrantCores,
    GrantStart,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
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
from steelyard.policies.registry import make_policy
from steelyard.policies.steelyard.demand import arrival_demand_rps, recent_demand_rps
from steelyard.policies.steelyard.patience import HOLD_S, Patience
from steelyard.policies.steelyard.sizing import StageChoice, StageSizing, observed_ratio
from steelyard.profile.times import CoefficientTimes, DeclaredTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.testing.virtual_server import VirtualServer, poisson

SLO_S = 0.16
ONE_CORE_RPS = 50.0


def context(
    *names: str, cores_max: int = 2, cold_start_s: float = 0.15, batch: int = 8, **fields: object
) -> PolicyContext:
    variant = Variant("m", batch_rows_max=batch, cores_max=cores_max, cold_start_s=cold_start_s)
    services = {
        name: Service(name, SLO_S, (Stage("read", (variant,)),), **fields)  # type: ignore[arg-type]
        for name in names or ("ocr",)
    }
    times = {(name, "read"): CoefficientTimes(10.0, 6.0, 0.0, 4.0) for name in services}
    return PolicyContext(services, times)


def loop(
    made: PolicyContext,
    arrivals: dict[str, list[float]],
    *,
    policy: str = "steelyard",
    cores: int = 2,
    fractional: bool = False,
    options: dict[str, object] | None = None,
) -> VirtualServer:
    configured = PolicyContext(made.services, made.service_times, options)
    return VirtualServer(
        made.services,
        made.service_times,
        lambda: make_policy(policy, configured),
        arrivals,
        cores=cores,
        fractional=fractional,
        spread=0.05,
    )


def surge(*, low: float = 0.4, high: float = 1.5, seed: int = 1) -> list[float]:
    return poisson([(10, low * ONE_CORE_RPS), (10, high * ONE_CORE_RPS), (10, low * ONE_CORE_RPS)], seed=seed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_surge_gets_its_cores_within_a_few_windows_and_costs_no_slo(seed: int) -> None:
    run = loop(context(), {"ocr": surge(seed=seed)}).run(30.0)
    grown_s = next(at_s for at_s, c in run.sent if isinstance(c, ResizeReplica) and at_s >= 10.0)
    assert (
        grown_s <= 10.6 + 1e-6
    )  # arrivals exceed the capacity by half: a queue worth acting on takes 0.2 to 0.4 s
    assert run.violation_ratio("ocr") <= 0.006
    assert all(e.arrived_s < 12.0 for e in run.ended["ocr"] if e.violated)
    fixed = loop(context(), {"ocr": surge(seed=seed)}, policy="static", options={"cores": 1}).run(30.0)
    assert fixed.violation_ratio("ocr") > 0.1
    assert run.core_seconds(30.0) < 0.85 * 60.0  # two fixed cores would be 60


def test_the_surge_costs_fewer_violations_than_under_themis_at_no_more_cores() -> None:
    ours = loop(context(), {"ocr": surge()}).run(30.0)
    theirs = loop(context(), {"ocr": surge()}, policy="themis").run(30.0)
    assert ours.violation_ratio("ocr") < theirs.violation_ratio("ocr")
    assert ours.core_seconds(30.0) <= 1.05 * theirs.core_seconds(30.0)


@pytest.mark.parametrize("utilisation", [0.2, 0.4, 0.5])
def test_a_constant_load_does_not_flap(utilisation: float) -> None:
    arrivals = poisson([(60, utilisation * ONE_CORE_RPS)], seed=3)
    run = loop(context(), {"ocr": arrivals}).run(60.0)
    assert run.count(StartReplica) == 1
    assert run.count(ResizeReplica) <= 2
    assert run.core_seconds(60.0) <= 65.0
    assert run.violation_ratio("ocr") <= 0.005


@pytest.mark.parametrize("utilisation", [0.65, 0.8, 1.0, 1.3])
def test_no_constant_load_costs_its_slo_or_restless_replicas(utilisation: float) -> None:
    arrivals = poisson([(60, utilisation * ONE_CORE_RPS)], seed=4)
    run = loop(context(), {"ocr": arrivals}).run(60.0)
    assert run.violation_ratio("ocr", from_s=2.0) <= 0.005
    assert run.count(StartReplica) + run.count(DrainReplica) <= 4
    assert run.count(ResizeReplica) <= 14


def test_two_services_pass_their_cores_to_each_other() -> None:
    pieces = [0.35, 1.2, 0.35, 0.35]
    opposite = {
        "a": poisson([(8, r * ONE_CORE_RPS) for r in pieces], seed=5),
        "b": poisson([(8, r * ONE_CORE_RPS) for r in (0.35, 0.35, 1.2, 0.35)], seed=6),
    }
    made = context("a", "b", cores_min=0.25)
    ours = loop(made, opposite, fractional=True).run(32.0)
    fixed = loop(made, opposite, policy="static", fractional=True).run(32.0)
    worst = max(ours.violation_ratio(name) for name in made.services)
    assert worst <= 0.03
    assert sum(ours.violation_ratio(n) for n in made.services) < 0.5 * sum(
        fixed.violation_ratio(n) for n in made.services
    )
    assert ours.core_seconds(32.0) <= fixed.core_seconds(32.0)
    assert all(step.cores >= 0.25 for step in ours.history)


def test_a_heavier_service_loses_less_when_cores_are_short() -> None:
    made = context("a", "b", cores_min=0.25)
    services = dict(made.services)
    heavy = Service("a", SLO_S, services["a"].stages, cores_min=0.25, weight=5.0)
    made = PolicyContext({**services, "a": heavy}, made.service_times)
    arrivals = {n: poisson([(15, 1.3 * ONE_CORE_RPS)], seed=i) for i, n in enumerate("ab")}
    run = loop(made, arrivals, fractional=True).run(15.0)
    assert run.violation_ratio("a", from_s=3.0) < 0.5 * run.violation_ratio("b", from_s=3.0)


def test_overload_keeps_all_cores_and_goes_on_serving() -> None:
    run = loop(context(), {"ocr": poisson([(20, 4 * ONE_CORE_RPS)], seed=8)}).run(20.0)
    served = sum(not e.violated for e in run.ended["ocr"]) / 20.0
    assert served > 1.7 * ONE_CORE_RPS
    assert run.history[-1].cores == 2.0


def test_the_lightest_go_without_where_there_are_fewer_cores_than_services() -> None:
    made = context("a", "b", "c")
    services = {**made.services, "b": Service("b", SLO_S, made.services["b"].stages, weight=0.5)}
    policy = make_policy("steelyard", PolicyContext(services, made.service_times))
    views = tuple(ServiceView(name, (), (), None, ()) for name in services)
    decision = policy.decide(ClusterSnapshot(0.0, 0.1, (NodeView("local", 2.0, 2.0),), views))
    assert decision.plan is not None
    assert sorted(decision.plan.services) == ["a", "c"]
    assert "b: no core is left for it" in decision.reason


def limited_to(cores_max: float, *others: str, fractional: bool) -> str:
    """What the first decision says where service `a` may have that many cores."""
    made = context("a", *others)
    a = Service("a", SLO_S, made.services["a"].stages, cores_min=min(1.0, cores_max), cores_max=cores_max)
    services = {**made.services, "a": a}
    policy = make_policy("steelyard", PolicyContext(services, made.service_times))
    views = tuple(ServiceView(name, (), (), None, ()) for name in services)
    decision = policy.decide(ClusterSnapshot(0.0, 0.1, (NodeView("local", 2.0, 2.0, fractional),), views))
    planned = decision.plan.services if decision.plan else {}
    return "; ".join(
        [f"{name} has {sum(r.cores for r in p.stages['read'].replicas):g}" for name, p in planned.items()]
        or [decision.reason]
    )


def test_a_service_that_may_not_have_a_whole_core_gets_its_part_where_that_is_possible() -> None:
    assert limited_to(0.5, fractional=True) == "a has 0.5"
    assert "a: its limit is less than the least" in limited_to(0.5, fractional=False)


def test_a_service_that_can_be_given_nothing_takes_nothing_from_the_others() -> None:
    assert limited_to(0.5, "b", fractional=False) == "b has 1"


def test_a_lost_replica_is_replaced_and_the_slo_held() -> None:
    made = context()
    run = loop(made, {"ocr": poisson([(20, 0.4 * ONE_CORE_RPS)], seed=9)})
    run.lose(1, 5.0)
    run.run(20.0)
    assert run.count(StartReplica) >= 2
    assert run.violation_ratio("ocr", from_s=6.0) <= 0.005


def test_a_large_node_is_scaled_out_under_the_cover_of_cores() -> None:
    # 6 s of cold start, and 200/s where one replica carries 128/s at most: cores at once, replicas meanwhile,
    # and in the end fewer cores in all.
    made = context(cores_max=8, cold_start_s=6.0)
    arrivals = {"ocr": poisson([(10, 20.0), (40, 200.0)], seed=2)}
    run = loop(made, arrivals, cores=16).run(50.0)
    first = next(at_s for at_s, c in run.sent if at_s > 10.0 and isinstance(c, ResizeReplica))
    second = next(at_s for at_s, c in run.sent if at_s > 10.0 and isinstance(c, StartReplica))
    assert first < 11.0
    assert second < 12.0  # in parallel, not after a calm of ten seconds
    assert run.violation_ratio("ocr", from_s=17.0) <= 0.01
    assert run.history[-1].cores <= 8.0


def test_every_decision_says_why_and_what_else_there_was() -> None:
    run = loop(context(), {"ocr": surge()}).run(30.0)
    decided = [d for d in run.decisions if d.kind == "decide"]
    assert all("rows/s" in d.reason for d in decided)
    assert any("over" in d.runner_up and "ms" in d.runner_up for d in decided)
    assert any(isinstance(c, RecordDecision) and c.kind == "react" for _, c in run.sent)


# One window, by hand


def snapshot(
    *,
    queue: int,
    per_window: int,
    cores: float = 1.0,
    free: float = 1.0,
    starting: float | None = None,
    node: float = 2.0,
    slack_s: float | None = 0.1,
    service: str = "ocr",
) -> ClusterSnapshot:
    stage = StageWindow("read", queue, queue, slack_s if queue else None, 0)
    windows = tuple(
        ServiceWindow(service, i / 10, (i + 1) / 10, per_window, per_window, 0, 0, 0, 0, 0, 0, (stage,))
        for i in range(40)
    )
    replicas = [ReplicaView(1, service, "read", "local", "ready", cores, cores, cores, ("m",), 0.0)]
    if starting:
        replicas.append(
            ReplicaView(
                2, service, "read", "local", "starting", starting, starting, starting, ("m",), 3.9, 10.0
            )
        )
    wanted = StagePlan(
        tuple(ReplicaPlan(r.cores_desired, ("m",)) for r in replicas), (VariantShare("m", 1.0),)
    )
    view = ServiceView(
        service, windows, (10 * per_window,) * 3, ServicePlan(service, {"read": wanted}), tuple(replicas)
    )
    return ClusterSnapshot(4.0, 0.1, (NodeView("local", node, free),), (view,))


def test_no_queue_is_no_need() -> None:
    assert make_policy("steelyard", context()).react(snapshot(queue=0, per_window=8)) is None


def test_a_queue_that_is_worked_off_in_time_is_no_need() -> None:
    # 2 rows at 50/s take 40 ms; of 159 ms less the fastest row (15 ms) 60 % are 86 ms
    assert make_policy("steelyard", context()).react(snapshot(queue=2, per_window=3)) is None


def test_a_queue_that_takes_most_of_the_slack_gets_the_free_core() -> None:
    grants = make_policy("steelyard", context()).react(snapshot(queue=6, per_window=4))
    assert grants is not None
    assert grants.grants == (GrantCores(1, 2.0),)
    assert "rows/s to carry" in grants.reason


def test_a_proven_burst_acts_on_a_shorter_queue() -> None:
    # 10 rows a window are 100/s over 0.3 s; 100 - sqrt(30) / 0.3 = 82/s is more than one core carries
    grants = make_policy("steelyard", context()).react(snapshot(queue=3, per_window=10))
    assert grants is not None
    assert grants.grants == (GrantCores(1, 2.0),)


def test_a_large_node_takes_little_longer_to_think_about(monkeypatch: pytest.MonkeyPatch) -> None:
    # 16 replicas grow from one core to two. Each is looked at a few times; looking at all of them again for
    # each step would be 16 x 16 times and miss the 200 us that a reaction may take.
    seen = snapshot(queue=300, per_window=400, free=16.0, node=32.0)
    ready = tuple(
        ReplicaView(i, "ocr", "read", "local", "ready", 1.0, 1.0, 1.0, ("m",), 0.0) for i in range(1, 17)
    )
    seen = structs.replace(seen, services=(structs.replace(seen.services[0], replicas=ready),))
    calls: list[float] = []
    rate_rps = StageSizing.rate_rps

    def counted(self: StageSizing, cores: float) -> float:
        calls.append(cores)
        return rate_rps(self, cores)

    monkeypatch.setattr(StageSizing, "rate_rps", counted)
    grants = make_policy("steelyard", context()).react(seen)
    assert grants is not None
    assert grants.grants == tuple(GrantCores(i, 2.0) for i in range(1, 17))
    assert len(calls) <= 10 * len(ready)


def test_nothing_is_granted_that_is_not_there_or_not_allowed() -> None:
    assert make_policy("steelyard", context()).react(snapshot(queue=20, per_window=9, free=0.0)) is None
    limited = context(cores_max=2)
    limited.services["ocr"] = Service("ocr", SLO_S, limited.services["ocr"].stages, cores_max=1.0)
    assert make_policy("steelyard", limited).react(snapshot(queue=20, per_window=9)) is None


def test_a_burst_beyond_the_cores_of_a_replica_starts_more_of_them() -> None:
    seen = snapshot(queue=30, per_window=20, free=7.0, node=8.0)
    grants = make_policy("steelyard", context()).react(seen)
    assert grants is not None
    assert grants.grants[0] == GrantCores(1, 2.0)
    starts = [g for g in grants.grants if isinstance(g, GrantStart)]
    assert starts
    assert all(g.replica == ReplicaPlan(1.0, ("m",), "local") for g in starts)


def test_a_start_is_given_up_when_the_burst_is_over() -> None:
    grants = make_policy("steelyard", context()).react(
        snapshot(queue=0, per_window=1, starting=1.0, free=0.0)
    )
    assert grants is not None
    assert grants.grants == (GrantCancel(2),)


def test_a_start_that_the_demand_needs_is_left_alone() -> None:
    assert make_policy("steelyard", context()).react(snapshot(queue=0, per_window=6, starting=1.0)) is None


# Parts


def test_batches_are_used_only_as_far_as_they_gain_throughput() -> None:
    # ms by rows on one core: 18.4, 28.5 (70/s), 73.8 (54/s), 187: two rows are best, as on many convolutions
    table = tuple((b, 1.0, ms, ms * 1.2) for b, ms in [(1, 18.4), (2, 28.5), (4, 73.8), (8, 187.0)])
    service = context().services["ocr"]
    sizing = StageSizing(service, service.stages[0], DeclaredTimes(DeclaredLatency(table=table)))
    assert sizing.rows_max(1.0) == 2
    assert sizing.rate_rps(1.0) == pytest.approx(2 / 0.0285)


def test_a_batch_may_take_a_part_of_the_slo_at_most() -> None:
    # 10 b + 6 b + 4 ms at one core: 4 rows take 68 ms, more than 0.4 x 159 = 63.6; 3 rows 52 (tail 58)
    service = context().services["ocr"]
    sizing = StageSizing(service, service.stages[0], CoefficientTimes(10.0, 6.0, 0.0, 4.0, spread=0.05))
    assert sizing.rows_max(1.0) == 3


def test_a_replica_without_cores_carries_nothing() -> None:
    table = ((1, 1.0, 20.0, 22.0), (8, 1.0, 80.0, 90.0))
    service = context().services["ocr"]
    sizing = StageSizing(service, service.stages[0], DeclaredTimes(DeclaredLatency(table=table)))
    assert sizing.rate_rps(0.0) == 0.0


def test_more_cores_and_less_demand_never_lose_more() -> None:
    service = context(cores_max=8).services["ocr"]
    sizing = StageSizing(service, service.stages[0], CoefficientTimes(10.0, 6.0, 0.0, 4.0))
    for cores in (1.0, 2.0, 4.0):
        choice = StageChoice(2, cores, sizing.rows_max(cores))
        latencies = [sizing.latency_s(choice, rate, 1.0) for rate in range(0, 400, 10)]
        losses = [sizing.loss_ratio(choice, rate, 1.0, 0.159) for rate in range(0, 400, 10)]
        assert latencies == sorted(latencies)
        assert losses == sorted(losses)


def test_the_ratio_is_busy_time_over_what_the_profile_says() -> None:
    service = context().services["ocr"]
    sizing = StageSizing(service, service.stages[0], CoefficientTimes(10.0, 6.0, 0.0, 4.0))
    view = snapshot(queue=0, per_window=1).services[0]
    assert observed_ratio(view, sizing, 10) == 1.0  # nothing ran: what the data plane reports
    busy = (BusyCell("read", "m", 1, 1.0, 20, 0.6),)  # 20 batches of 20 ms are 0.4 s by the profile
    last = view.windows[-1]
    seen = ServiceView(
        "ocr",
        (
            *view.windows[:-1],
            ServiceWindow("ocr", last.from_s, last.to_s, 1, 1, 0, 0, 0, 0, 0, 0, last.stages, busy),
        ),
        (),
        None,
        (),
    )
    assert observed_ratio(seen, sizing, 10) == pytest.approx(1.5)


def test_demand_takes_in_the_noise_of_counting_and_a_surge_early() -> None:
    steady = snapshot(queue=0, per_window=2).services[0]  # 20/s for 4 s: sqrt(20 / 4) = 2.24
    assert recent_demand_rps(steady, now_s=4.0) == pytest.approx(20 + 5**0.5)
    jump = tuple(
        ServiceWindow(
            "ocr", w.from_s, w.to_s, 0, 10 if w.from_s >= 3.0 - 1e-9 else 2, 0, 0, 0, 0, 0, 0, w.stages
        )
        for w in steady.windows
    )
    # 3 s at 20 and 1 s at 100: the mean of 40 says 43; the last second less 1.5 deviations 100 - 15 = 85
    surged = ServiceView("ocr", jump, (20, 20, 20), None, ())
    assert recent_demand_rps(surged, now_s=4.0) == pytest.approx(85.0)
    assert arrival_demand_rps(surged, now_s=4.0) == pytest.approx(85.0)


def test_patience_waits_until_the_saving_has_paid_for_the_way_back() -> None:
    patience = Patience()
    told = [patience.may_save("a", cores=1.0, replicas=0, cold_start_s=6.0, now_s=float(t)) for t in range(5)]
    assert told == [False, False, False, True, True]  # HOLD_S = 3 core-seconds for one core
    assert HOLD_S == 3.0
    # A replica of 6 s cold start costs 24 core-seconds more.
    patience.forget("a")
    days = [
        patience.may_save("a", cores=1.0, replicas=1, cold_start_s=6.0, now_s=float(t)) for t in range(30)
    ]
    assert days.index(True) == 27


def test_a_saving_that_was_taken_back_makes_the_next_one_dearer() -> None:
    patience = Patience()
    patience.saved("a", cores=1.0, now_s=0.0)
    patience.look("a", cores=2.0, now_s=2.0)
    told = [patience.may_save("a", cores=1.0, replicas=0, cold_start_s=0.0, now_s=float(t)) for t in range(6)]
    assert told.index(True) == 5  # 1.5 x 3 core-seconds, at whole seconds


def test_a_replica_that_the_latency_needs_is_not_given_up_while_it_starts() -> None:
    # One core runs a row in 20 ms and carries 50 a second. At 15 a second nearly all within 49 ms takes two
    # replicas, though one carries the rate; either takes longer than a window to start.
    variant = Variant("m", cores_max=1, cold_start_s=0.3)
    services = {"ocr": Service("ocr", 0.05, (Stage("read", (variant,)),))}
    made = PolicyContext(services, {("ocr", "read"): CoefficientTimes(0.0, 20.0, 0.0, 0.0)})
    run = loop(made, {"ocr": poisson([(20, 15.0)], seed=1)}, cores=4).run(20.0)
    assert run.count(StartReplica) == 2
    assert run.count(StopReplica) == 0
    assert run.violation_ratio("ocr", from_s=2.0) <= 0.005


def test_cancelled_starts_are_stopped_and_never_served_from() -> None:
    made = context(cores_max=1, cold_start_s=5.0)
    arrivals = {"ocr": poisson([(10, 20.0), (0.6, 400.0), (10, 5.0)], seed=3)}
    run = loop(made, arrivals, cores=8).run(20.0)
    assert run.count(StopReplica) >= 1
    assert run.count(StartReplica) >= 2
