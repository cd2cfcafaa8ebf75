"""Devices: counted by kind, held whole by one replica from its start until it is gone."""

import pytest

from steelyard.control.desired import devices_wanted
from steelyard.control.ledger import Ledger
from steelyard.control.machine import ControlMachine
from steelyard.control.validate import plan_objection
from steelyard.core.commands import Command, DrainReplica, RecordDecision, StartReplica
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    Solved,
    WindowReported,
    Woken,
)
from steelyard.core.plan import (
    Decision,
    Grants,
    GrantStart,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceWindow
from steelyard.core.types import Service, Stage, Variant

NODE, CORES = "n", 8
DEVICES = {"gpu": 2}
STAGE = Stage("s", (Variant("on-cpu"), Variant("on-gpu", device="gpu"), Variant("other", device="gpu")))
SERVICES = {name: Service(name, 0.1, (STAGE,)) for name in ("a", "b")}


def ledger() -> Ledger:
    made = Ledger()
    made.join(NODE, range(CORES), fractional=False, devices=DEVICES)
    return made


def replica(variant: str = "on-gpu", device: str = "gpu", cores: float = 1.0) -> ReplicaPlan:
    return ReplicaPlan(cores, (variant,), NODE, device)


def plan_of(service: str, *replicas: ReplicaPlan) -> ServicePlan:
    variant = replicas[0].variants[0] if replicas else "on-cpu"
    return ServicePlan(service, {"s": StagePlan(replicas, (VariantShare(variant, 1.0),))})


def test_a_device_is_held_until_its_replica_is_gone() -> None:
    made = ledger()
    assert made.allocate(1, NODE, 1.0, device="gpu") is not None
    assert made.allocate(2, NODE, 1.0, device="gpu") is not None
    assert made.allocate(3, NODE, 1.0, device="gpu") is None  # both are held; nothing was charged
    assert made.free(NODE) == 6.0
    assert made.allocate(3, NODE, 1.0) is not None  # cores there are
    made.hold(1, ())  # parked: the device stays with it
    assert made.allocate(4, NODE, 1.0, device="gpu") is None
    made.release(1)
    assert made.allocate(4, NODE, 1.0, device="gpu") is not None
    assert made.allocate(5, NODE, 1.0, device="tpu") is None
    made.check()


def test_a_copy_is_independent() -> None:
    made = ledger()
    made.allocate(1, NODE, 1.0, device="gpu")
    twin = made.copy()
    assert twin.devices(NODE) == DEVICES
    twin.allocate(2, NODE, 1.0, device="gpu")
    assert made.allocate(2, NODE, 1.0, device="gpu") is not None


def test_devices_that_are_held_cannot_be_withdrawn() -> None:
    made = ledger()
    made.allocate(1, NODE, 1.0, device="gpu")
    made.join(NODE, range(CORES), fractional=False, devices={"gpu": 1})
    with pytest.raises(AssertionError, match="1 devices gpu of n are held"):
        made.join(NODE, range(CORES), fractional=False)


def objection(*plans: ServicePlan) -> str | None:
    return plan_objection({plan.service: plan for plan in plans}, {}, SERVICES, ledger())


def test_plans_fit_the_devices_of_their_nodes_together() -> None:
    assert objection(plan_of("a", replica(), replica("other"))) is None
    assert objection(plan_of("a", replica(), replica()), plan_of("b", replica())) == (
        "3 devices gpu wanted on node n, which has 2"
    )
    assert devices_wanted([plan_of("a", replica(), replica("on-cpu", "cpu"))]) == {(NODE, "gpu"): 1}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (replica("on-gpu", "cpu"), "a.s: variant on-gpu is for device gpu, the replica has cpu"),
        (replica("on-cpu", "gpu"), "a.s: variant on-cpu is for device cpu, the replica has gpu"),
    ],
)
def test_a_replica_is_on_the_device_of_its_variants(wanted: ReplicaPlan, said: str) -> None:
    assert objection(plan_of("a", wanted)) == said


class Granting:
    """A policy that grants what the test puts there."""

    name = "granting"
    solve_s = 0.0
    reacts = True
    grants: Grants | None = None

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        assert snapshot.nodes[0].devices == DEVICES
        return self.grants

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("only Solved decides")


class Rig:
    """One node of 8 cores and 2 devices, under a control machine."""

    def __init__(self) -> None:
        self.policy = Granting()
        self.machine = ControlMachine(SERVICES, self.policy)
        self.solve_id = 1
        self.tell(NodeJoined(NODE, tuple(range(CORES)), devices=DEVICES), 0.0)

    def tell(self, event: ControlEvent, now_s: float) -> list[Command]:
        commands = self.machine.handle(event, now_s=now_s)
        self.machine.validate()
        return commands

    def plan(self, now_s: float, *plans: ServicePlan) -> list[Command]:
        plan = Plan({one.service: one for one in plans})
        commands = self.tell(Solved(self.solve_id, Decision(plan, now_s + 1.0, "drawn"), 0.0), now_s)
        self.solve_id += 1
        return [*commands, *self.tell(Woken(), now_s + 1.0)]

    def ready(self, commands: list[Command], now_s: float) -> list[Command]:
        later: list[Command] = []
        for start in starts(commands):
            event = ReplicaReady(start.replica_id, "s", NODE, 1.0, start.variants, start.service, 1.0)
            later += self.tell(event, now_s)
        return later


def starts(commands: list[Command]) -> list[StartReplica]:
    return [command for command in commands if isinstance(command, StartReplica)]


def test_a_device_goes_to_another_service_when_its_replica_is_gone() -> None:
    rig = Rig()
    commands = rig.plan(0.0, plan_of("a", replica(), replica()), plan_of("b", replica("on-cpu", "cpu")))
    assert [start.service for start in starts(commands)] == ["a", "a", "b"]
    rig.ready(commands, 0.5)
    commands = rig.plan(1.0, plan_of("a", replica()), plan_of("b", replica()))
    drained = [command.replica_id for command in commands if isinstance(command, DrainReplica)]
    assert not starts(commands)  # there is no device yet
    assert len(drained) == 1  # of `a`; the replica of `b` on the cpu serves until its other is up
    commands = rig.tell(ReplicaGone(drained[0], expected=True), 2.5)
    assert [(start.service, start.variants) for start in starts(commands)] == [("b", ("on-gpu",))]


def test_a_grant_has_no_device_that_is_wanted_already() -> None:
    rig = Rig()
    rig.ready(rig.plan(0.0, plan_of("a", replica()), plan_of("b", replica("on-cpu", "cpu"))), 0.5)
    rig.policy.grants = Grants((GrantStart("a", "s", replica()), GrantStart("b", "s", replica())), "burst")
    commands: list[Command] = []
    for service in SERVICES:
        window = ServiceWindow(service, 1.0, 1.1, 0, 0, 0, 0, 0, 0, 0, 0, ())
        commands += rig.tell(WindowReported(window), 1.1)
    assert [start.service for start in starts(commands)] == ["a"]
    (record,) = [command for command in commands if isinstance(command, RecordDecision)]
    assert record.reason == "burst; dropped: 3 devices gpu wanted on node n, which has 2"
