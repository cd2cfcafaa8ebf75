"""What a policy gets to see: the latest windows of each service, and one picture of the cluster.

Pictures are taken ten times a second and mostly differ in one window, so what has not changed since the last
one is not built again.
"""

from collections import deque
from collections.abc import Iterable
from math import floor

from steelyard.control.desired import Desired
from steelyard.control.fleet import Fleet
from steelyard.control.ledger import UNITS, Ledger, units_of
from steelyard.control.memory import Memory
from steelyard.control.replica import Replica
from steelyard.core.snapshot import (
    ClusterSnapshot,
    NodeView,
    ReplicaView,
    ServiceView,
    ServiceWindow,
)

WINDOWS_MAX = 50
"""Windows that a snapshot shows: 5 s of 100 ms."""
SECONDS_MAX = 120
"""Whole seconds that a snapshot shows."""


class Sensed:
    """The latest windows of one service, and its arrivals by whole second of the clock."""

    def __init__(self) -> None:
        self._windows: deque[ServiceWindow] = deque(maxlen=WINDOWS_MAX)
        self._seconds: deque[int] = deque(maxlen=SECONDS_MAX)
        self._second: int | None = None
        self._rows = 0
        self._rows_by_second: tuple[int, ...] | None = ()

    def add(self, window: ServiceWindow) -> None:
        """Take one window. It counts for the second that holds its middle; seconds without one count 0."""
        second = floor((window.from_s + window.to_s) / 2)
        if self._second is None:
            self._second = second
        if second > self._second:
            self._seconds.append(self._rows)
            self._seconds.extend([0] * min(second - self._second - 1, SECONDS_MAX))
            self._second, self._rows = second, 0
            self._rows_by_second = None
        self._rows += window.arrival_rows
        self._windows.append(window)

    @property
    def windows(self) -> tuple[ServiceWindow, ...]:
        """Oldest first."""
        return tuple(self._windows)

    @property
    def rows_by_second(self) -> tuple[int, ...]:
        """Rows that arrived in each whole second that has passed, oldest first."""
        if self._rows_by_second is None:
            self._rows_by_second = tuple(self._seconds)
        return self._rows_by_second


class Picture:
    """The cluster as policies see it.

    Args:
        services: their names, in the order in which they are shown.
        desired: what is wanted; looked at, as are the next three.
        fleet: the replicas.
        ledger: the nodes.
        memory: theirs.
        window_s: length of a sensing window, seconds.
    """

    def __init__(
        self,
        services: Iterable[str],
        desired: Desired,
        fleet: Fleet,
        ledger: Ledger,
        memory: Memory,
        *,
        window_s: float,
    ) -> None:
        self.sensed = {name: Sensed() for name in services}
        self.hidden: set[str] = set()
        """Services that are not to be planned for."""
        self._desired = desired
        self._fleet = fleet
        self._ledger = ledger
        self._memory = memory
        self._window_s = window_s
        self._views: dict[str, dict[int, ReplicaView]] = {name: {} for name in self.sensed}
        self._replicas: dict[str, tuple[ReplicaView, ...]] = dict.fromkeys(self.sensed, ())
        self._nodes: tuple[NodeView, ...] = ()
        self._nodes_of = (0, 0, 0)
        self._joined = 0
        self._free: dict[str, float] = {}

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes, and the cores of them that nobody holds and nobody has been promised.

        The very same tuple as long as nothing has changed.
        """
        joined = self._ledger.joined
        version = (self._fleet.version, self._desired.version, joined)
        if self._nodes_of == version:
            return self._nodes
        self._nodes_of = version
        free = free_cores(self._desired, self._fleet, self._ledger)
        if free != self._free or joined != self._joined:
            self._free, self._joined = free, joined
            self._nodes = tuple(
                NodeView(
                    name,
                    self._ledger.capacity(name),
                    free[name],
                    self._ledger.fractional(name),
                    self._ledger.devices(name),
                    self._memory.capacity(name),
                )
                for name in self._ledger.nodes
            )
        return self._nodes

    def snapshot(self, *, now_s: float) -> ClusterSnapshot:
        """The cluster at `now_s`."""
        if self._fleet.touched:
            self._look_at_replicas()
        plans = self._desired.plans
        services = tuple(
            [
                ServiceView(name, seen.windows, seen.rows_by_second, plans.get(name), self._replicas[name])
                for name, seen in self.sensed.items()
                if name not in self.hidden
            ]
        )
        return ClusterSnapshot(now_s, self._window_s, self.nodes, services)

    def _look_at_replicas(self) -> None:
        """Of those that have changed; new ones are the newest, so that all stay in the order of their ids."""
        changed: set[str] = set()
        for replica_id in sorted(self._fleet.touched):
            replica = self._fleet.get(replica_id)
            if replica is not None:
                self._views[replica.service][replica_id] = _view(replica)
                changed.add(replica.service)
                continue
            for name, views in self._views.items():
                if views.pop(replica_id, None) is not None:
                    changed.add(name)
        self._fleet.touched.clear()
        for name in changed:
            self._replicas[name] = tuple(self._views[name].values())


def free_cores(desired: Desired, fleet: Fleet, ledger: Ledger) -> dict[str, float]:
    """Cores that nobody holds and nobody has been promised, by node.

    Promised are those that replicas are still to be given, and those of wanted replicas that are missing.
    """
    promised = {node: ledger.held_units(node) for node in ledger.nodes}
    for replica_id in fleet.wanting:
        replica = fleet[replica_id]
        lacking = units_of(replica.cores_desired) - units_of(ledger.cores(replica_id))
        promised[replica.node] += max(0, lacking)
    for service, plan in desired.plans.items():
        for stage, stage_plan in plan.stages.items():
            for missing in fleet.matching((service, stage), stage_plan.replicas).missing:
                promised[missing.node] += units_of(missing.cores)
    return {node: max(0, units_of(ledger.capacity(node)) - units) / UNITS for node, units in promised.items()}


def _view(replica: Replica) -> ReplicaView:
    return ReplicaView(
        replica.replica_id,
        replica.service,
        replica.stage,
        replica.node,
        replica.state,
        replica.cores,
        replica.cores_desired,
        replica.cores_requested,
        replica.variants,
        replica.started_s,
        replica.expected_ready_s,
        replica.throttled_ratio,
        replica.loading,
    )
