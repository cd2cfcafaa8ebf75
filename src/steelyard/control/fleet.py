"""What the control plane knows of each replica, and which wanted replica each of them stands for.

Three amounts of cores are kept apart: `cores_desired` (the plan's), `cores_requested` (asked of the
backend) and `cores` (observed). A replica stands for a wanted one if it is of the same stage, node and
resident variants: its cores do not matter, because they change in place.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from steelyard.core.plan import ReplicaPlan, ServicePlan
from steelyard.core.snapshot import CoreShare, ReplicaState
from steelyard.core.types import Frozen


class Replica(Frozen, frozen=True):
    """One replica, from `StartReplica` to `ReplicaGone`.

    Attributes:
        pending: shares asked for by a resize that the backend has not confirmed; None when there is none.
        refusals: resizes refused in a row.
        retry_at_s: no resize is asked for before this time.
    """

    replica_id: int
    service: str
    stage: str
    node: str
    variants: tuple[str, ...]
    state: ReplicaState
    cores: float
    cores_desired: float
    cores_requested: float
    started_s: float
    expected_ready_s: float | None = None
    throttled_ratio: float = 0.0
    pending: tuple[CoreShare, ...] | None = None
    refusals: int = 0
    retry_at_s: float = 0.0


Fleet = Mapping[int, Replica]


class Kept(NamedTuple):
    """A replica and the wanted one that it stands for; `place` is the latter's place in the stage's plan."""

    replica: Replica
    wanted: ReplicaPlan
    place: int


class Matching(NamedTuple):
    """How a stage's replicas cover its plan: those kept, those still missing, those too many."""

    kept: tuple[Kept, ...]
    missing: tuple[ReplicaPlan, ...]
    surplus: tuple[Replica, ...]


def of_stage(fleet: Fleet, service: str, stage: str) -> list[Replica]:
    """The stage's replicas that are not on their way out, by id."""
    return [
        fleet[replica_id]
        for replica_id in sorted(fleet)
        if fleet[replica_id].service == service
        and fleet[replica_id].stage == stage
        and fleet[replica_id].state != "draining"
    ]


def match(wanted: Sequence[ReplicaPlan], live: Iterable[Replica]) -> Matching:
    """Pair wanted replicas with live ones.

    Kept rather than given up: ready before starting, larger before smaller, older before younger. Ready ones
    stand for the largest wanted ones, because they get their cores at once, and starting ones for the next;
    within both, equal cores are paired first, so that the fewest are resized.
    """
    wanted_by: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for place, plan in enumerate(wanted):
        wanted_by.setdefault((plan.node, tuple(sorted(plan.variants))), []).append(place)
    live_by: dict[tuple[str, tuple[str, ...]], list[Replica]] = {}
    for replica in live:
        live_by.setdefault((replica.node, tuple(sorted(replica.variants))), []).append(replica)
    kept: list[Kept] = []
    missing: list[int] = []
    surplus: list[Replica] = []
    for key, places in wanted_by.items():
        ranked = sorted(live_by.pop(key, []), key=_keep_order)
        surplus += ranked[len(places) :]
        ready = [r for r in ranked[: len(places)] if r.state != "starting"]
        starting = [r for r in ranked[: len(places)] if r.state == "starting"]
        places.sort(key=lambda place: (-wanted[place].cores, place))
        kept += _pair(wanted, places[: len(ready)], ready)
        kept += _pair(wanted, places[len(ready) : len(ready) + len(starting)], starting)
        missing += places[len(ready) + len(starting) :]
    for replicas in live_by.values():
        surplus += replicas
    return Matching(
        tuple(sorted(kept, key=lambda k: k.replica.replica_id)),
        tuple(wanted[place] for place in sorted(missing)),
        tuple(sorted(surplus, key=_keep_order, reverse=True)),
    )


def desired_cores(plan: ServicePlan) -> dict[str, float]:
    """Cores that a service's plan wants, by node."""
    cores: dict[str, float] = {}
    for stage in plan.stages.values():
        for replica in stage.replicas:
            cores[replica.node] = cores.get(replica.node, 0.0) + replica.cores
    return cores


def _keep_order(replica: Replica) -> tuple[bool, float, float, int]:
    return (replica.state == "starting", -replica.cores_requested, replica.started_s, replica.replica_id)


def _pair(wanted: Sequence[ReplicaPlan], places: Sequence[int], replicas: Sequence[Replica]) -> list[Kept]:
    """As many places as replicas, both largest first: equal cores first, the rest in this order."""
    open_places, unequal = list(places), []
    pairs: list[Kept] = []
    for replica in replicas:
        equal = next((p for p in open_places if wanted[p].cores == replica.cores_requested), None)
        if equal is None:
            unequal.append(replica)
        else:
            pairs.append(Kept(replica, wanted[equal], equal))
            open_places.remove(equal)
    return pairs + [Kept(r, wanted[p], p) for r, p in zip(unequal, open_places, strict=True)]
