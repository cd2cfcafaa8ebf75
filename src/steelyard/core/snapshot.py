"""What a policy sees: one immutable picture of the cluster, built once a sensing window.

Three words are kept apart (glossary): *desired* is the plan's, *requested* is what the backend was asked for,
*observed* is what was seen. A replica's `cores` are the observed ones.
"""

from typing import Literal, NamedTuple

from steelyard.core.plan import ServicePlan
from steelyard.core.types import Frozen

ReplicaState = Literal["starting", "ready", "parked", "draining"]


class CoreShare(NamedTuple):
    """A part of one physical core: `fraction` in (0, 1]."""

    core_id: int
    fraction: float


class BusyCell(NamedTuple):
    """Batches run in a window at one operating point, and the seconds their replica was busy."""

    stage: str
    variant: str
    rows: int
    cores: float
    batches: int
    busy_s: float


class ItemCell(NamedTuple):
    """Items that `stage` was given in a window: of `rows` rows that `variant` of their maker made."""

    stage: str
    variant: str
    rows: int
    items: int


class StageWindow(Frozen, frozen=True):
    """One stage at the end of a window: what waits, how urgent it is, what runs."""

    stage: str
    queue_requests: int
    queue_rows: int
    head_slack_s: float | None
    in_flight_rows: int
    service_ratio: float = 1.0
    """Live correction of the profile: observed over profiled service time, averaged over recent batches."""
    fan_out: float | None = None
    """Rows that it is given for each row of a request, as counted lately; None: as planned (`Stage`)."""


class ServiceWindow(Frozen, frozen=True):
    """What one service saw during `[from_s, to_s)`; counts are requests unless they say rows.

    `requests = completed + shed + rejected + failed + cancelled` holds over a whole run, not over one window:
    a request that arrives in one window may end in a later one. `late` is part of `completed`.
    `budget_s_min` is the least latency that a request which arrived had left, None without arrivals: the SLO,
    or less where a request brought a bound of its own or lost time on its way here.
    """

    service: str
    from_s: float
    to_s: float
    arrivals: int
    arrival_rows: int
    completed: int
    late: int
    shed: int
    rejected: int
    failed: int
    cancelled: int
    stages: tuple[StageWindow, ...]
    busy: tuple[BusyCell, ...] = ()
    budget_s_min: float | None = None
    items: tuple[ItemCell, ...] = ()


class ReplicaView(Frozen, frozen=True):
    """One replica as the control plane knows it.

    Attributes:
        cores: observed; of a starting replica, those it was started with.
        cores_desired: the plan's.
        cores_requested: asked of the backend.
        expected_ready_s: for a starting replica, absolute.
        throttled_ratio: share of its quota periods that were throttled in the last window; 0 without a quota.
        loading: variants that were asked for and are not resident yet.
    """

    replica_id: int
    service: str
    stage: str
    node: str
    state: ReplicaState
    cores: float
    cores_desired: float
    cores_requested: float
    variants: tuple[str, ...]
    started_s: float
    expected_ready_s: float | None = None
    throttled_ratio: float = 0.0
    loading: tuple[str, ...] = ()


class NodeView(Frozen, frozen=True):
    """One node: `cores_free` are promised to nobody; `fractional` if it enforces parts of a core.

    `devices` are those it has, by kind (a replica on one takes all of it, and its cores beside);
    `memory_bytes` is what its replicas may take together, 0 where nobody knows.
    """

    name: str
    cores: float
    cores_free: float
    fractional: bool = False
    devices: dict[str, int] = {}
    memory_bytes: int = 0


class ServiceView(Frozen, frozen=True):
    """One service: its latest windows (oldest first), counts by whole second (oldest first), and its plan."""

    service: str
    windows: tuple[ServiceWindow, ...]
    arrival_rows_by_second: tuple[int, ...]
    desired: ServicePlan | None
    replicas: tuple[ReplicaView, ...]


class ClusterSnapshot(Frozen, frozen=True):
    """Everything a policy may look at, at `now_s`."""

    now_s: float
    window_s: float
    nodes: tuple[NodeView, ...]
    services: tuple[ServiceView, ...]
