"""Proteus (Ahmad et al., ASPLOS 2024): which variant each device of a cluster hosts, and who answers what.

Devices of one kind are alike, and a variant belongs to one family (a service), so it is enough to count. With
X(t, j) devices of kind t that host variant j of family k, F(j) rows a second answered by it, p(j) what one
device answers, s(k) the demand and u(k) what is not served:

    maximise    sum of A(j) F(j) - UNSERVED sum of u(k) - change x sum of C(j)
    subject to  F(j) <= p(j) X(j)
                sum of F(j) over family k = s(k) - u(k)
                sum of X(j) over kind t <= N(t)
                C(j) >= X(j) - how many host j already   (of a family and kind if `hosts_families`)
                sum of X(j) over kind t and family k <= what a fixed placement gives it, if there is one
                sum of X(j) over family k >= 1, as far as there are devices

It is linear. The authors' program has a 0/1 variable for each device and variant, a bilinear term for each
share, and is solved again with less demand where there is no solution; here that is u. Two things are ours:
C, by which of plans that are worth nearly the same the one that changes fewest devices is taken (`change` 0
leaves it out), and that no family is left without a device for the others' sake (`serves_all`).

What the optimum does not use is not idle: `spread` gives it to the families that are closest to their limit.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import ceil
from typing import NamedTuple

from steelyard.core.types import Frozen
from steelyard.plan.linear import GAP, INFINITY, TREE_NODES_MAX, Program

UNSERVED = 100.0
"""Accuracy that a row which is not served costs: serving comes before accuracy."""
CHANGE = 0.01
"""What it costs to change all devices, in accuracy of the whole demand."""
_ROUNDING = 1e-6

Key = tuple[str, str]
"""(family, variant)."""


class Hosted(Frozen, frozen=True):
    """A variant on the kind of device that it is for.

    Attributes:
        name: unique in its family.
        kind: of device.
        accuracy: in [0, 1], comparable across families.
        rate_rps: rows a second of one device, > 0.
    """

    name: str
    kind: str
    accuracy: float
    rate_rps: float


class Family(Frozen, frozen=True):
    """A service: its demand in rows a second, and what can answer it within its SLO."""

    name: str
    demand_rps: float
    variants: tuple[Hosted, ...]


class ProteusProblem(Frozen, frozen=True):
    """One cluster at one demand.

    Attributes:
        families: in any order.
        devices: how many there are of each kind.
        present: how many devices host a variant now, by family and variant.
        change: what it costs to change all devices, in accuracy; while nothing is present, nothing.
        placement: devices by kind and family that may not be exceeded, if it is fixed.
        hosts_families: a device has its family's variants at hand: only another family is a change.
        serves_all: every family with demand has a device, as far as there are devices.
    """

    families: tuple[Family, ...]
    devices: dict[str, int]
    present: dict[Key, int] = {}
    change: float = CHANGE
    placement: dict[tuple[str, str], int] | None = None
    hosts_families: bool = False
    serves_all: bool = True

    @property
    def demand_rps(self) -> float:
        """Of all families."""
        return sum((family.demand_rps for family in self.families), 0.0)

    def keyed(self) -> dict[Key, Hosted]:
        """Every variant by family and name."""
        return {(family.name, one.name): one for family in self.families for one in family.variants}


class Hosting(Frozen, frozen=True):
    """A plan for the cluster.

    Attributes:
        counts: devices that host each variant.
        flows_rps: rows a second that each variant is to answer.
        unserved_rps: by family; those that are served are not in it.
        accuracy: mean of what is served; 0 if nothing is.
        bound: no plan has a larger objective a row of demand: `accuracy` is at most this where all is served.
    """

    counts: dict[Key, int]
    flows_rps: dict[Key, float]
    unserved_rps: dict[str, float]
    accuracy: float
    bound: float = INFINITY


class Slot(NamedTuple):
    """A place for one replica: a device of a node, and what it hosts now."""

    node: str
    kind: str
    present: Key | None


def solve(problem: ProteusProblem, *, tree_nodes_max: int = TREE_NODES_MAX, gap: float = GAP) -> Hosting:
    """The most accurate hosting that serves as much as can be served; only devices with rows to answer.

    Raises:
        SteelyardError: highspy is not installed.
    """
    program = Program()
    keyed, scale = problem.keyed(), 1.0 / max(problem.demand_rps, _ROUNDING)
    flow = {key: program.column(one.accuracy * scale) for key, one in keyed.items()}
    count = {
        key: program.column(whole=True, most=problem.devices.get(one.kind, 0)) for key, one in keyed.items()
    }
    for key, one in keyed.items():
        program.row({flow[key]: 1.0, count[key]: -one.rate_rps}, most=0.0)
    for family in problem.families:
        own = {flow[family.name, one.name]: 1.0 for one in family.variants}
        own[program.column(-UNSERVED * scale)] = 1.0
        program.row(own, least=family.demand_rps, most=family.demand_rps)
        if problem.serves_all and family.demand_rps > 0:
            some = {count[family.name, one.name]: 1.0 for one in family.variants}
            some[program.column(-UNSERVED, most=1.0)] = 1.0
            program.row(some, least=1.0)
    for kind, there in problem.devices.items():
        program.row({count[key]: 1.0 for key, one in keyed.items() if one.kind == kind}, most=there)
        for family in problem.families if problem.placement is not None else ():
            own = {count[family.name, one.name]: 1.0 for one in family.variants if one.kind == kind}
            program.row(own, most=(problem.placement or {}).get((kind, family.name), 0))
    each = problem.change / max(1, sum(problem.devices.values()))
    for alike in _alike(problem) if problem.present and each else ():
        row = {count[key]: -1.0 for key in alike}
        row[program.column(-each)] = 1.0
        program.row(row, least=-float(sum(problem.present.get(key, 0) for key in alike)))
    answer = program.solve(tree_nodes_max=tree_nodes_max, gap=gap)
    assert answer is not None, "serving nobody is a solution"
    flows = {key: max(0.0, answer.values[index]) for key, index in flow.items()}
    counts = {key: ceil(flows[key] / one.rate_rps - _ROUNDING) for key, one in keyed.items()}
    return hosting_of(problem, {key: number for key, number in counts.items() if number}, answer.bound)


def spread(problem: ProteusProblem, hosting: Hosting) -> Hosting:
    """The same with every device in use, where a family can use it without losing accuracy.

    One by one, a device that is left goes to the family that is closest to its limit, with the most accurate
    variant that the device can host, if that is no less accurate than what answers the family now; one that
    hosts such a variant already keeps it.
    """
    counts = dict(hosting.counts)
    keyed = problem.keyed()
    left = {
        kind: there - sum(n for key, n in counts.items() if keyed[key].kind == kind)
        for kind, there in problem.devices.items()
    }
    for kind, free in left.items():
        for _ in range(free):
            key = _neediest(problem, counts, kind)
            if key is None:
                break
            counts[key] = counts.get(key, 0) + 1
    return hosting_of(problem, counts, hosting.bound)


def assign(counts: Mapping[Key, int], kinds: Mapping[Key, str], slots: Sequence[Slot]) -> list[Key | None]:
    """What each slot is to host, with the fewest changes; None for a slot that is not needed.

    A slot keeps what it hosts as long as that is wanted. No assignment keeps more, since of variant j at most
    min(wanted, hosting) slots can keep it, and so many do; the others are alike, whatever they take.
    """
    left = dict(counts)
    hosts: list[Key | None] = []
    for slot in slots:
        keeps = slot.present is not None and left.get(slot.present, 0) > 0
        if keeps and slot.present is not None:
            left[slot.present] -= 1
        hosts.append(slot.present if keeps else None)
    waiting: dict[str, list[Key]] = {}
    for key, number in left.items():
        waiting.setdefault(kinds[key], []).extend([key] * number)
    for index, slot in enumerate(slots):
        if hosts[index] is None and waiting.get(slot.kind):
            hosts[index] = waiting[slot.kind].pop(0)
    return hosts


def capacity_rps(problem: ProteusProblem, counts: Mapping[Key, int]) -> dict[str, float]:
    """Rows a second that each family's devices can answer."""
    keyed = problem.keyed()
    return {
        family.name: sum((n * keyed[key].rate_rps for key, n in counts.items() if key[0] == family.name), 0.0)
        for family in problem.families
    }


def flows_rps(family: Family, counts: Mapping[Key, int]) -> dict[Key, float]:
    """A family's demand on what its devices host: the most accurate are filled first, equals evenly.

    With the devices given, this is the optimum of the program above.
    """
    used = [one for one in family.variants if counts.get((family.name, one.name), 0)]
    ordered = sorted(used, key=lambda one: -one.accuracy)
    flows: dict[Key, float] = {}
    left = family.demand_rps
    for _, equals in groupby(ordered, key=lambda one: one.accuracy):
        level = [(one, counts[family.name, one.name] * one.rate_rps) for one in equals]
        room = sum((rate for _, rate in level), 0.0)
        taken = min(left, room)
        flows |= {(family.name, one.name): taken * rate / room for one, rate in level}
        left -= taken
    return flows


def hosting_of(problem: ProteusProblem, counts: dict[Key, int], bound: float = INFINITY) -> Hosting:
    """What these devices can do, each family on its most accurate ones first."""
    flows: dict[Key, float] = {}
    unserved: dict[str, float] = {}
    for family in problem.families:
        own = flows_rps(family, counts)
        flows |= own
        lacking = family.demand_rps - sum(own.values(), 0.0)
        if lacking > _ROUNDING * max(1.0, family.demand_rps):
            unserved[family.name] = lacking
    served, keyed = sum(flows.values(), 0.0), problem.keyed()
    weighted = sum((rate * keyed[key].accuracy for key, rate in flows.items()), 0.0)
    return Hosting(counts, flows, unserved, weighted / served if served else 0.0, bound)


def _alike(problem: ProteusProblem) -> Iterable[list[Key]]:
    """Variants among which a device changes for nothing."""
    groups: dict[tuple[str, ...], list[Key]] = {}
    for key, one in problem.keyed().items():
        groups.setdefault((key[0], one.kind) if problem.hosts_families else key, []).append(key)
    return groups.values()


def _neediest(problem: ProteusProblem, counts: Mapping[Key, int], kind: str) -> Key | None:
    """Who takes one more device of a kind, and with which variant; None if that helps nobody."""
    carried = capacity_rps(problem, counts)
    among = []
    for family in problem.families:
        own = [
            one for one in family.variants if one.kind == kind and _may_host(problem, family, kind, counts)
        ]
        answering = [one.accuracy for one in family.variants if counts.get((family.name, one.name), 0)]
        if own and family.demand_rps > 0:
            best = max(own, key=lambda one: (one.accuracy, one.rate_rps))
            if best.accuracy >= min(answering, default=0.0):
                load = family.demand_rps / carried[family.name] if carried[family.name] else float("inf")
                among.append((load, family.name, _settled(problem, family, best, own, counts)))
    if not among:
        return None
    _, name, variant = max(among, key=lambda one: one[0])
    return name, variant


def _may_host(problem: ProteusProblem, family: Family, kind: str, counts: Mapping[Key, int]) -> bool:
    """Whether a fixed placement has a device of that kind left for the family."""
    if problem.placement is None:
        return True
    there = sum(counts.get((family.name, one.name), 0) for one in family.variants if one.kind == kind)
    return there < problem.placement.get((kind, family.name), 0)


def _settled(
    problem: ProteusProblem, family: Family, best: Hosted, own: Iterable[Hosted], counts: Mapping[Key, int]
) -> str:
    """The variant for one more device: one as accurate that a device hosts already, else the best."""
    for one in own:
        key = (family.name, one.name)
        if one.accuracy >= best.accuracy and problem.present.get(key, 0) > counts.get(key, 0):
            return one.name
    return best.name
