"""From what is desired and what is observed to commands, without a memory of its own.

Per stage: keep what stands for a wanted replica, resize it in place, start what lacks (all at once), give
up what is too many. Order of a pass: starts given up, drains, shrinks, growth, starts; what does not fit
yet is left and found again by the next pass, which follows every event that may have freed something.

Two rules are not obvious:
- *Publish first, then shrink.* While a stage waits for replicas to come up, its old ones keep their cores
  and are not drained: they carry the load over the cold start. A start may overlap one core of theirs
  (`ledger`); only if that is not enough are the held-back shrinks and drains of that node released, its own
  service's first.
- *Freed when confirmed.* A shrink or a drain frees its cores at `ReplicaResized` or `ReplicaGone`, so a
  growth that needs them follows one event later, never one event earlier.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from steelyard.control.fleet import Fleet, Replica, StageKey
from steelyard.control.ledger import Ledger
from steelyard.core.commands import (
    ControlCommand,
    DrainReplica,
    ResizeReplica,
    StartReplica,
    StopReplica,
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
        cause: goes into every command.
    """
    one = _Pass(fleet, ledger, now_s, next_id, cause)
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
        if not gap.is_waiting:
            one.give_up(gap)
    for gap in gaps:
        one.grow(gap)
    short: set[tuple[str, str]] = set()
    for gap in gaps:
        if gap.missing and gap.key not in blocked:
            short |= one.start_missing(gap, giving, cold_start_s.get(gap.key, 0.0))
    for service, node in sorted(short):
        _release_held(one, gaps, service, node)
    one.move_guests()
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
        is_waiting: replicas are missing, or still starting, and the others are to cover for them.
        has_held: something would be shrunk or drained if nothing were starting.
    """

    key: StageKey
    missing: tuple[ReplicaPlan, ...]
    unequal: list[tuple[int, float]]
    too_many: list[Replica]
    is_waiting: bool
    has_held: bool


def _gap_of(key: StageKey, plan: StagePlan, fleet: Fleet) -> _Gap:
    wanted = plan.replicas
    matching = fleet.matching(key, wanted)
    unequal: list[tuple[int, float]] = []
    is_waiting = bool(matching.missing)
    has_held = False
    for replica_id, place in matching.kept.items():
        replica = fleet[replica_id]
        cores = wanted[place].cores
        if replica.state == "starting":
            is_waiting = True
        if cores != replica.cores_requested or cores != replica.cores_desired:
            unequal.append((replica_id, cores))
            has_held = has_held or (replica.state == "ready" and cores < replica.cores_requested)
    too_many = [fleet[replica_id] for replica_id in matching.surplus]
    has_held = has_held or any(replica.state != "starting" for replica in too_many)
    return _Gap(key, matching.missing, unequal, too_many, is_waiting and plan.covers_starts, has_held)


class _Pass:
    """One pass at work: what it changes, and the commands it has come to."""

    def __init__(self, fleet: Fleet, ledger: Ledger, now_s: float, next_id: int, cause: str) -> None:
        self.fleet = fleet
        self.ledger = ledger
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

    def give_up(self, gap: _Gap, node: str | None = None) -> None:
        """Drain surplus replicas and shrink those that are too large (of one node only, if given)."""
        for surplus in gap.too_many:
            if self.fleet[surplus.replica_id].state != "draining" and node in (None, surplus.node):
                self.commands.append(DrainReplica(surplus.replica_id, surplus.service, self.cause))
                self.fleet.change(surplus.replica_id, state="draining")
        for replica_id, cores in gap.unequal:
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
        self, gap: _Gap, giving: Sequence[Replica], cold_start_s: float
    ) -> set[tuple[str, str]]:
        """Start what a stage lacks; (service, node) of what there are no cores for."""
        short: set[tuple[str, str]] = set()
        for plan in gap.missing:
            if not self._start(gap.key, plan, _hosts(giving, gap.key, plan.node), cold_start_s):
                short.add((gap.key[0], plan.node))
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
        resized = all(self.fleet[replica_id].cores_requested == cores for replica_id, cores in gap.unequal)
        given_up = all(self.fleet[replica.replica_id].state == "draining" for replica in gap.too_many)
        return not (resized and given_up)

    def _start(self, key: StageKey, plan: ReplicaPlan, hosts: tuple[int, ...], cold_start_s: float) -> bool:
        """Start one replica; whether there were cores for it."""
        cores = plan.cores or LOADING_CORES
        shares = self.ledger.allocate(self.next_id, plan.node, cores, hosts=hosts)
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


def _release_held(one: _Pass, gaps: Sequence[_Gap], service: str, node: str) -> None:
    """Let a start have what held-back shrinks and drains would free: its own service's, else everybody's."""
    waiting = sorted((gap for gap in gaps if gap.is_waiting), key=lambda gap: gap.key)
    own = [gap for gap in waiting if gap.key[0] == service and gap.has_held]
    for gap in own or waiting:
        one.give_up(gap, node)
