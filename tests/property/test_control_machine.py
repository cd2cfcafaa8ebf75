"""Whatever happens in whatever order, no core is promised twice and the cluster comes to rest as desired."""

from collections import Counter

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from steelyard.control.machine import SOLVE_S_MAX, ControlMachine
from steelyard.control.reconcile import LOADING_CORES
from steelyard.core.commands import (
    Command,
    DrainReplica,
    LoadVariant,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
    UnloadVariant,
    WakeAt,
)
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
    Solved,
    SolveFailed,
    VariantLoaded,
    VariantUnloaded,
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
from steelyard.core.snapshot import ClusterSnapshot, CoreShare, ServiceWindow
from steelyard.core.types import Service, Stage, Variant

pytestmark = pytest.mark.long

SERVICES = ("a", "b")
CORES = 3
"""Of the node `local`; `far`, where there is one, has two, and never parts of them."""
FAR_CORES = 2
MEMORY = 6
"""Of the node `local`, where it is known: x and y take 1 each."""


class Obedient:
    """Grants whatever the test has drawn."""

    name = "drawn"
    solve_s = 0.0
    reacts = True

    def __init__(self) -> None:
        self.grants: tuple[Grant, ...] = ()

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        grants, self.grants = self.grants, ()
        return Grants(grants, "drawn") if grants else None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("only Solve decides")


def service(name: str) -> Service:
    variants = (
        Variant("x", cores_max=CORES, cold_start_s=0.3, memory_bytes=1),
        Variant("y", cores_max=CORES, load_s=0.1, memory_bytes=1),
        Variant("z", cores_max=CORES, cold_start_s=0.1, load_s=0.2),  # sooner by a cold start
    )
    return Service(name, 0.1, (Stage("s", variants),))


def stage_plan(placed: list[tuple[float, str]], variants: tuple[str, ...]) -> StagePlan:
    replicas = tuple(ReplicaPlan(cores, variants, node) for cores, node in placed)
    return StagePlan(replicas, (VariantShare(variants[0], 1.0),))


class ControlMachineRules(RuleBasedStateMachine):
    """The backend and the services are played by the rules: they answer late, refuse and lose replicas."""

    @initialize(fractional=st.booleans(), far=st.booleans(), memory=st.sampled_from([0, 0, MEMORY]))
    def join(self, fractional: bool, far: bool, memory: int) -> None:
        self.fractional = fractional
        self.policy = Obedient()
        self.machine = ControlMachine({n: service(n) for n in SERVICES}, self.policy)
        self.now_s = 0.0
        self.open_solve: int | None = None
        self.asked_s = 0.0
        self.starting: set[int] = set()
        self.resizing: dict[int, tuple[CoreShare, ...]] = {}
        self.held: dict[int, tuple[CoreShare, ...]] = {}
        self.nodes = ["local", "far"] if far else ["local"]
        self.node_of: dict[int, str] = {}
        self.leaving: set[int] = set()
        self.loading: set[tuple[int, str]] = set()
        self.unloading: set[tuple[int, str]] = set()
        self.resident: dict[int, set[str]] = {}
        self.memory = memory
        self.wake_s: float | None = None
        self.tell(NodeJoined("local", tuple(range(CORES)), fractional, memory_bytes=memory))
        if far:
            self.tell(NodeJoined("far", tuple(range(FAR_CORES))))

    def tell(self, event: ControlEvent) -> list[Command]:
        commands = self.machine.handle(event, now_s=self.now_s)
        for command in commands:
            msgspec.json.encode(command)
            self.note(command)
        self.machine.validate()
        return commands

    def note(self, command: Command) -> None:
        match command:
            case Solve():
                given_up = self.now_s >= self.asked_s + SOLVE_S_MAX
                assert self.open_solve is None or given_up, "two solves at a time"
                self.open_solve, self.asked_s = command.solve_id, self.now_s
            case StartReplica():
                assert command.replica_id not in self.held, "an id was used twice"
                self.starting.add(command.replica_id)
                self.held[command.replica_id] = command.shares
                self.node_of[command.replica_id] = command.node
                self.resident[command.replica_id] = set(command.variants)
            case ResizeReplica():
                assert command.replica_id not in self.starting, "a starting replica was resized"
                assert command.replica_id not in self.resizing, "two resizes of one replica at a time"
                self.resizing[command.replica_id] = command.shares
            case LoadVariant(replica_id=replica_id, variant=variant):
                assert replica_id not in self.starting, "a starting replica was told to load"
                assert variant not in self.resident[replica_id], "resident already"
                assert (replica_id, variant) not in self.loading, "two loads of one variant at a time"
                self.loading.add((replica_id, variant))
            case UnloadVariant(replica_id=replica_id, variant=variant):
                assert variant in self.resident[replica_id], "not resident"
                assert (replica_id, variant) not in self.unloading, "unloaded twice"
                gone = {other for who, other in self.unloading if who == replica_id}
                assert self.resident[replica_id] - gone - {variant}, "nothing is left"
                self.unloading.add((replica_id, variant))
            case DrainReplica() | StopReplica():
                assert command.replica_id not in self.leaving, "given up twice"
                self.leaving.add(command.replica_id)
            case WakeAt():
                assert command.at_s > self.now_s, "a wish to be woken in the past"
                self.wake_s = command.at_s
            case RecordDecision():
                assert command.reason

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.4, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.wake_s is not None)
    @rule()
    def wake(self) -> None:
        assert self.wake_s is not None
        self.now_s = max(self.now_s, self.wake_s)
        self.wake_s = None
        self.tell(Woken())

    @rule(
        data=st.data(),
        variants=st.sampled_from([("x",)] * 4 + [("y",), ("x", "y"), ("y", "x"), ("z",)]),
        fits=st.sampled_from([True, True, True, True, False]),
        fails=st.sampled_from([False] * 9 + [True]),
    )
    def solve(self, data: st.DataObject, variants: tuple[str, ...], fits: bool, fails: bool) -> None:
        while self.open_solve is None:
            self.now_s += 0.5
            self.tell(Woken())
        solve_id, self.open_solve = self.open_solve, None
        if fails:
            self.tell(SolveFailed(solve_id, "drawn"))
            return
        sizes = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0] if self.fractional else [1.0, 2.0, 3.0])
        left = {"local": float(CORES), "far": float(FAR_CORES)} if fits else {"local": 100.0, "far": 100.0}
        plans = {}
        room = MEMORY
        for name in data.draw(st.permutations(SERVICES)):
            placed = []
            for size, node in data.draw(st.lists(st.tuples(sizes, st.sampled_from(self.nodes)), max_size=4)):
                room -= (node == "local") * len(variants)
                if room < 0 and self.memory and fits:
                    continue
                if size <= left[node] and (node == "local" or size == int(size)):
                    placed.append((size, node))
                    left[node] -= size
            plans[name] = ServicePlan(name, {"s": stage_plan(placed, variants)})
        self.tell(Solved(solve_id, Decision(Plan(plans), self.now_s + 0.3, "drawn"), 0.0))

    @rule(data=st.data())
    def window(self, data: st.DataObject) -> None:
        ids = st.sampled_from([*sorted(self.held), 99])
        cores = st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.0])
        grant = st.one_of(
            st.builds(GrantCores, ids, cores),
            st.builds(
                GrantStart,
                st.sampled_from(SERVICES),
                st.just("s"),
                st.builds(
                    ReplicaPlan, cores, st.sampled_from([("x",), ("x", "y")]), st.sampled_from(self.nodes)
                ),
            ),
            st.builds(GrantCancel, ids),
        )
        self.policy.grants = tuple(data.draw(st.lists(grant, max_size=2)))
        for name in SERVICES:
            now = ServiceWindow(name, self.now_s - 0.1, self.now_s, 1, 1, 0, 0, 0, 0, 0, 0, ())
            self.tell(WindowReported(now))

    @precondition(lambda self: bool(self.starting))
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.starting)))
        self.starting.discard(replica_id)
        cores = sum(share.fraction for share in self.held[replica_id])
        replica = self.machine.replicas[replica_id]
        self.tell(ReplicaReady(replica_id, "s", replica.node, cores, replica.variants, replica.service, 0.3))

    @precondition(lambda self: bool(self.resizing))
    @rule(data=st.data(), refused=st.sampled_from([False, False, True]))
    def answer_resize(self, data: st.DataObject, refused: bool) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.resizing)))
        shares = self.resizing.pop(replica_id)
        if refused:
            self.tell(ResizeRefused(replica_id, self.held[replica_id], "drawn"))
        else:
            self.held[replica_id] = shares
            self.tell(ReplicaResized(replica_id, sum(share.fraction for share in shares)))

    @precondition(lambda self: bool(self.loading))
    @rule(data=st.data(), fails=st.sampled_from([False, False, True]))
    def answer_load(self, data: st.DataObject, fails: bool) -> None:
        self.load(*data.draw(st.sampled_from(sorted(self.loading))), fails=fails)

    @precondition(lambda self: bool(self.unloading))
    @rule(data=st.data())
    def answer_unload(self, data: st.DataObject) -> None:
        self.unload(*data.draw(st.sampled_from(sorted(self.unloading))))

    def load(self, replica_id: int, variant: str, *, fails: bool = False) -> None:
        self.loading.discard((replica_id, variant))
        if fails:
            self.tell(VariantUnloaded(replica_id, variant, "drawn"))
            return
        self.resident[replica_id].add(variant)
        self.tell(VariantLoaded(replica_id, variant))

    def unload(self, replica_id: int, variant: str) -> None:
        self.unloading.discard((replica_id, variant))
        self.resident[replica_id].discard(variant)
        self.tell(VariantUnloaded(replica_id, variant))

    @precondition(lambda self: bool(self.leaving))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.leaving))), expected=True)

    @precondition(lambda self: bool(self.machine.replicas))
    @rule(data=st.data(), really=st.sampled_from([False, False, True]))
    def lose(self, data: st.DataObject, really: bool) -> None:
        if really:
            self.end(data.draw(st.sampled_from(sorted(self.machine.replicas))), expected=False)

    def end(self, replica_id: int, *, expected: bool) -> None:
        self.starting.discard(replica_id)
        self.leaving.discard(replica_id)
        self.resizing.pop(replica_id, None)
        self.held.pop(replica_id, None)
        self.resident.pop(replica_id, None)
        self.loading = {each for each in self.loading if each[0] != replica_id}
        self.unloading = {each for each in self.unloading if each[0] != replica_id}
        self.tell(ReplicaGone(replica_id, expected, "drawn"))

    @invariant()
    def cores_are_held_once(self) -> None:
        """From the backend's side: no core is held by two, but for one overlap a core of a newcomer."""
        if not hasattr(self, "machine"):
            return
        assert all(total <= 2.0 + 1e-9 for total in self.used().values()), self.used()

    @invariant()
    def memory_is_held_once(self) -> None:
        """From the backend's side, too: loads come after unloads where both do not fit."""
        if not hasattr(self, "machine") or not self.memory:
            return
        local = {replica_id for replica_id, node in self.node_of.items() if node == "local"}
        names = [name for replica_id in local for name in self.resident.get(replica_id, ())]
        names += [name for replica_id, name in self.loading if replica_id in local]
        assert sum(name != "z" for name in names) <= self.memory, names

    def used(self) -> dict[tuple[str, int], float]:
        """What is held of each core, by node and id."""
        used: dict[tuple[str, int], float] = {}
        for replica_id, shares in self.held.items():
            for share in shares:
                core = (self.node_of[replica_id], share.core_id)
                used[core] = used.get(core, 0.0) + share.fraction
        return used

    @precondition(lambda self: bool(self.machine.desired))
    @rule()
    def come_to_rest(self) -> None:
        """With a backend that does what it is told, what is desired comes true."""
        for _ in range(60):
            busy = False
            for replica_id in sorted(self.leaving):
                busy = True
                self.end(replica_id, expected=True)
            for load in sorted(self.loading):
                busy = True
                self.load(*load)
            for unload in sorted(self.unloading):
                busy = True
                self.unload(*unload)
            for replica_id in sorted(self.resizing):
                busy = True
                shares = self.held[replica_id] = self.resizing.pop(replica_id)
                self.tell(ReplicaResized(replica_id, sum(share.fraction for share in shares)))
            for replica_id in sorted(self.starting & set(self.held)):
                busy = True
                self.starting.discard(replica_id)
                cores = sum(share.fraction for share in self.held[replica_id])
                replica = self.machine.replicas[replica_id]
                self.tell(
                    ReplicaReady(replica_id, "s", replica.node, cores, replica.variants, replica.service, 0.3)
                )
            if not busy and self.settled():
                break
            if not busy:
                self.now_s += 31.0  # past every back-off
                self.tell(Woken())
        assert self.settled(), (self.machine.desired, self.machine.replicas)

    def cannot_load(self, node: str, cores: float) -> bool:
        """Whether a replica is to be parked, and its node has no core left on which it could start."""
        held = sum(total for (where, _), total in self.used().items() if where == node)
        return cores == 0 and held > (CORES if node == "local" else FAR_CORES) - LOADING_CORES

    def settled(self) -> bool:
        for name, plan in self.machine.desired.items():
            live = [r for r in self.machine.replicas.values() if r.service == name]
            wanted = Counter((r.node, r.cores, frozenset(r.variants)) for r in plan.stages["s"].replicas)
            there = Counter((r.node, r.cores, frozenset(r.variants)) for r in live)
            if there - wanted or not all(self.cannot_load(node, cores) for node, cores, _ in wanted - there):
                return False
        return all(total <= 1.0 + 1e-9 for total in self.used().values())


ControlMachineRules.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestControlMachine = ControlMachineRules.TestCase
