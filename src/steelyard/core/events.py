"""Facts that a machine is told, in the past tense. Every mutation of a machine is one of these.

`ServiceEvent`s go to a `ServiceMachine`, `ControlEvent`s to the `ControlMachine`, and the replica's life goes
to both. Each is a tagged struct: the journal, the links and the tests share one codec.
"""

from steelyard.core.plan import Decision, ServicePlan
from steelyard.core.snapshot import CoreShare, ServiceWindow
from steelyard.core.types import Frozen, Request, RequestId, Tensor


class RequestArrived(Frozen, frozen=True, tag="request_arrived"):
    """The edge has read a whole, valid request."""

    request: Request


class RequestCancelled(Frozen, frozen=True, tag="request_cancelled"):
    """The client went away before its answer."""

    request_id: RequestId


class BatchCompleted(Frozen, frozen=True, tag="batch_completed"):
    """A worker finished a batch. Times are the worker's own, on the same monotonic clock.

    `outputs` hold the whole batch, in the order of `RunBatch.slices`; a request's part is its rows of each.
    `items` are the items of each row of the batch, by the stage that takes them (after its condition); an
    output that is items is named `output@stage` for a stage that takes only some of them.
    """

    batch_id: int
    replica_id: int
    started_s: float
    finished_s: float
    outputs: tuple[Tensor, ...] = ()
    items: dict[str, tuple[int, ...]] = {}


class BatchFailed(Frozen, frozen=True, tag="batch_failed", omit_defaults=True):
    """The model raised, or answered with the wrong rows; the worker lives.

    `is_input`: one of its requests is to blame, whose input the model does not take.
    """

    batch_id: int
    replica_id: int
    message: str
    is_input: bool = False


class ReplicaStarted(Frozen, frozen=True, tag="replica_started"):
    """A replica was asked for and is starting; it counts in admission from `expected_ready_s` on."""

    replica_id: int
    stage: str
    node: str
    cores: float
    variants: tuple[str, ...]
    expected_ready_s: float
    service: str = ""


class ReplicaReady(Frozen, frozen=True, tag="replica_ready"):
    """A replica has its variants loaded and warmed up, and takes batches."""

    replica_id: int
    stage: str
    node: str
    cores: float
    variants: tuple[str, ...]
    service: str = ""
    cold_start_s: float = 0.0


class ReplicaResized(Frozen, frozen=True, tag="replica_resized"):
    """The cores of a live replica were changed in place; 0 parks it, and more than 0 wakes it."""

    replica_id: int
    cores: float
    call_s: float = 0.0


class ReplicaDraining(Frozen, frozen=True, tag="replica_draining"):
    """A replica was chosen to go: it takes no further batch and stops when it is idle."""

    replica_id: int


class ReplicaGone(Frozen, frozen=True, tag="replica_gone"):
    """A replica's worker has ended: stopped as asked, or lost (`expected` false), or never became ready.

    `is_stuck`: it was ended because its batch did not end; one of that batch's requests is to blame.
    """

    replica_id: int
    expected: bool
    reason: str = ""
    is_stuck: bool = False


class VariantLoaded(Frozen, frozen=True, tag="variant_loaded"):
    """A further variant is resident in a replica."""

    replica_id: int
    variant: str


class VariantUnloaded(Frozen, frozen=True, tag="variant_unloaded"):
    """A variant is not resident in a replica: unloaded as asked, or not loaded, and `reason` says why."""

    replica_id: int
    variant: str
    reason: str = ""


class PlanPublished(Frozen, frozen=True, tag="plan_published"):
    """The service's rules from now on; replicas come and go by their own events."""

    plan: ServicePlan


class CapacityChanged(Frozen, frozen=True, tag="capacity_changed"):
    """Cores that the control plane could grant this service now; admission counts on them."""

    cores_grantable: float


class WindowClosed(Frozen, frozen=True, tag="window_closed"):
    """A sensing window has ended."""


class Woken(Frozen, frozen=True, tag="woken"):
    """The time asked for by `WakeAt` has come."""


class ServiceDraining(Frozen, frozen=True, tag="service_draining"):
    """The server is stopping: admit nothing more, finish what is queued."""


class ServiceResumed(Frozen, frozen=True, tag="service_resumed"):
    """A service that was draining, or drained, is served again."""


class ServiceUnloaded(Frozen, frozen=True, tag="service_unloaded"):
    """A drained service is to give up its replicas, and to be planned for no more."""

    service: str


class ServiceLoaded(Frozen, frozen=True, tag="service_loaded"):
    """A service that was unloaded is to be planned for again."""

    service: str


class WindowReported(Frozen, frozen=True, tag="window_reported"):
    """A service's sensing window reached the control plane."""

    window: ServiceWindow


class Solved(Frozen, frozen=True, tag="solved"):
    """The policy's `decide` has answered; `solve_s` is how long it took (declared, in a simulation)."""

    solve_id: int
    decision: Decision
    solve_s: float


class SolveFailed(Frozen, frozen=True, tag="solve_failed"):
    """The policy's `decide` raised or ran over its limit; the desired state stays."""

    solve_id: int
    message: str


class NodeJoined(Frozen, frozen=True, tag="node_joined"):
    """A node offers its cores, by id, and devices, by kind; `fractional` if it enforces parts of a core.

    `memory_bytes` is what replicas may take; 0 where nobody knows.
    """

    node: str
    core_ids: tuple[int, ...]
    fractional: bool = False
    devices: dict[str, int] = {}
    memory_bytes: int = 0


class ReplicaThrottled(Frozen, frozen=True, tag="replica_throttled"):
    """Share of quota periods in which a replica was throttled since the last report."""

    replica_id: int
    throttled_ratio: float


class ResizeRefused(Frozen, frozen=True, tag="resize_refused"):
    """The backend could not change the cores; `shares` still hold."""

    replica_id: int
    shares: tuple[CoreShare, ...]
    reason: str


ReplicaEvent = (
    ReplicaStarted
    | ReplicaReady
    | ReplicaResized
    | ReplicaDraining
    | ReplicaGone
    | VariantLoaded
    | VariantUnloaded
)
ServiceEvent = (
    RequestArrived
    | RequestCancelled
    | BatchCompleted
    | BatchFailed
    | ReplicaEvent
    | PlanPublished
    | CapacityChanged
    | WindowClosed
    | Woken
    | ServiceDraining
    | ServiceResumed
)
ControlEvent = (
    WindowReported
    | ServiceUnloaded
    | ServiceLoaded
    | Solved
    | SolveFailed
    | NodeJoined
    | ReplicaThrottled
    | ResizeRefused
    | ReplicaReady
    | ReplicaResized
    | ReplicaGone
    | VariantLoaded
    | VariantUnloaded
    | Woken
)
Event = ServiceEvent | ControlEvent
