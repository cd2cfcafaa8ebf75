"""From what is desired and what is observed to commands, without a memory of its own.

Per stage: keep what stands for a wanted replica, resize it in place, load what it lacks, start what is
missing (all at once), give up what is too many. Order of a pass: starts given up, loads, drains, shrinks,
growth, starts, unloads; what does not fit yet is left and found again by the next pass, which follows every
event that may have freed something.

Four rules are not obvious:
- *Publish first, then shrink.* While a stage waits for replicas to come up, its old ones keep their cores
  and are not drained: they carry the load over the cold start. A start may overlap one core of theirs
  (`ledger`); only if that is not enough are the held-back shrinks and drains of that node released, its own
  service's first.
- *Freed when confirmed.* A shrink or a drain frees its cores at `ReplicaResized` or `ReplicaGone`, so a
  growth that needs them follows one event later, never one event earlier.
- *Serve before spare.* What is to be parked loads on cores that are free meanwhile, so it starts after every
  stage's replicas that are to take batches.
- *Make before break.* A variant that the plan does not want any more is unloaded when nothing of its stage
  is starting or loading. Only where a load does not fit the node's memory is it unloaded before, if it is
  not the replica's only one; a replica that has no other is replaced.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from steelyard.control.fleet import Fleet
from steelyard.control.ledger import CPU, Ledger
from steelyard.control.memory import Memory
from steelyard.control.replica import Replica, StageKey
from steelyard.core.commands import (
    ControlCommand,
    DrainReplica,
    LoadVariant,
    ResizeReplica,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan
from steelyard.core.snapshot import CoreShare

LOADING_CORES = 1.0
"""Cores of a replica that starts in order to be parked."""


class Outcome(NamedTuple):
    """What one pass wants done.

    Attributes:
        commands: in the order in which they must be carried out.
        holding: services whose old replicas carry the load for replicas that are still starting.
        next_id: the first replica id that is not taken.
        at_rest: everything was asked for: cores that are freed or confirmed alone need no further pass.
    """

    commands: tuple[ControlCommand, ...]
    holding: frozenset[str]
    next_id: int
    at_rest: bool


def reconcile(
    desired: Mapping[str, ServicePlan],
    fleet: Fleet,
    ledger: Ledger,
    *,
    now_s: float,
    next_id: int,
    cold_start_s: Mapping[StageKey, float],
    blocked: Collection[StageKey] = (),
    memory: Memory | None = None,
    unloadable: Collection[tuple[str, str, str]] = (),
    cause: str = "",
) -> Outcome:
    """One pass.

    Args:
        desired: plans by service; they fit their nodes together.
        fleet: the replicas; changed to what has been asked for, started ones included.
        ledger: charged with the cores that have been asked for.
        now_s: seconds.
        next_id: for replicas that are started.
        cold_start_s: expected seconds from start to ready, by (service, stage).
        blocked: stages that may not start replicas now, because starts of theirs have just failed.
        memory: of the nodes; None: nothing is known of it.
        unloadable: variants, by (service, stage, variant), that may not be loaded now for the same reason.
        cause: goes into every command.
    """
    one = _Pass(fleet, ledger, Memory({}) if memory is None else memory, now_s, next_id, cause)
    gaps = [
        _gap_of((service, stage), plan, fleet)
        for service, service_plan in desired.items()
        for stage, plan in service_plan.stages.items()
    ]
    lacks = any(gap.missing for gap in gaps)
    giving = _letting_go(gaps, fleet) if lacks else []
    for gap in gaps:
        one.want(gap)
    for gap in gaps:
        if gap.lacking:
            one.load(gap, unloadable)
    for gap in gaps:
        if not gap.is_waiting:
            one.give_up(gap)
    for gap in gaps:
        one.grow(gap)
    short: set[tuple[str, str, str]] = set()
    startable = [gap for gap in gaps if gap.missing and gap.key not in blocked]
    for is_parked in (False, True):
        for gap in startable:
            short |= one.start_missing(gap, giving, cold_start_s.get(gap.key, 0.0), is_parked=is_parked)
    for service, node, device in sorted(short):
        _release_held(one, gaps, service, node, device)
    one.move_guests()
    for gap in gaps:
        if gap.spare and gap.is_complete:
            one.unload(gap)
    holding = frozenset(gap.key[0] for gap in gaps if gap.is_waiting and gap.has_held)
    at_rest = not (holding or short or blocked or ledger.has_overlaps) and not any(map(one.is_open, gaps))
    return Outcome(tuple(one.commands), holding, one.next_id, at_rest)


class _Gap(NamedTuple):
    """Where a stage is not as its plan wants it, as the pass finds it.

    Attributes:
        missing: wanted replicas that nobody stands for.
        unequal: ids of kept replicas whose cores are other than wanted, asked for or written down; and the
            cores wanted.
        too_many: surplus replicas.
        lacking: ids of kept replicas that are to load variants; and these.
        spare: ids of kept replicas with resident variants that are not wanted; and these.
        is_complete: nothing is missing, starting or loading.
        is_waiting: something is, and what is there is to cover for it.
        has_held: something would be shrunk, drained or unloaded if nothing were starting or loading.
    """

    key: StageKey
    missing: tuple[ReplicaPlan, ...]
    unequal: list[tuple[int, float]]
    too_many: list[Replica]
    lacking: list[tuple[int, tuple[str, ...]]]
    spare: list[tuple[int, tuple[str, ...]]]
    is_complete: bool
    is_waiting: bool
    has_held: bool


def _gap_of(key: StageKey, plan: StagePlan, fleet: Fleet) -> _Gap:
    wanted = plan.replicas
    matching = fleet.matching(key, wanted)
    unequal: list[tuple[int, float]] = []
    lacking: list[tuple[int, tuple[str, ...]]] = []
    spare: list[tuple[int, tuple[str, ...]]] = []
    is_complete = not matching.missing
    has_held = False
    for replica_id, place in matching.kept.items():
        replica = fleet[replica_id]
        cores, variants = wanted[place].cores, wanted[place].variants
        if replica.state == "starting":
            is_complete = False
        elif replica.variants == variants and not replica.loading and not replica.unloading:
            pass  # as it is in nearly every pass
        elif replica.coming != variants:
            coming = replica.coming
            lacks = tuple([name for name in variants if name not in replica.variants])
            if lacks:
                is_complete = False
            if any(name not in coming and name not in replica.unloading for name in lacks):
                lacking.append((replica_id, lacks))
            idle = tuple([name for name in replica.variants if name in coming and name not in variants])
            if idle:
                spare.append((replica_id, idle))
                has_held = True
        elif replica.loading:
            is_complete = False
        if cores != replica.cores_requested or cores != replica.cores_desired:
            unequal.append((replica_id, cores))
            has_held = has_held or (replica.state == "ready" and cores < replica.cores_requested)
    too_many = [fleet[replica_id] for replica_id in matching.surplus]
    has_held = has_held or any(replica.state != "starting" for replica in too_many)
    is_waiting = plan.covers_starts and not is_complete
    return _Gap(
        key, matching.missing, unequal, too_many, lacking, spare, is_complete, is_waiting, has_held
    )  # fmt: skip


class _Pass:
    """One pass at work: what it changes, and the commands it has come to."""

    def __init__(
        self, fleet: Fleet, ledger: Ledger, memory: Memory, now_s: float, next_id: int, cause: str
    ) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.memory = memory
        self.now_s = now_s
        self.next_id = next_id
        self.cause = cause
        self.commands: list[ControlCommand] = []

    def want(self, gap: _Gap) -> None:
        """Write down what is desired of each replica, and give up surplus ones that are still starting."""
        for replica_id, cores in gap.unequal:
            if self.fleet[replica_id].cores_desired != cores:
                self.fleet.change(replica_id, cores_desired=cores)
        for replica in gap.too_many:
            if replica.state == "starting":
                self.commands.append(StopReplica(replica.replica_id))
                self.fleet.change(replica.replica_id, cores_desired=0.0, state="draining")
            elif replica.cores_desired:
                self.fleet.change(replica.replica_id, cores_desired=0.0)

    def load(self, gap: _Gap, unloadable: Collection[tuple[str, str, str]]) -> None:
        """Let kept replicas load what they lack, but not those variants, as far as the nodes' memory goes."""
        service, stage = gap.key
        for replica_id, names in gap.lacking:
            for name in names:
                replica = self.fleet[replica_id]
                if name in replica.coming or name in replica.unloading:
                    continue  # on its way, one way or the other
                if (service, stage, name) in unloadable:
                    continue
                if not self.memory.has_room(self.fleet, replica.node, gap.key, (name,)):
                    self._make_room(gap, replica)
                    break
                self.commands.append(LoadVariant(replica_id, name, self.cause))
                self.fleet.change(replica_id, loading=(*replica.loading, name))

    def unload(self, gap: _Gap, node: str | None = None) -> bool:
        """Unload what is not wanted (of one node only, if given), but no replica's last; whether any was."""
        before = len(self.commands)
        for replica_id, names in gap.spare:
            replica = self.fleet[replica_id]
            left = [name for name in replica.variants if name not in replica.unloading]
            for name in names:
                if len(left) > 1 and name in left and node in (None, replica.node):
                    left.remove(name)
                    self.commands.append(UnloadVariant(replica_id, name, self.cause))
                    gone = self.fleet[replica_id].unloading
                    self.fleet.change(replica_id, unloading=(*gone, name))
        return len(self.commands) > before

    def give_up(self, gap: _Gap, node: str | None = None, device: str = CPU) -> None:
        """Drain surplus replicas and shrink those that are too large (of one node only, if given).

        With a device, those that have one of that kind are drained, and nothing else.
        """
        for surplus in gap.too_many:
            if device not in (CPU, self.fleet.device(surplus)):
                continue
            if self.fleet[surplus.replica_id].state != "draining" and node in (None, surplus.node):
                self.commands.append(DrainReplica(surplus.replica_id, surplus.service, self.cause))
                self.fleet.change(surplus.replica_id, state="draining")
        for replica_id, cores in gap.unequal if device == CPU else ():
            replica = self.fleet[replica_id]
            if node in (None, replica.node) and cores < replica.cores_requested and self._resizable(replica):
                self._resize(replica_id, self.ledger.shrunk(replica_id, cores), cores)

    def grow(self, gap: _Gap) -> None:
        """Grow kept replicas in place as far as there are free cores: each of them wholly or not at all."""
        for replica_id, cores in gap.unequal:
            replica = self.fleet[replica_id]
            if cores > replica.cores_requested and self._resizable(replica):
                shares = self.ledger.grow(replica_id, cores)
                if shares is not None:
                    self._resize(replica_id, shares, cores)

    def start_missing(
        self, gap: _Gap, giving: Sequence[Replica], cold_start_s: float, *, is_parked: bool
    ) -> set[tuple[str, str, str]]:
        """Start what a stage lacks of replicas that are to be parked, or of the others.

        Returns (service, node, device) of what cannot be yet; `cpu` if the device is free.
        """
        short: set[tuple[str, str, str]] = set()
        for plan in gap.missing:
            if is_parked != (not plan.cores):
                continue
            if not self._has_free(plan.node, plan.device):
                short.add((gap.key[0], plan.node, plan.device))
            elif not self._start(gap.key, plan, _hosts(giving, gap.key, plan.node), cold_start_s):
                short.add((gap.key[0], plan.node, CPU))
        return short

    def move_guests(self) -> None:
        """Move ready replicas off cores that they overlap, where there are free ones."""
        if not self.ledger.has_overlaps:
            return
        for replica in list(self.fleet):
            if self._resizable(replica) and self.ledger.overlaps(replica.replica_id):
                shares = self.ledger.move(replica.replica_id)
                if shares is not None:
                    self._resize(replica.replica_id, shares, replica.cores_requested)

    def is_open(self, gap: _Gap) -> bool:
        """Whether something of the gap is neither done nor asked for."""
        if gap.lacking or gap.spare:
            return True
        resized = all(self.fleet[replica_id].cores_requested == cores for replica_id, cores in gap.unequal)
        given_up = all(self.fleet[replica.replica_id].state == "draining" for replica in gap.too_many)
        return not (resized and given_up)

    def _start(self, key: StageKey, plan: ReplicaPlan, hosts: tuple[int, ...], cold_start_s: float) -> bool:
        """Start one replica; whether there were cores and memory for it."""
        cores = plan.cores or LOADING_CORES
        if not self.memory.has_room(self.fleet, plan.node, key, plan.variants):
            return False
        shares = self.ledger.allocate(self.next_id, plan.node, cores, hosts=hosts, device=plan.device)
        if shares is None:
            return False
        service, stage = key
        ready_s = self.now_s + cold_start_s
        replica = Replica(
            replica_id=self.next_id,
            service=service,
            stage=stage,
            node=plan.node,
            variants=plan.variants,
            state="starting",
            cores=cores,
            cores_desired=plan.cores,
            cores_requested=cores,
            started_s=self.now_s,
            expected_ready_s=ready_s,
        )
        self.fleet.put(replica)
        self.commands.append(
            StartReplica(self.next_id, service, stage, plan.node, shares, plan.variants, ready_s, self.cause)
        )
        self.next_id += 1
        return True

    def _has_free(self, node: str, device: str) -> bool:
        """Whether a device of a node is held by nobody; there is no end of `cpu`."""
        if device == CPU:
            return True
        held = sum(r.node == node and self.fleet.device(r) == device for r in self.fleet)
        return held < self.ledger.devices(node).get(device, 0)

    def _make_room(self, gap: _Gap, replica: Replica) -> None:
        """Memory for a load: wait for what goes anyway, unload what is not wanted, or replace the replica.

        One at a time is replaced, and only if its stage has all others.
        """
        on_node = [other for other in self.fleet if other.node == replica.node]
        surplus = {other.replica_id for other in gap.too_many}
        if any(r.state == "draining" or r.unloading or r.replica_id in surplus for r in on_node):
            return
        if self.unload(gap, replica.node) or gap.missing or any(r.state == "starting" for r in on_node):
            return
        self.commands.append(DrainReplica(replica.replica_id, replica.service, self.cause))
        self.fleet.change(replica.replica_id, state="draining")

    def _resizable(self, replica: Replica) -> bool:
        return (
            replica.state in ("ready", "parked")
            and replica.pending is None
            and replica.retry_at_s <= self.now_s
        )

    def _resize(self, replica_id: int, shares: tuple[CoreShare, ...], cores: float) -> None:
        self.commands.append(ResizeReplica(replica_id, shares, self.cause))
        self.fleet.change(replica_id, cores_requested=cores, pending=shares)


def _letting_go(gaps: Sequence[_Gap], fleet: Fleet) -> list[Replica]:
    """Replicas that hold cores they are to give up: those on their way out, surplus and too large ones."""
    leaving = [replica for replica in fleet if replica.state == "draining"]
    surplus = [replica for gap in gaps for replica in gap.too_many if replica.state != "starting"]
    unequal = [(fleet[replica_id], cores) for gap in gaps for replica_id, cores in gap.unequal]
    too_large = [r for r, cores in unequal if r.state == "ready" and cores < r.cores_requested]
    return [*leaving, *surplus, *too_large]


def _hosts(giving: Sequence[Replica], key: StageKey, node: str) -> tuple[int, ...]:
    """Whom a start may overlap: its own stage's first, then its service's, then anybody's."""
    service, stage = key
    ranked = sorted(giving, key=lambda r: ((r.service, r.stage) != (service, stage), r.service != service))
    return tuple(replica.replica_id for replica in ranked if replica.node == node)


def _release_held(one: _Pass, gaps: Sequence[_Gap], service: str, node: str, device: str) -> None:
    """Let a start have what held-back shrinks and drains would free: its own service's, else everybody's."""
    waiting = sorted((gap for gap in gaps if gap.is_waiting and gap.has_held), key=lambda gap: gap.key)
    if device != CPU:
        waiting = [gap for gap in waiting if any(one.fleet.device(r) == device for r in gap.too_many)]
    own = [gap for gap in waiting if gap.key[0] == service]
    for gap in own or waiting:
        one.give_up(gap, node, device)
