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

import msgspec

from steelyard.control.fleet import Fleet, Matching, Replica, match, of_stage
from steelyard.control.ledger import Ledger
from steelyard.core.commands import (
    ControlCommand,
    DrainReplica,
    ResizeReplica,
    StartReplica,
    StopReplica,
)
from steelyard.core.plan import ReplicaPlan, ServicePlan
from steelyard.core.snapshot import CoreShare

StageKey = tuple[str, str]


class Outcome(NamedTuple):
    """What one pass wants done, and the state of things once it has been asked for.

    Attributes:
        commands: in the order in which they must be carried out.
        fleet: the replicas, started ones included.
        ledger: cores charged for what was asked.
        holding: services whose old replicas carry the load for replicas that are still starting.
        next_id: the first replica id that is not taken.
    """

    commands: tuple[ControlCommand, ...]
    fleet: dict[int, Replica]
    ledger: Ledger
    holding: frozenset[str]
    next_id: int


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
        fleet: replicas by id; not changed.
        ledger: not changed.
        now_s: seconds.
        next_id: for replicas that are started.
        cold_start_s: expected seconds from start to ready, by (service, stage).
        blocked: stages that may not start replicas now, because starts of theirs have just failed.
        cause: goes into every command.
    """
    one = _Pass(fleet, ledger, now_s, next_id, cause)
    matchings = {
        (service, stage): match(plan.replicas, of_stage(fleet, service, stage))
        for service, service_plan in desired.items()
        for stage, plan in service_plan.stages.items()
    }
    waiting = {key for key, m in matchings.items() if _is_waiting(m)}
    holding = {key for key in waiting if _has_held(matchings[key])}
    for matching in matchings.values():
        one.want(matching)
        one.cancel(matching)
    for key, matching in matchings.items():
        if key not in waiting:
            one.give_up(matching)
    for matching in matchings.values():
        one.grow(matching)
    giving = _letting_go(matchings, fleet)
    short: set[tuple[str, str]] = set()
    for key, matching in matchings.items():
        if key in blocked:
            continue
        for plan in matching.missing:
            hosts = _hosts(giving, key, plan.node)
            if not one.start(key, plan, hosts, cold_start_s.get(key, 0.0)):
                short.add((key[0], plan.node))
    for service, node in sorted(short):
        _release_held(one, matchings, waiting, service, node)
    one.move_guests()
    return Outcome(
        tuple(one.commands), one.fleet, one.ledger, frozenset(service for service, _ in holding), one.next_id
    )


class _Pass:
    """The working copy of one pass, and the commands it has come to."""

    def __init__(self, fleet: Fleet, ledger: Ledger, now_s: float, next_id: int, cause: str) -> None:
        self.fleet = dict(fleet)
        self.ledger = ledger.copy()
        self.now_s = now_s
        self.next_id = next_id
        self.cause = cause
        self.commands: list[ControlCommand] = []

    def want(self, matching: Matching) -> None:
        """Write down what is desired of each replica."""
        for replica, plan, _ in matching.kept:
            if replica.cores_desired != plan.cores:
                self._change(replica, cores_desired=plan.cores)
        for replica in matching.surplus:
            self._change(replica, cores_desired=0.0)

    def cancel(self, matching: Matching) -> None:
        """Give up surplus replicas that are still starting."""
        for replica in matching.surplus:
            if replica.state == "starting":
                self.commands.append(StopReplica(replica.replica_id))
                self._change(replica, state="draining")

    def give_up(self, matching: Matching, node: str | None = None) -> None:
        """Drain surplus replicas and shrink those that are too large (of one node only, if given)."""
        for replica in matching.surplus:
            if self.fleet[replica.replica_id].state != "draining" and node in (None, replica.node):
                self.commands.append(DrainReplica(replica.replica_id, replica.service, self.cause))
                self._change(replica, state="draining")
        for replica, plan, _ in matching.kept:
            if (
                self._resizable(replica)
                and plan.cores < replica.cores_requested
                and node in (None, replica.node)
            ):
                self._resize(replica, self.ledger.shrunk(replica.replica_id, plan.cores), plan.cores)

    def grow(self, matching: Matching) -> None:
        """Grow kept replicas in place as far as there are free cores: each of them wholly or not at all."""
        for replica, plan, _ in matching.kept:
            if self._resizable(replica) and plan.cores > replica.cores_requested:
                shares = self.ledger.grow(replica.replica_id, plan.cores)
                if shares is not None:
                    self._resize(replica, shares, plan.cores)

    def start(self, key: StageKey, plan: ReplicaPlan, hosts: tuple[int, ...], cold_start_s: float) -> bool:
        """Start one replica; whether there were cores for it."""
        shares = self.ledger.allocate(self.next_id, plan.node, plan.cores, hosts=hosts)
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
            cores=plan.cores,
            cores_desired=plan.cores,
            cores_requested=plan.cores,
            started_s=self.now_s,
            expected_ready_s=ready_s,
        )
        self.fleet[self.next_id] = replica
        self.commands.append(
            StartReplica(self.next_id, service, stage, plan.node, shares, plan.variants, ready_s, self.cause)
        )
        self.next_id += 1
        return True

    def move_guests(self) -> None:
        """Move ready replicas off cores that they overlap, where there are free ones."""
        for replica_id in sorted(self.fleet):
            replica = self.fleet[replica_id]
            if self._resizable(replica) and self.ledger.overlaps(replica_id):
                shares = self.ledger.move(replica_id)
                if shares is not None:
                    self._resize(replica, shares, replica.cores_requested)

    def _resizable(self, replica: Replica) -> bool:
        now = self.fleet[replica.replica_id]
        return now.state in ("ready", "parked") and now.pending is None and now.retry_at_s <= self.now_s

    def _resize(self, replica: Replica, shares: tuple[CoreShare, ...], cores: float) -> None:
        self.commands.append(ResizeReplica(replica.replica_id, shares, self.cause))
        self._change(replica, cores_requested=cores, pending=shares)

    def _change(self, replica: Replica, **fields: object) -> None:
        current = self.fleet[replica.replica_id]
        self.fleet[replica.replica_id] = msgspec.structs.replace(current, **fields)


def _is_waiting(matching: Matching) -> bool:
    return bool(matching.missing) or any(kept.replica.state == "starting" for kept in matching.kept)


def _has_held(matching: Matching) -> bool:
    """Whether something would be shrunk or drained if nothing were starting."""
    return any(r.state != "starting" for r in matching.surplus) or any(
        k.replica.state == "ready" and k.wanted.cores < k.replica.cores_requested for k in matching.kept
    )


def _letting_go(matchings: Mapping[StageKey, Matching], fleet: Fleet) -> list[Replica]:
    """Replicas that hold cores they are to give up: those on their way out, surplus and too large ones."""
    leaving = [fleet[replica_id] for replica_id in sorted(fleet) if fleet[replica_id].state == "draining"]
    surplus = [r for m in matchings.values() for r in m.surplus if r.state != "starting"]
    too_large = [
        kept.replica
        for m in matchings.values()
        for kept in m.kept
        if kept.replica.state == "ready" and kept.wanted.cores < kept.replica.cores_requested
    ]
    return [*leaving, *surplus, *too_large]


def _hosts(giving: Sequence[Replica], key: StageKey, node: str) -> tuple[int, ...]:
    """Whom a start may overlap: its own stage's first, then its service's, then anybody's."""
    service, stage = key
    ranked = sorted(giving, key=lambda r: ((r.service, r.stage) != (service, stage), r.service != service))
    return tuple(replica.replica_id for replica in ranked if replica.node == node)


def _release_held(
    one: _Pass, matchings: Mapping[StageKey, Matching], waiting: set[StageKey], service: str, node: str
) -> None:
    """Let a start have what held-back shrinks and drains would free: its own service's, else everybody's."""
    own = [key for key in sorted(waiting) if key[0] == service and _has_held(matchings[key])]
    for key in own or sorted(waiting):
        one.give_up(matchings[key], node)
