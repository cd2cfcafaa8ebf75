from collections.abc import Iterable
from typing import TypeVar

import pytest

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import (
    Command,
    DrainReplica,
    OfferCapacity,
    Publish,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
    WakeAt,
)
from steelyard.core.events import (
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
    Solved,
    SolveFailed,
    WindowReported,
    Woken,
)
from steelyard.core.plan import (
    Decision,
    Grant,
    GrantCancel,
    GrantCores,
    Grants,
    GrantStart,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, CoreShare, ServiceWindow, StageWindow
from steelyard.core.types import Service, Stage, Variant

C = TypeVar("C")


class Scripted:
    """A policy that grants what the test has put into `grants`."""

    name = "scripted"
    solve_s = 0.0
    reacts = True

    def __init__(self) -> None:
        self.grants: list[Grant] = []
        self.seen: list[ClusterSnapshot] = []

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        self.seen.append(snapshot)
        grants, self.grants = tuple(self.grants), []
        return Grants(grants, "as the test says") if grants else None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("the machine never decides by itself")


def service(name: str = "ocr", **fields: object) -> Service:
    variant = Variant("small", batch_rows_max=4, cores_max=4, cold_start_s=1.0)
    return Service(name, 0.1, (Stage("read", (variant,)),), **fields)  # type: ignore[arg-type]


def plan(name: str, cores: Iterable[float], batch: int = 1) -> ServicePlan:
    replicas = tuple(ReplicaPlan(c, ("small",)) for c in cores)
    return ServicePlan(name, {"read": StagePlan(replicas, (VariantShare("small", 1.0),), batch)})


def decision(*plans: ServicePlan, next_at_s: float = 1000.0) -> Decision:
    return Decision(Plan({p.service: p for p in plans}), next_at_s, "because")


def window(name: str, to_s: float, rows: int = 0) -> WindowReported:
    return WindowReported(
        ServiceWindow(
            name, to_s - 0.1, to_s, rows, rows, 0, 0, 0, 0, 0, 0, (StageWindow("read", 0, 0, None, 0),)
        )
    )


def of(kind: type[C], commands: Iterable[object]) -> list[C]:
    return [c for c in commands if isinstance(c, kind)]


class Rig:
    """A machine on one node, and what a backend would answer."""

    def __init__(
        self,
        *services: Service,
        cores: int = 2,
        fractional: bool = False,
        solve_s_max: float = 10.0,
    ) -> None:
        self.policy = Scripted()
        self.machine = ControlMachine(
            {s.name: s for s in services or (service(),)}, self.policy, solve_s_max=solve_s_max
        )
        self.first = self.machine.handle(NodeJoined("local", tuple(range(cores)), fractional), now_s=0.0)

    def solved(
        self, *plans: ServicePlan, now_s: float, solve_id: int = 1, next_at_s: float = 1000.0
    ) -> list[Command]:
        return self.do(Solved(solve_id, decision(*plans, next_at_s=next_at_s), 0.0), now_s)

    def do(self, event: object, now_s: float) -> list[Command]:
        commands = self.machine.handle(event, now_s=now_s)  # type: ignore[arg-type]
        self.machine.validate()
        return commands

    def ready(self, replica_id: int, now_s: float) -> list[Command]:
        r = self.machine.replicas[replica_id]
        return self.do(
            ReplicaReady(replica_id, r.stage, r.node, r.cores_requested, r.variants, r.service, 1.0), now_s
        )

    def confirm(self, commands: Iterable[Command], now_s: float) -> list[Command]:
        """Confirm each resize at once, as a local backend does; what followed."""
        result: list[Command] = []
        for resize in of(ResizeReplica, commands):
            cores = sum(share.fraction for share in resize.shares)
            result += self.do(ReplicaResized(resize.replica_id, cores), now_s)
        return result

    def cores(self) -> dict[int, float]:
        return {r.replica_id: r.cores_requested for r in self.machine.replicas.values()}


def running(rig: Rig, *cores: float, batch: int = 1) -> None:
    """Bring one service to ready replicas of these cores."""
    starts = of(StartReplica, rig.solved(plan("ocr", cores, batch), now_s=0.0))
    for start in starts:
        rig.ready(start.replica_id, 0.5)


def test_a_joining_node_asks_the_policy_with_empty_windows() -> None:
    rig = Rig()
    (solve,) = of(Solve, rig.first)
    assert solve.snapshot.services[0].windows == ()
    assert solve.snapshot.nodes[0].cores_free == 2.0
    assert of(WakeAt, rig.first) == [WakeAt(10.0)]  # the open solve is given up after 10 s


def test_the_first_plan_is_published_and_started_on_whole_cores() -> None:
    rig = Rig()
    commands = rig.solved(plan("ocr", [1.0, 1.0]), now_s=0.2)
    assert [c.shares for c in of(StartReplica, commands)] == [(CoreShare(0, 1.0),), (CoreShare(1, 1.0),)]
    assert [c.expected_ready_s for c in of(StartReplica, commands)] == [1.2, 1.2]  # now + profiled cold start
    (publish,) = of(Publish, commands)
    assert commands.index(publish) < commands.index(of(StartReplica, commands)[0])
    (record,) = of(RecordDecision, commands)
    assert (record.kind, record.policy, record.reason) == ("decide", "scripted", "because")


def test_an_unchanged_plan_is_recorded_once() -> None:
    rig = Rig()
    rig.solved(plan("ocr", [1.0]), now_s=0.0, next_at_s=1.0)
    records = []
    for solve_id in (2, 3, 4):
        rig.do(Woken(), solve_id - 1.0)
        records += of(
            RecordDecision,
            rig.solved(
                plan("ocr", [1.0]), now_s=solve_id - 1.0, solve_id=solve_id, next_at_s=float(solve_id)
            ),
        )
    assert len(records) == 1


def test_growth_in_place_is_one_resize() -> None:
    rig = Rig()
    running(rig, 1.0)
    commands = rig.do(window("ocr", 0.6), 0.6)
    assert not of(ResizeReplica, commands)
    rig.policy.grants = [GrantCores(1, 2.0)]
    commands = rig.do(window("ocr", 0.7), 0.7)
    assert of(ResizeReplica, commands) == [ResizeReplica(1, (CoreShare(0, 1.0), CoreShare(1, 1.0)), "react")]
    assert of(OfferCapacity, commands) == [OfferCapacity("ocr", 0.0)]
    assert of(RecordDecision, commands)[0].kind == "react"


def test_a_window_is_complete_when_every_service_has_reported() -> None:
    rig = Rig(service("a"), service("b"))
    rig.solved(plan("a", [1.0]), plan("b", [1.0]), now_s=0.0)
    rig.do(window("a", 0.1), 0.1)
    assert len(rig.policy.seen) == 0
    rig.do(window("b", 0.1), 0.1)
    assert len(rig.policy.seen) == 1
    rig.do(window("a", 0.2), 0.2)
    rig.do(window("a", 0.3), 0.3)  # b is silent: the window of 0.2 closes without it
    assert len(rig.policy.seen) == 2


def test_scaling_out_starts_overlapped_and_shrinks_the_old_only_when_the_new_is_ready() -> None:
    rig = Rig()
    running(rig, 2.0)
    rig.policy.grants = [GrantCores(1, 1.0), GrantStart("ocr", "read", ReplicaPlan(1.0, ("small",)))]
    commands = rig.do(window("ocr", 0.6), 0.6)
    assert not of(ResizeReplica, commands)  # it carries the load over the cold start
    (start,) = of(StartReplica, commands)
    assert start.shares == (CoreShare(1, 1.0),)  # overlaps the core that replica 1 is to give up
    commands = rig.ready(2, 1.6)
    assert of(ResizeReplica, commands) == [ResizeReplica(1, (CoreShare(0, 1.0),), "react")]
    rig.confirm(commands, 1.6)
    assert rig.machine.snapshot().nodes[0].cores_free == 0.0


def test_a_start_that_needs_more_than_one_core_releases_what_was_held_back() -> None:
    rig = Rig(cores=4)
    running(rig, 4.0)
    rig.policy.grants = [GrantCores(1, 2.0), GrantStart("ocr", "read", ReplicaPlan(2.0, ("small",)))]
    commands = rig.do(window("ocr", 0.6), 0.6)
    (resize,) = of(ResizeReplica, commands)
    assert resize.shares == (CoreShare(0, 1.0), CoreShare(1, 1.0))
    (start,) = of(StartReplica, rig.confirm(commands, 0.6))  # 2 cores are free once the shrink is confirmed
    assert start.shares == (CoreShare(2, 1.0), CoreShare(3, 1.0))


def test_scaling_in_drains_the_youngest_and_frees_at_its_end() -> None:
    rig = Rig()
    running(rig, 1.0, 1.0)
    rig.do(Woken(), 1000.0)
    commands = rig.solved(plan("ocr", [1.0]), now_s=1000.0, solve_id=2, next_at_s=2000.0)
    assert of(DrainReplica, commands) == [DrainReplica(2, "ocr", "decision 2")]
    assert rig.machine.snapshot().nodes[0].cores_free == 0.0
    rig.do(ReplicaGone(2, expected=True), 1000.1)
    assert rig.machine.snapshot().nodes[0].cores_free == 1.0


def test_a_start_that_is_not_wanted_any_more_is_stopped() -> None:
    rig = Rig()
    running(rig, 1.0)
    rig.policy.grants = [GrantStart("ocr", "read", ReplicaPlan(1.0, ("small",)))]
    rig.do(window("ocr", 0.6), 0.6)
    rig.policy.grants = [GrantCancel(2)]
    commands = rig.do(window("ocr", 0.7), 0.7)
    assert of(StopReplica, commands) == [StopReplica(2)]
    assert not of(StartReplica, rig.ready(2, 0.75))  # its ReplicaReady crossed the command: ignored
    rig.do(ReplicaGone(2, expected=True), 0.8)
    assert list(rig.machine.replicas) == [1]


def test_a_lost_replica_is_replaced_at_once() -> None:
    rig = Rig()
    running(rig, 1.0)
    commands = rig.do(ReplicaGone(1, expected=False, reason="killed by signal 9"), 2.0)
    assert [s.replica_id for s in of(StartReplica, commands)] == [2]
    assert "killed by signal 9" in of(RecordDecision, commands)[0].reason


def test_a_start_that_fails_is_tried_again_after_a_growing_delay() -> None:
    rig = Rig()
    rig.solved(plan("ocr", [1.0]), now_s=0.0, next_at_s=5000.0)
    now_s, delays = 0.0, []
    for attempt in range(1, 9):
        commands = rig.do(ReplicaGone(attempt, expected=False, reason="no such file"), now_s)
        assert not of(StartReplica, commands)
        (wake,) = of(WakeAt, commands)
        delays.append(wake.at_s - now_s)
        now_s = wake.at_s
        assert len(of(StartReplica, rig.do(Woken(), now_s))) == 1
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_refused_growth_gives_the_cores_back_and_is_asked_again_later() -> None:
    rig = Rig()
    running(rig, 1.0)
    rig.policy.grants = [GrantCores(1, 2.0)]
    rig.do(window("ocr", 0.6), 0.6)
    commands = rig.do(ResizeRefused(1, (CoreShare(0, 1.0),), "read-only file system"), 0.6)
    assert not of(ResizeReplica, commands)
    assert rig.cores() == {1: 1.0}
    assert of(WakeAt, commands) == [WakeAt(1.1)]  # 0.6 + 0.5
    assert len(of(ResizeReplica, rig.do(Woken(), 1.1))) == 1


def test_a_growth_that_is_refused_for_hours_is_asked_again_all_the_same() -> None:
    rig = Rig()
    running(rig, 1.0)
    rig.policy.grants = [GrantCores(1, 2.0)]
    rig.do(window("ocr", 0.6), 0.6)
    now_s = 0.6
    for _ in range(1100):  # a float holds no 2^1024
        rig.do(ResizeRefused(1, (CoreShare(0, 1.0),), "invalid argument"), now_s)
        now_s += 20.0  # longer than it waits at most
        assert len(of(ResizeReplica, rig.do(Woken(), now_s))) == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (plan("ocr", [3.0]), "3 cores wanted on node local, which has 2"),
        (plan("ocr", [0.5]), "does not enforce parts of a core"),
        (plan("ocr", [float("nan")]), "a replica of nan cores"),
        (plan("elsewhere", [1.0]), "unknown service elsewhere"),
        (ServicePlan("ocr", {}), "the service has ['read']"),
        (
            ServicePlan(
                "ocr", {"read": StagePlan((ReplicaPlan(1.0, ("big",)),), (VariantShare("big", 1.0),))}
            ),
            "unknown variant big",
        ),
    ],
)
def test_a_plan_that_the_cluster_cannot_take_is_discarded(bad: ServicePlan, words: str) -> None:
    rig = Rig()
    commands = rig.solved(bad, now_s=0.0)
    (record,) = of(RecordDecision, commands)
    assert record.kind == "discarded"
    assert words in record.reason
    assert not of(StartReplica, commands)


def test_a_service_keeps_to_its_own_limit() -> None:
    rig = Rig(service(cores_max=1.0))
    (record,) = of(RecordDecision, rig.solved(plan("ocr", [2.0]), now_s=0.0))
    assert record.reason == "ocr wants 2 cores, its limit is 1"


def test_a_plan_older_than_a_grant_may_not_take_it_back() -> None:
    rig = Rig()
    running(rig, 1.0)
    rig.do(Woken(), 1000.0)  # solve 2 is asked for at 1000.0
    rig.policy.grants = [GrantCores(1, 2.0)]
    rig.confirm(rig.do(window("ocr", 1000.1), 1000.1), 1000.1)
    commands = rig.solved(plan("ocr", [1.0]), now_s=1000.2, solve_id=2)
    assert of(RecordDecision, commands)[0].reason == "older than the grant to ocr"
    assert len(of(Solve, commands)) == 1  # asked again at once, on what is true now
    assert rig.cores() == {1: 2.0}
    commands = rig.solved(plan("ocr", [1.0]), now_s=1000.3, solve_id=3)
    assert len(of(ResizeReplica, commands)) == 1


def test_one_solve_at_a_time_and_given_up_after_its_limit() -> None:
    rig = Rig(solve_s_max=2.0)
    assert not of(Solve, rig.do(window("ocr", 1.9), 1.9))
    commands = rig.do(Woken(), 2.0)
    assert of(RecordDecision, commands)[0].reason == "no answer within 2 s"
    assert [s.solve_id for s in of(Solve, commands)] == [2]
    late = rig.solved(plan("ocr", [1.0]), now_s=2.1, solve_id=1)
    assert of(RecordDecision, late)[0].reason == "answered after it was given up"
    assert not of(StartReplica, late)


def test_a_policy_that_fails_is_asked_again() -> None:
    rig = Rig()
    commands = rig.do(SolveFailed(1, "ZeroDivisionError"), 0.1)
    assert "ZeroDivisionError" in of(RecordDecision, commands)[0].reason
    assert of(WakeAt, commands) == [WakeAt(1.1)]
    assert len(of(Solve, rig.do(Woken(), 1.1))) == 1


def test_grants_that_do_not_fit_are_dropped_with_the_reason() -> None:
    rig = Rig()
    running(rig, 1.0)
    rig.policy.grants = [GrantCores(1, 3.0), GrantCores(7, 1.0), GrantCores(1, 2.0)]
    commands = rig.do(window("ocr", 0.6), 0.6)
    (record,) = of(RecordDecision, commands)
    assert record.kind == "react"
    assert "dropped: 3 cores wanted on node local" in record.reason
    assert "dropped: replica 7 is gone" in record.reason
    assert rig.cores() == {1: 2.0}


def test_a_grant_may_take_from_one_service_and_give_to_another() -> None:
    rig = Rig(service("a", cores_min=0.25), service("b", cores_min=0.25), fractional=True)
    for start in of(StartReplica, rig.solved(plan("a", [1.5]), plan("b", [0.5]), now_s=0.0)):
        rig.ready(start.replica_id, 0.5)
    rig.policy.grants = [GrantCores(1, 0.5), GrantCores(2, 1.5)]
    rig.do(window("a", 0.6), 0.6)
    commands = rig.do(window("b", 0.6), 0.6)
    # The shrink first; the growth only once the shrink is confirmed: no core is ever promised twice.
    assert [(r.replica_id, sum(s.fraction for s in r.shares)) for r in of(ResizeReplica, commands)] == [
        (1, 0.5)
    ]
    commands = rig.confirm(commands, 0.6)
    assert [(r.replica_id, sum(s.fraction for s in r.shares)) for r in of(ResizeReplica, commands)] == [
        (2, 1.5)
    ]


def test_rules_are_published_at_once_unless_old_replicas_carry_the_load() -> None:
    rig = Rig()
    running(rig, 2.0, batch=4)
    rig.do(Woken(), 1000.0)
    commands = rig.solved(plan("ocr", [1.0, 1.0], batch=1), now_s=1000.0, solve_id=2, next_at_s=2000.0)
    assert not of(Publish, commands)
    commands = rig.ready(2, 1001.0)
    assert [p.plan.stages["read"].batch_rows_max for p in of(Publish, commands)] == [1]


def test_free_cores_are_offered_within_the_service_limit() -> None:
    rig = Rig(service(cores_max=2.0), cores=4)
    commands = rig.solved(plan("ocr", [1.0]), now_s=0.0)
    assert of(OfferCapacity, commands) == [OfferCapacity("ocr", 1.0)]  # 3 are free, its limit leaves 1


def test_a_policy_that_never_reacts_offers_nothing() -> None:
    policy = Scripted()
    policy.reacts = False
    machine = ControlMachine({"ocr": service()}, policy)
    assert not of(OfferCapacity, machine.handle(NodeJoined("local", (0, 1)), now_s=0.0))
    assert not of(OfferCapacity, machine.handle(Solved(1, decision(plan("ocr", [1.0])), 0.0), now_s=0.0))


def test_seconds_are_counted_from_windows_and_gaps_are_zero() -> None:
    rig = Rig()
    for to_s, rows in [(0.1, 3), (0.9, 4), (1.1, 5), (3.2, 1)]:
        rig.do(window("ocr", to_s, rows), to_s)
    # second 0: 3 + 4; second 1: 5; second 2: none; second 3 has not passed
    assert rig.machine.snapshot().services[0].arrival_rows_by_second == (7, 5, 0)


def test_a_grant_of_the_very_instant_outlives_the_plan_asked_for_before_it() -> None:
    """On a virtual clock a window may close at the instant of a `Solve`: what counts is which came first."""
    rig = Rig()
    running(rig, 1.0)
    assert of(Solve, rig.do(Woken(), 1000.0))
    rig.policy.grants = [GrantCores(1, 2.0)]
    rig.confirm(rig.do(window("ocr", 1000.0), 1000.0), 1000.0)
    commands = rig.solved(plan("ocr", [1.0]), now_s=1000.1, solve_id=2)
    assert of(RecordDecision, commands)[0].reason == "older than the grant to ocr"
    assert rig.cores() == {1: 2.0}


def test_a_reaction_that_fails_is_recorded_once_and_the_next_window_is_sensed() -> None:
    rig = Rig()
    running(rig, 1.0)

    def broken(snapshot: ClusterSnapshot) -> Grants | None:
        raise ZeroDivisionError("rate of nothing")

    works, rig.policy.react = rig.policy.react, broken  # type: ignore[method-assign]
    (record,) = of(RecordDecision, rig.do(window("ocr", 0.6), 0.6))
    assert (record.kind, record.reason) == ("discarded", "react failed: ZeroDivisionError: rate of nothing")
    assert not of(RecordDecision, rig.do(window("ocr", 0.7), 0.7))
    rig.policy.react = works  # type: ignore[method-assign]
    rig.policy.grants = [GrantCores(1, 2.0)]
    assert of(ResizeReplica, rig.do(window("ocr", 0.8), 0.8))


def test_a_next_time_that_is_no_number_does_not_solve_without_end() -> None:
    rig = Rig()
    commands = rig.solved(plan("ocr", [1.0]), now_s=0.0, next_at_s=float("nan"))
    assert not of(Solve, commands)
    assert of(WakeAt, commands) == [WakeAt(0.1)]  # a window later


def test_a_picture_shows_what_has_changed_and_keeps_the_rest() -> None:
    rig = Rig(cores=3)
    running(rig, 1.0, 1.0, 1.0)
    before = rig.machine.snapshot().services[0].replicas
    assert rig.machine.snapshot().services[0].replicas is before
    rig.policy.grants = [GrantCores(3, 0.0)]
    rig.confirm(rig.do(window("ocr", 0.7), 0.7), 0.7)
    after = rig.machine.snapshot().services[0].replicas
    assert [(r.replica_id, r.state) for r in after] == [(1, "ready"), (2, "ready"), (3, "parked")]
    assert after[:2] == before[:2]
    assert after[0] is before[0]
    rig.do(ReplicaGone(1, expected=False, reason="killed"), 0.8)  # 4 takes its place
    assert [r.replica_id for r in rig.machine.snapshot().services[0].replicas] == [2, 3, 4]


def test_a_replica_that_parks_sets_off_what_waited_for_its_core_and_nothing_else() -> None:
    rig = Rig()
    running(rig, 1.0, 1.0)
    rig.policy.grants = [GrantCores(2, 0.0), GrantCores(1, 2.0)]
    (shrink,) = of(ResizeReplica, rig.do(window("ocr", 0.7), 0.7))
    assert shrink == ResizeReplica(2, (), "react")  # its core is free when that is confirmed
    (growth,) = of(ResizeReplica, rig.confirm([shrink], 0.7))
    assert growth.replica_id == 1
    assert rig.confirm([growth], 0.7) == []  # everything has been asked for: at rest
    rig.policy.grants = [GrantCores(1, 1.0)]
    rig.confirm(rig.do(window("ocr", 0.8), 0.8), 0.8)
    rig.policy.grants = [GrantCores(2, 1.0)]
    assert rig.confirm(rig.do(window("ocr", 0.9), 0.9), 0.9) == []
    assert [(r.state, r.cores) for r in rig.machine.replicas.values()] == [("ready", 1.0), ("ready", 1.0)]
