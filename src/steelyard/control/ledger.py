"""Who holds which part of which core, and which devices: every core of every node, by id; devices by kind.

The rule: a core is never promised twice, with one exception. A replica that *starts* may overlap one core
with a running one that is about to shrink or to drain; both are charged until the running one has let go.
Anything else is our own bug, and `check` says so. Parts are counted in hundredths of a core (units), so that
sums are exact.

Cores that a replica gives up are freed when the backend has confirmed it (`ReplicaResized`, `ReplicaGone`),
cores that it gets are charged when they are asked for: between the two, nobody runs on a core that is not
his.

A device is held whole, by one replica, from its start until it is gone, parked or not: it has the replica's
memory. Devices of a kind are alike, so they are counted, not named.

What a core is charged with and what a replica holds are kept as sums beside the parts, because they are asked
for far more often than they change; `check` counts them again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from steelyard.core.snapshot import CoreShare

UNITS = 100
"""Parts that a core is counted in."""
CPU = "cpu"
"""The device of a replica that has cores and nothing beside them."""


def units_of(cores: float) -> int:
    """Cores in hundredths, rounded to the nearest."""
    return round(cores * UNITS)


def quantise(cores: float) -> float:
    """Cores as the ledger counts them: the nearest multiple of 0.01."""
    return units_of(cores) / UNITS


@dataclass(slots=True)
class _Node:
    """One node.

    Attributes:
        charge: units promised of each core.
        promised: units promised of all of them.
        held: units by replica and core.
        total: units by replica.
        guests: the core that a replica overlaps.
        devices: how many there are, by kind.
        device_of: the kind of the device that a replica holds; those that hold none are not in it.
    """

    core_ids: tuple[int, ...]
    fractional: bool
    charge: dict[int, int]
    promised: int = 0
    held: dict[int, dict[int, int]] = field(default_factory=dict)
    total: dict[int, int] = field(default_factory=dict)
    guests: dict[int, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    device_of: dict[int, str] = field(default_factory=dict)

    def copy(self) -> "_Node":
        held = {replica_id: dict(parts) for replica_id, parts in self.held.items()}
        charge, total, guests = dict(self.charge), dict(self.total), dict(self.guests)
        devices, device_of = dict(self.devices), dict(self.device_of)
        return _Node(
            self.core_ids, self.fractional, charge, self.promised, held, total, guests, devices, device_of
        )

    def free(self, core_id: int) -> int:
        return max(0, UNITS - self.charge[core_id])

    def put(self, replica_id: int, parts: dict[int, int]) -> None:
        """Let a replica hold these parts instead of those it held."""
        for core_id, units in self.held.get(replica_id, {}).items():
            self.charge[core_id] -= units
        for core_id, units in parts.items():
            self.charge[core_id] += units
        units = sum(parts.values())
        self.promised += units - self.total.get(replica_id, 0)
        self.held[replica_id] = parts
        self.total[replica_id] = units

    def drop(self, replica_id: int) -> None:
        """Let a replica hold nothing, and forget it."""
        self.put(replica_id, {})
        del self.held[replica_id], self.total[replica_id]
        self.guests.pop(replica_id, None)
        self.device_of.pop(replica_id, None)

    def has_free(self, device: str) -> bool:
        """Whether a device of that kind is there for one more replica; there is no end of `cpu`."""
        if device == CPU:
            return True
        taken = sum(kind == device for kind in self.device_of.values())
        return taken < self.devices.get(device, 0)

    def settle(self) -> None:
        """Forget overlaps that have ended because the host let go of the core."""
        if self.guests:
            self.guests = {r: c for r, c in self.guests.items() if self.charge[c] > UNITS}


class Ledger:
    """Cores of the nodes and who holds them. Deterministic: lowest core ids first, whole free cores first.

    Attributes:
        joined: how often a node has joined or told a new extent.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._node_of: dict[int, str] = {}
        self.joined = 0

    def join(
        self,
        node: str,
        core_ids: Sequence[int],
        *,
        fractional: bool,
        devices: Mapping[str, int] | None = None,
    ) -> None:
        """Add a node, or tell the new extent of a known one. Cores and devices that are held must stay."""
        self.joined += 1
        ids = tuple(sorted(set(core_ids)))
        known = self._nodes.get(node)
        if known is None:
            self._nodes[node] = _Node(ids, fractional, dict.fromkeys(ids, 0), devices=dict(devices or {}))
            return
        missing = {c for parts in known.held.values() for c in parts} - set(ids)
        assert not missing, f"node {node} withdrew cores {sorted(missing)} that are held"
        known.core_ids, known.fractional = ids, fractional
        known.charge = {core_id: known.charge.get(core_id, 0) for core_id in ids}
        known.devices = dict(devices or {})
        _check_devices(node, known)

    def copy(self) -> "Ledger":
        """An independent copy, to look at."""
        twin = Ledger()
        twin._nodes = {name: node.copy() for name, node in self._nodes.items()}
        twin._node_of = dict(self._node_of)
        twin.joined = self.joined
        return twin

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in the order they joined."""
        return tuple(self._nodes)

    @property
    def has_overlaps(self) -> bool:
        """Whether some replica shares a core with one that has not let go of it yet."""
        return any(node.guests for node in self._nodes.values())

    def capacity(self, node: str) -> float:
        """Cores of a node."""
        return float(len(self._nodes[node].core_ids))

    def fractional(self, node: str) -> bool:
        """Whether the node enforces parts of a core."""
        return self._nodes[node].fractional

    def devices(self, node: str) -> dict[str, int]:
        """Devices of a node, by kind."""
        return dict(self._nodes[node].devices)

    def free(self, node: str) -> float:
        """Cores of a node that nobody holds."""
        ledger = self._nodes[node]
        return sum(ledger.free(c) for c in ledger.core_ids) / UNITS

    def held_units(self, node: str) -> int:
        """What replicas hold of a node, overlaps counted twice, in hundredths of a core."""
        return self._nodes[node].promised

    def shares(self, replica_id: int) -> tuple[CoreShare, ...]:
        """What a replica holds, by core id; empty if nothing."""
        node = self._node_of.get(replica_id)
        return _as_shares(self._nodes[node].held[replica_id]) if node is not None else ()

    def cores(self, replica_id: int) -> float:
        """Cores a replica holds, overlap included."""
        node = self._node_of.get(replica_id)
        return self._nodes[node].total[replica_id] / UNITS if node is not None else 0.0

    def overlaps(self, replica_id: int) -> bool:
        """Whether a replica shares a core with one that has not let go of it yet."""
        node = self._node_of.get(replica_id)
        return node is not None and replica_id in self._nodes[node].guests

    def allocate(
        self, replica_id: int, node: str, cores: float, *, hosts: Sequence[int] = (), device: str = CPU
    ) -> tuple[CoreShare, ...] | None:
        """Charge a new replica with cores and a device; None, and nothing is charged, without them.

        Args:
            replica_id: not in the ledger yet.
            node: where.
            cores: >= 0; 0 for a replica that starts parked.
            hosts: running replicas about to let go of cores, in the order of preference: at most one core of
                one of them may be overlapped.
            device: the kind of device that it takes; one is free when its last replica is gone.
        """
        assert replica_id not in self._node_of, f"replica {replica_id} holds cores already"
        ledger = self._nodes[node]
        need = self._checked_units(ledger, cores)
        if not ledger.has_free(device):
            return None
        taken, missing = _take(ledger, need, {})
        guest_of = None
        if missing:
            guest_of = _overlappable(ledger, hosts, taken, missing)
            if guest_of is None:
                return None
            taken[guest_of] = taken.get(guest_of, 0) + missing
        self._node_of[replica_id] = node
        ledger.put(replica_id, taken)
        if device != CPU:
            ledger.device_of[replica_id] = device
        if guest_of is not None:
            ledger.guests[replica_id] = guest_of
        _check_cores(node, ledger, taken)
        return _as_shares(taken)

    def grow(self, replica_id: int, cores: float) -> tuple[CoreShare, ...] | None:
        """Charge a replica with more cores; None, and nothing changes, if they are not free."""
        node = self._node_of[replica_id]
        ledger = self._nodes[node]
        need = self._checked_units(ledger, cores) - ledger.total[replica_id]
        assert need >= 0, f"replica {replica_id} holds more than {cores} cores already"
        held = ledger.held[replica_id]
        taken, missing = _take(ledger, need, held)
        if missing:
            return None
        return self._add(node, replica_id, held, taken)

    def shrunk(self, replica_id: int, cores: float) -> tuple[CoreShare, ...]:
        """What a replica would keep with fewer cores. Nothing is freed before `hold` is told so.

        Gives up first what a guest overlaps, then the smallest parts, then the highest core ids.
        """
        ledger = self._nodes[self._node_of[replica_id]]
        kept = dict(ledger.held[replica_id])
        surplus = ledger.total[replica_id] - self._checked_units(ledger, cores)
        assert surplus >= 0, f"replica {replica_id} holds fewer than {cores} cores"
        guests = {c for r, c in ledger.guests.items() if r != replica_id}
        for core_id in sorted(kept, key=lambda c: (c not in guests, kept[c], -c)):
            given = min(surplus, kept[core_id])
            if core_id in guests:
                given = min(given, max(0, ledger.charge[core_id] - UNITS))
            surplus -= given
            kept[core_id] -= given
        for core_id in sorted(kept, key=lambda c: (kept[c], -c)):
            given = min(surplus, kept[core_id])
            surplus -= given
            kept[core_id] -= given
        return _as_shares(kept)

    def hold(self, replica_id: int, shares: Sequence[CoreShare]) -> None:
        """Set what a replica holds to what the backend says it holds."""
        node = self._node_of[replica_id]
        ledger = self._nodes[node]
        parts = {share.core_id: units_of(share.fraction) for share in shares}
        ledger.put(replica_id, parts)
        ledger.settle()
        _check_cores(node, ledger, parts)

    def move(self, replica_id: int) -> tuple[CoreShare, ...] | None:
        """Take a guest off the core it overlaps if there are free ones; what it is to hold, or None.

        Old and new cores are both charged until `hold` is told which it is: a move can be refused.
        """
        node = self._node_of[replica_id]
        ledger = self._nodes[node]
        core_id = ledger.guests.get(replica_id)
        if core_id is None:
            return None
        held = ledger.held[replica_id]
        excess = min(ledger.charge[core_id] - UNITS, held[core_id]) if ledger.fractional else held[core_id]
        wanted = {c: units - excess if c == core_id else units for c, units in held.items()}
        taken, missing = _take(ledger, excess, {c: u for c, u in wanted.items() if c != core_id})
        if missing:
            return None
        for other, units in taken.items():
            wanted[other] = wanted.get(other, 0) + units
        self._add(node, replica_id, held, taken)
        return _as_shares(wanted)

    def release(self, replica_id: int) -> None:
        """Free all that a replica held; it is gone."""
        node = self._node_of.pop(replica_id, None)
        if node is not None:
            self._nodes[node].drop(replica_id)
            self._nodes[node].settle()

    def check(self) -> None:
        """Assert the rule of this module, and that the sums are the sums."""
        for name, ledger in self._nodes.items():
            hosts = list(ledger.guests.values())
            assert len(hosts) == len(set(hosts)), f"two guests on one core of {name}"
            _check_cores(name, ledger, ledger.core_ids)
            _check_devices(name, ledger)
            for core_id in ledger.core_ids:
                parts = sum(held.get(core_id, 0) for held in ledger.held.values())
                assert parts == ledger.charge[core_id], f"core {core_id} of {name}: {parts} % held"
            assert ledger.promised == sum(ledger.total.values()), f"{ledger.promised} % of {name} promised"
            for replica_id, held in ledger.held.items():
                assert sum(held.values()) == ledger.total[replica_id], f"replica {replica_id}: {held}"

    def _add(
        self, node: str, replica_id: int, held: dict[int, int], taken: dict[int, int]
    ) -> tuple[CoreShare, ...]:
        """Charge a replica with `taken` on top of what it holds; all of it."""
        parts = dict(held)
        for core_id, units in taken.items():
            parts[core_id] = parts.get(core_id, 0) + units
        self._nodes[node].put(replica_id, parts)
        _check_cores(node, self._nodes[node], taken)
        return _as_shares(parts)

    def _checked_units(self, ledger: _Node, cores: float) -> int:
        units = units_of(cores)
        assert units >= 0, f"negative cores: {cores}"
        assert ledger.fractional or units % UNITS == 0, f"{cores} cores on a node without parts of a core"
        return units


def _check_cores(name: str, ledger: _Node, core_ids: Iterable[int]) -> None:
    """Assert the rule for some cores of a node."""
    guest_on = {core_id: replica_id for replica_id, core_id in ledger.guests.items()}
    for core_id in core_ids:
        charge = ledger.charge[core_id]
        guest = ledger.held[guest_on[core_id]][core_id] if core_id in guest_on else 0
        assert charge - guest <= UNITS, f"core {core_id} of {name} is promised {charge} %"
        assert guest <= UNITS, f"a guest holds {guest} % of core {core_id} of {name}"


def _check_devices(name: str, ledger: _Node) -> None:
    """Assert that no kind of device is held more often than there are, and by replicas only."""
    for kind in set(ledger.device_of.values()):
        taken = sum(held == kind for held in ledger.device_of.values())
        assert taken <= ledger.devices.get(kind, 0), f"{taken} devices {kind} of {name} are held"
    assert ledger.device_of.keys() <= ledger.held.keys(), f"devices {ledger.device_of} of {name}"


def _take(ledger: _Node, need: int, own: dict[int, int]) -> tuple[dict[int, int], int]:
    """Choose `need` units of free cores; what was chosen by core id, and what is missing.

    First what completes a core held in part, then whole free cores, then the smallest remainder that
    suffices, then, if nothing suffices in one piece, the largest pieces.
    """
    charge = ledger.charge
    taken: dict[int, int] = {}

    def free(core_id: int) -> int:
        return max(0, UNITS - charge.get(core_id, UNITS)) - taken.get(core_id, 0)

    def take(core_id: int, units: int) -> int:
        if units:
            taken[core_id] = taken.get(core_id, 0) + units
        return units

    for core_id in sorted(own):
        need -= take(core_id, min(need, free(core_id)))
    for core_id in ledger.core_ids:
        if need < UNITS:
            break
        if not charge[core_id] and core_id not in taken:
            need -= take(core_id, UNITS)
    if need and ledger.fractional:
        fitting = [c for c in ledger.core_ids if free(c) >= need]
        if fitting:
            need -= take(min(fitting, key=lambda c: (free(c), c)), need)
        for core_id in sorted(ledger.core_ids, key=lambda c: (-free(c), c)):
            need -= take(core_id, min(need, free(core_id)))
    return taken, need


def _overlappable(ledger: _Node, hosts: Sequence[int], taken: dict[int, int], missing: int) -> int | None:
    """The core on which a starting replica may overlap a host with what it is missing, or None."""
    if missing > UNITS:
        return None
    occupied = set(ledger.guests.values())
    for host in hosts:
        parts = ledger.held.get(host, {})
        for core_id in sorted(parts, key=lambda c: (-parts[c], -c)):
            if (
                core_id not in occupied
                and host not in ledger.guests
                and taken.get(core_id, 0) + missing <= UNITS
            ):
                return core_id
    return None


def _as_shares(parts: dict[int, int]) -> tuple[CoreShare, ...]:
    return tuple(CoreShare(core_id, parts[core_id] / UNITS) for core_id in sorted(parts) if parts[core_id])
