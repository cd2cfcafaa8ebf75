"""Several nodes: a replica is of one node for good, and cores never leave theirs."""

from collections.abc import Iterable
from typing import TypeVar

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import (
    Command,
    DrainReplica,
    OfferCapacity,
    RecordDecision,
    ResizeReplica,
    StartReplica,
)
from steelyard.core.events import ControlEvent, NodeJoined, ReplicaReady, ReplicaResized, Solved, Woken
from steelyard.core.plan import (
    Decision,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, CoreShare
from steelyard.core.types import Service, Stage, Variant

C = TypeVar("C")


class Silent:
    """A policy that could react and never does."""

    name = "silent"
    solve_s = 0.0
    reacts = True

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("only Solve decides")


class Rig:
    """Services `a` and `b` of one stage each, on nodes `x` of 4 whole cores and `y` of 2 in parts."""

    def __init__(self) -> None:
        stage = Stage("s", (Variant("v", cores_max=4, cold_start_s=1.0),))
        services = {name: Service(name, 0.1, (stage,)) for name in ("a", "b")}
        self.machine = ControlMachine(services, Silent())
        self.solve_id = 1
        self.tell(NodeJoined("x", (0, 1, 2, 3)), 0.0)
        self.tell(NodeJoined("y", (0, 1), fractional=True), 0.0)

    def tell(self, event: ControlEvent, now_s: float) -> list[Command]:
        commands = self.machine.handle(event, now_s=now_s)
        self.machine.validate()
        return commands

    def plan(self, now_s: float, **wanted: list[tuple[float, str]]) -> list[Command]:
        """Cores and node of each replica, by service."""
        plans = {}
        for name, replicas in wanted.items():
            plan = StagePlan(
                tuple(ReplicaPlan(cores, ("v",), node) for cores, node in replicas), (VariantShare("v", 1.0),)
            )
            plans[name] = ServicePlan(name, {"s": plan})
        commands = self.tell(Solved(self.solve_id, Decision(Plan(plans), now_s + 1.0, "drawn"), 0.0), now_s)
        self.tell(Woken(), now_s + 1.0)
        self.solve_id += 1
        return commands

    def ready(self, now_s: float) -> list[Command]:
        commands = []
        for r in self.machine.replicas.values():
            if r.state == "starting":
                event = ReplicaReady(r.replica_id, r.stage, r.node, r.cores, r.variants, r.service, 1.0)
                commands += self.tell(event, now_s)
        return commands


def of(kind: type[C], commands: Iterable[object]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


def test_equal_core_ids_of_two_nodes_are_two_cores() -> None:
    rig = Rig()
    starts = of(StartReplica, rig.plan(0.0, a=[(2.0, "x")], b=[(2.0, "y")]))
    assert [(s.node, s.shares) for s in starts] == [
        ("x", (CoreShare(0, 1.0), CoreShare(1, 1.0))),
        ("y", (CoreShare(0, 1.0), CoreShare(1, 1.0))),
    ]
    assert [n.cores_free for n in rig.machine.snapshot().nodes] == [2.0, 0.0]


def test_what_is_free_elsewhere_does_not_help() -> None:
    rig = Rig()
    (record,) = of(RecordDecision, rig.plan(0.0, a=[(1.0, "y")], b=[(1.5, "y")]))
    assert record.reason == "2.5 cores wanted on node y, which has 2"


def test_parts_of_a_core_only_where_the_node_enforces_them() -> None:
    rig = Rig()
    (start,) = of(StartReplica, rig.plan(0.0, a=[(0.5, "y")]))
    assert start.shares == (CoreShare(0, 0.5),)
    (record,) = of(RecordDecision, rig.plan(1.0, a=[(0.5, "x")]))
    assert "node x does not enforce parts of a core" in record.reason


def test_moving_to_another_node_is_a_start_and_then_a_drain() -> None:
    rig = Rig()
    rig.plan(0.0, a=[(1.0, "x")])
    rig.ready(1.0)
    commands = rig.plan(2.0, a=[(1.0, "y")])
    assert [s.node for s in of(StartReplica, commands)] == ["y"]
    assert not of(DrainReplica, commands)  # it carries the load over the cold start
    assert [d.replica_id for d in of(DrainReplica, rig.ready(3.0))] == [1]


def test_a_start_overlaps_nobody_on_another_node() -> None:
    # 4 of x are to become 2 of x and 2 of y, where b has both cores: b's drain must end first.
    rig = Rig()
    rig.plan(0.0, a=[(4.0, "x")], b=[(2.0, "y")])
    rig.ready(1.0)
    commands = rig.plan(2.0, a=[(2.0, "x"), (2.0, "y")], b=[])
    assert not of(StartReplica, commands)
    assert [d.replica_id for d in of(DrainReplica, commands)] == [2]
    assert not of(ResizeReplica, commands)  # what a gives up on x would not help it


def test_each_node_grows_by_its_own_cores() -> None:
    rig = Rig()
    rig.plan(0.0, a=[(1.0, "x"), (1.0, "y")])
    rig.ready(1.0)
    resizes = of(ResizeReplica, rig.plan(2.0, a=[(3.0, "x"), (1.5, "y")]))
    assert {r.replica_id: sum(s.fraction for s in r.shares) for r in resizes} == {1: 3.0, 2: 1.5}
    for resize in resizes:
        cores = sum(s.fraction for s in resize.shares)
        rig.tell(ReplicaResized(resize.replica_id, cores), 3.0)
    assert [n.cores_free for n in rig.machine.snapshot().nodes] == [1.0, 0.5]


def test_only_free_cores_of_its_own_nodes_are_offered_to_a_service() -> None:
    # Cores of another node can be had by a start alone, which takes longer than a window.
    rig = Rig()
    offers = of(OfferCapacity, rig.plan(0.0, a=[(1.0, "x")], b=[(0.5, "y"), (1.0, "x")]))
    assert offers == [OfferCapacity("a", 2.0), OfferCapacity("b", 3.5)]
