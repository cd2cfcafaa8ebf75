"""What the control plane knows of each replica, and which wanted replica each of them stands for.

Three amounts of cores are kept apart: `cores_desired` (the plan's), `cores_requested` (asked of the
backend) and `cores` (observed). A replica stands for a wanted one if it is of the same stage, node and
resident variants: its cores do not matter, because they change in place.

Which replica stands for which wanted one is decided when the stage's plan changes, or when a replica comes,
goes or changes its state; it holds until the next time. A resize does not change it.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from steelyard.core.plan import ReplicaPlan
from steelyard.core.snapshot import CoreShare, ReplicaState
from steelyard.core.types import Frozen

StageKey = tuple[str, str]
"""(service, stage)."""
Kind = tuple[str, tuple[str, ...]]
"""What one replica can stand for: node and resident variants, sorted."""


_REQUESTED = attrgetter("cores_requested")


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


class Matching(NamedTuple):
    """How a stage's replicas cover its plan.

    Attributes:
        kept: by the id of a replica, the place in the plan of the wanted one that it stands for; by id.
        missing: wanted ones that nobody stands for, as in the plan.
        surplus: ids of replicas that stand for none; the first is given up first.
    """

    kept: dict[int, int]
    missing: tuple[ReplicaPlan, ...]
    surplus: tuple[int, ...]


class Fleet:
    """The replicas of a cluster; they are told apart by ids that grow with time, and iterated in that order.

    Attributes:
        version: changes with every replica's change.
        wanting: ids of replicas that are to have more cores than have been asked for.
    """

    def __init__(self, replicas: Iterable[Replica] = ()) -> None:
        self._by_id: dict[int, Replica] = {}
        self._ids: dict[StageKey, list[int]] = {}
        self._matchings: dict[StageKey, tuple[tuple[ReplicaPlan, ...], Matching]] = {}
        self._newest = 0
        self.version = 0
        self.wanting: set[int] = set()
        for replica in replicas:
            self.put(replica)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def __getitem__(self, replica_id: int) -> Replica:
        return self._by_id[replica_id]

    def get(self, replica_id: int) -> Replica | None:
        """A replica, or None if it is gone or never was."""
        return self._by_id.get(replica_id)

    def put(self, replica: Replica) -> None:
        """Add a replica, or replace what is known of it."""
        former = self._by_id.get(replica.replica_id)
        key = (replica.service, replica.stage)
        if former is None:
            assert replica.replica_id > self._newest, f"replica {replica.replica_id} is not the newest"
            self._newest = replica.replica_id
            self._ids.setdefault(key, []).append(replica.replica_id)
        if former is None or former.state != replica.state:
            self._matchings.pop(key, None)
        if replica.cores_desired > replica.cores_requested:
            self.wanting.add(replica.replica_id)
        elif self.wanting:
            self.wanting.discard(replica.replica_id)
        self._by_id[replica.replica_id] = replica
        self.version += 1

    def change(self, replica_id: int, **fields: object) -> None:
        """Replace some of what is known of a replica."""
        self.put(msgspec.structs.replace(self._by_id[replica_id], **fields))

    def pop(self, replica_id: int) -> Replica | None:
        """Forget a replica; None if it is not there."""
        replica = self._by_id.pop(replica_id, None)
        if replica is not None:
            key = (replica.service, replica.stage)
            self._ids[key].remove(replica_id)
            self.wanting.discard(replica_id)
            if replica.state != "draining":
                self._matchings.pop(key, None)
            self.version += 1
        return replica

    def matching(self, key: StageKey, wanted: tuple[ReplicaPlan, ...]) -> Matching:
        """How the stage's replicas that are not on their way out cover `wanted`; remembered."""
        known = self._matchings.get(key)
        if known is not None and known[0] is wanted:
            return known[1]
        live = [self._by_id[replica_id] for replica_id in self._ids.get(key, ())]
        matching = match(wanted, [replica for replica in live if replica.state != "draining"])
        self._matchings[key] = (wanted, matching)
        return matching


def match(wanted: Sequence[ReplicaPlan], live: Sequence[Replica]) -> Matching:
    """Pair wanted replicas with live ones, which come by age, oldest first.

    Kept rather than given up: ready before starting, larger before smaller, older before younger. Ready ones
    stand for the largest wanted ones, because they get their cores at once, and starting ones for the next;
    within both, equal cores are paired first, so that the fewest are resized.
    """
    cores = [plan.cores for plan in wanted]
    places_by = _by_kind(wanted)
    live_by = _by_kind(live)
    kept: dict[int, int] = {}
    missing: list[int] = []
    surplus: list[Replica] = []
    for kind, places in places_by.items():
        there = [live[index] for index in live_by.pop(kind, ())]
        ready = sorted((r for r in there if r.state != "starting"), key=_REQUESTED, reverse=True)
        starting = sorted((r for r in there if r.state == "starting"), key=_REQUESTED, reverse=True)
        places.sort(key=cores.__getitem__, reverse=True)  # equals stay in order, here and above
        first, last = min(len(ready), len(places)), min(len(there), len(places))
        _pair(kept, cores, places[:first], ready[:first])
        _pair(kept, cores, places[first:last], starting[: last - first])
        missing += places[last:]
        surplus += ready[first:]
        surplus += starting[last - first :]
    for left in live_by.values():
        surplus += [live[index] for index in left]
    surplus.sort(key=lambda r: (r.state != "starting", r.cores_requested, -r.replica_id))
    return Matching(
        dict(sorted(kept.items())),
        tuple([wanted[place] for place in sorted(missing)]),
        tuple([replica.replica_id for replica in surplus]),
    )


def _by_kind(ones: Sequence[Replica | ReplicaPlan]) -> dict[Kind, list[int]]:
    """Indices by node and resident variants; most stages have one kind."""
    indices: dict[Kind, list[int]] = {}
    for index, one in enumerate(ones):
        variants = one.variants
        kind = (one.node, variants if len(variants) == 1 else tuple(sorted(variants)))
        known = indices.get(kind)
        if known is None:
            indices[kind] = [index]
        else:
            known.append(index)
    return indices


def _pair(
    kept: dict[int, int], cores: Sequence[float], places: Sequence[int], replicas: Sequence[Replica]
) -> None:
    """As many places as replicas, both largest first: equal cores first, the rest in this order."""
    if [cores[place] for place in places] == [replica.cores_requested for replica in replicas]:
        kept.update(zip([replica.replica_id for replica in replicas], places, strict=True))
        return
    open_by_cores: dict[float, list[int]] = {}
    for place in reversed(places):
        open_by_cores.setdefault(cores[place], []).append(place)
    unequal: list[int] = []
    for replica in replicas:
        equal = open_by_cores.get(replica.cores_requested)
        if equal:
            kept[replica.replica_id] = equal.pop()
        else:
            unequal.append(replica.replica_id)
    left = {place for open_places in open_by_cores.values() for place in open_places}
    kept.update(zip(unequal, [place for place in places if place in left], strict=True))
