"""The replicas that there are, and which wanted replica each of them stands for.

A replica stands for a wanted one if it is of the same stage and node: its
cores do not matter, because they change in place. Those with the very variants that are wanted come first;
then those that can be given them in place (`variants`), most variants in common first.

Which replica stands for which wanted one is decided when the stage's plan changes, or when a replica comes,
goes or changes its state; it holds until the next time. A resize does not change it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from operator import attrgetter
from typing import NamedTuple

import msgspec

from steelyard.control.replica import Replica, StageKey
from steelyard.control.variants import StageVariants
from steelyard.core.plan import ReplicaPlan

Kind = tuple[str, tuple[str, ...]]
"""What one replica can stand for: node and resident variants, sorted."""


_REQUESTED = attrgetter("cores_requested")
_ID = attrgetter("replica_id")
_UNKNOWN = StageVariants(())


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

    Args:
        replicas: to begin with.
        stages: what is known of each stage's variants.

    Attributes:
        version: changes with every replica's change.
        touched: ids of replicas that came, changed or went; emptied by whoever looks at them.
        wanting: ids of replicas that are to have more cores than have been asked for.
    """

    def __init__(
        self, replicas: Iterable[Replica] = (), stages: Mapping[StageKey, StageVariants] | None = None
    ) -> None:
        self._stages = {} if stages is None else stages
        self._by_id: dict[int, Replica] = {}
        self._ids: dict[StageKey, list[int]] = {}
        self._matchings: dict[StageKey, tuple[tuple[ReplicaPlan, ...], Matching]] = {}
        self._newest = 0
        self.version = 0
        self.touched: set[int] = set()
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

    def device(self, replica: Replica) -> str:
        """The kind of device that a replica is on."""
        stage = self._stages.get((replica.service, replica.stage))
        return stage.device(replica.variants) if stage is not None else "cpu"

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
        self.touched.add(replica.replica_id)
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
            self.touched.add(replica_id)
            self.version += 1
        return replica

    def matching(self, key: StageKey, wanted: tuple[ReplicaPlan, ...]) -> Matching:
        """How the stage's replicas that are not on their way out cover `wanted`; remembered."""
        known = self._matchings.get(key)
        if known is not None and known[0] is wanted:
            return known[1]
        ids = self._ids.get(key, ())
        live = [replica for replica in map(self._by_id.__getitem__, ids) if replica.state != "draining"]
        matching = match(wanted, live, self._stages.get(key, _UNKNOWN).changes_in_place)
        self._matchings[key] = (wanted, matching)
        return matching


MayBecome = Callable[[Sequence[str], Sequence[str]], bool]
"""Whether a replica with the first variants can be given the second ones in place."""


def match(
    wanted: Sequence[ReplicaPlan], live: Sequence[Replica], may_become: MayBecome | None = None
) -> Matching:
    """Pair wanted replicas with live ones, which come by age, oldest first.

    Kept rather than given up: ready before starting, larger before smaller, older before younger. Ready ones
    stand for the largest wanted ones, because they get their cores at once, and starting ones for the next;
    within both, equal cores are paired first, so that the fewest are resized. One that is still starting is
    given other variants only if it will have one of those wanted.

    Args:
        wanted: by the plan.
        live: that are not on their way out.
        may_become: whether variants can be changed in place; None: they cannot.
    """
    cores = [plan.cores for plan in wanted]
    places_by = _by_kind([(plan.node, plan.variants) for plan in wanted])
    by_kind = _by_kind([(replica.node, replica.coming) for replica in live])
    live_by = {kind: [live[index] for index in indices] for kind, indices in by_kind.items()}
    kept: dict[int, int] = {}
    for places in places_by.values():
        places.sort(key=cores.__getitem__, reverse=True)  # equals stay in order
    for kind, places in places_by.items():
        if kind in live_by:
            places_by[kind], live_by[kind] = _cover(kept, cores, places, live_by[kind])
    if may_become is not None and any(places_by.values()) and any(live_by.values()):
        for one, other in _alike(places_by, live_by, may_become):
            there = live_by[other]
            if not set(one[1]).intersection(other[1]):
                there = [replica for replica in there if replica.state != "starting"]
            places_by[one], left = _cover(kept, cores, places_by[one], there)
            given = {replica.replica_id for replica in there} - {replica.replica_id for replica in left}
            live_by[other] = [replica for replica in live_by[other] if replica.replica_id not in given]
    missing = [place for places in places_by.values() for place in places]
    surplus = [replica for left in live_by.values() for replica in left]
    surplus.sort(key=lambda r: (r.state != "starting", r.cores_requested, -r.replica_id))
    return Matching(
        dict(sorted(kept.items())),
        tuple([wanted[place] for place in sorted(missing)]),
        tuple([replica.replica_id for replica in surplus]),
    )


def _alike(
    places_by: Mapping[Kind, Sequence[int]], live_by: Mapping[Kind, Sequence[Replica]], may_become: MayBecome
) -> list[tuple[Kind, Kind]]:
    """Kinds of which wanted and live ones are left that can be made alike: most in common, least to load."""
    pairs = [
        (one, other)
        for (one, places), (other, there) in product(places_by.items(), live_by.items())
        if places and there and one[0] == other[0] and may_become(other[1], one[1])
    ]

    def unlike(pair: tuple[Kind, Kind]) -> tuple[int, int]:
        one, other = set(pair[0][1]), set(pair[1][1])
        return -len(one & other), len(one - other)

    return sorted(pairs, key=unlike)


def _by_kind(ones: list[Kind]) -> dict[Kind, list[int]]:
    """Indices by node and resident variants, which need not be sorted; most stages have one kind."""
    if ones and ones.count(ones[0]) == len(ones):
        return {_sorted(ones[0]): list(range(len(ones)))}
    indices: dict[Kind, list[int]] = {}
    for index, one in enumerate(ones):
        indices.setdefault(_sorted(one), []).append(index)
    return indices


def _sorted(kind: Kind) -> Kind:
    node, variants = kind
    return kind if len(variants) == 1 else (node, tuple(sorted(variants)))


def _cover(
    kept: dict[int, int], cores: Sequence[float], places: list[int], there: Sequence[Replica]
) -> tuple[list[int], list[Replica]]:
    """Let replicas stand for places, which come largest first; what is left of both."""
    ready = [replica for replica in there if replica.state != "starting"]
    starting = [r for r in there if r.state == "starting"] if len(ready) < len(there) else []
    ready.sort(key=_REQUESTED, reverse=True)
    starting.sort(key=_REQUESTED, reverse=True)
    first, last = min(len(ready), len(places)), min(len(there), len(places))
    _pair(kept, cores, places[:first], ready[:first])
    _pair(kept, cores, places[first:last], starting[: last - first])
    return places[last:], [*ready[first:], *starting[last - first :]]


def _pair(
    kept: dict[int, int], cores: Sequence[float], places: Sequence[int], replicas: Sequence[Replica]
) -> None:
    """As many places as replicas, both largest first: equal cores first, the rest in this order."""
    if list(map(cores.__getitem__, places)) == list(map(_REQUESTED, replicas)):
        kept.update(zip(map(_ID, replicas), places, strict=True))
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
