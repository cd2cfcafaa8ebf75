"""What a policy gets to see: the latest windows of each service, and one picture of the cluster."""

from collections import deque
from collections.abc import Mapping
from math import floor

from steelyard.control.fleet import Fleet, Replica, match, of_stage
from steelyard.control.ledger import Ledger, quantise
from steelyard.core.plan import ServicePlan
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

    def add(self, window: ServiceWindow) -> None:
        """Take one window. It counts for the second that holds its middle; seconds without one count 0."""
        second = floor((window.from_s + window.to_s) / 2)
        if self._second is None:
            self._second = second
        if second > self._second:
            self._seconds.append(self._rows)
            self._seconds.extend([0] * min(second - self._second - 1, SECONDS_MAX))
            self._second, self._rows = second, 0
        self._rows += window.arrival_rows
        self._windows.append(window)

    @property
    def windows(self) -> tuple[ServiceWindow, ...]:
        """Oldest first."""
        return tuple(self._windows)

    @property
    def rows_by_second(self) -> tuple[int, ...]:
        """Rows that arrived in each whole second that has passed, oldest first."""
        return tuple(self._seconds)


def snapshot_of(
    sensed: Mapping[str, Sensed],
    desired: Mapping[str, ServicePlan],
    fleet: Fleet,
    ledger: Ledger,
    *,
    now_s: float,
    window_s: float,
) -> ClusterSnapshot:
    """The cluster at `now_s`."""
    free = free_cores(desired, fleet, ledger)
    nodes = tuple(
        NodeView(name, ledger.capacity(name), free[name], ledger.fractional(name)) for name in ledger.nodes
    )
    services = tuple(
        ServiceView(
            name,
            seen.windows,
            seen.rows_by_second,
            desired.get(name),
            tuple(_view(fleet[r]) for r in sorted(fleet) if fleet[r].service == name),
        )
        for name, seen in sensed.items()
    )
    return ClusterSnapshot(now_s, window_s, nodes, services)


def free_cores(desired: Mapping[str, ServicePlan], fleet: Fleet, ledger: Ledger) -> dict[str, float]:
    """Cores that nobody holds and nobody has been promised, by node."""
    promised = dict.fromkeys(ledger.nodes, 0.0)
    for replica in fleet.values():
        promised[replica.node] += max(ledger.cores(replica.replica_id), replica.cores_desired)
    for service, plan in desired.items():
        for stage, stage_plan in plan.stages.items():
            for lacking in match(stage_plan.replicas, of_stage(fleet, service, stage)).missing:
                promised[lacking.node] += lacking.cores
    return {node: max(0.0, quantise(ledger.capacity(node) - promised[node])) for node in promised}


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
    )
