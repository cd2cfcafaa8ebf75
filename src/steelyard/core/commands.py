"""What a machine wants done, in the imperative. A driver carries commands out in the order given.

A request's life ends in exactly one of `Complete`, `Reject`, `Shed`, `Fail` or `Discard`. Its tensors may be
freed at `Release`, which may come later: a worker can still be reading them when the answer is already known.
"""

from typing import Literal, NamedTuple

from steelyard.core.plan import Decision, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot, CoreShare, ServiceWindow
from steelyard.core.types import Frozen, RequestId, Tensor

RejectReason = Literal["deadline", "queue_full", "draining", "bounds"]
ShedReason = Literal["deadline", "age", "early", "queue_full"]
FailReason = Literal["bad_input", "model_error", "worker_lost"]


class ItemRows(NamedTuple):
    """Items of some rows of a batch: the first one's place among those of the batch, and how many a row."""

    start: int
    counts: tuple[int, ...]


class OutputPart(Frozen, frozen=True, array_like=True):
    """Rows `[row_start, row_start + rows)` of a batch's outputs: one request's answer or part of it.

    `items` has the place of these rows' items, by the key under which `BatchCompleted.items` counts them.
    """

    outputs: tuple[Tensor, ...]
    row_start: int
    rows: int
    items: dict[str, ItemRows] = {}


class Slice(Frozen, frozen=True, array_like=True):
    """`rows` rows of a request from `row_start` on: its part of one batch.

    `sources` are all outputs of the request at the stages that it comes after, by stage, in row order.
    """

    request_id: RequestId
    row_start: int
    rows: int
    sources: dict[str, tuple[OutputPart, ...]] = {}


class RunBatch(Frozen, frozen=True, tag="run_batch", omit_defaults=True):
    """Run one batch on an idle replica.

    Attributes:
        expected_s: the corrected median service time.
        given_s: seconds before its worker may count as stuck, whatever others took. A request whose batch did
            not end once is tried until its deadline, as nobody can tell whether it is slow or hangs; for half
            the time to it, if others wait. None: as long as any.
    """

    batch_id: int
    replica_id: int
    stage: str
    variant: str
    rows: int
    slices: tuple[Slice, ...]
    expected_s: float
    given_s: float | None = None


class Complete(Frozen, frozen=True, tag="complete"):
    """Answer a request.

    Attributes:
        variant: that answered the last stage.
        queue_s: seconds it waited, on its longest path.
        service_s: seconds it was served, on the same path.
        late: it missed its deadline; it is answered still.
        answers: its outputs by stage of `Service.answers`, in row order.
        variants: that answered each stage; where several did, the one of most rows.
        accuracy: estimated, the mean over its rows (`Accuracies.mean`); None where a stage's is not known.
        is_measured: the estimate was measured end to end; otherwise a product of the stages'.
        core_ms: core-milliseconds spent on it: its rows' share of every batch.
        missed: names of its own bounds that were missed, `max_latency_ms` among them.
        rows_by: for stages at which several variants answered, how many rows each.
    """

    request_id: RequestId
    variant: str
    queue_s: float
    service_s: float
    late: bool
    answers: dict[str, tuple[OutputPart, ...]]
    variants: dict[str, str] = {}
    accuracy: float | None = None
    is_measured: bool = False
    core_ms: float = 0.0
    missed: tuple[str, ...] = ()
    rows_by: dict[str, dict[str, int]] = {}


class NearestBounds(NamedTuple):
    """The nearest bounds that could be met now, each with the others as asked; None: cannot help.

    Where none helps alone, they are values that could be met together; None: as asked.
    """

    max_latency_ms: float | None = None
    min_accuracy: float | None = None
    max_core_ms: float | None = None


class Reject(Frozen, frozen=True, tag="reject"):
    """Refuse a request at arrival; `retry_after_s` is when it could be feasible, None if never."""

    request_id: RequestId
    reason: RejectReason
    retry_after_s: float | None
    nearest: NearestBounds | None = None


class Shed(Frozen, frozen=True, tag="shed", omit_defaults=True):
    """Drop an admitted request that can no longer be answered in time.

    Attributes:
        request_id: which one.
        reason: by which rule.
        lost: batches of it that were lost with their worker before, for which it was tried again.
    """

    request_id: RequestId
    reason: ShedReason
    lost: int = 0


class Fail(Frozen, frozen=True, tag="fail"):
    """Answer with an error.

    The model refused what it was given, or raised; or its worker was lost and there is no time for another
    try.
    """

    request_id: RequestId
    reason: FailReason
    message: str


class Discard(Frozen, frozen=True, tag="discard"):
    """End a request whose client has gone; nobody is answered."""

    request_id: RequestId


class Release(Frozen, frozen=True, tag="release"):
    """Nothing reads the request's inputs any more: free them."""

    request_id: RequestId


class ReleaseOutputs(Frozen, frozen=True, tag="release_outputs"):
    """Nobody needs a batch's outputs any more: the worker may reuse their place."""

    replica_id: int
    batch_id: int


class WakeAt(Frozen, frozen=True, tag="wake_at"):
    """Send `Woken` at `at_s`, which is later than now. Replaces the machine's former wish."""

    at_s: float


class ReportWindow(Frozen, frozen=True, tag="report_window"):
    """Push a sensing window to the control plane."""

    window: ServiceWindow


class ServiceDrained(Frozen, frozen=True, tag="service_drained"):
    """The last request of a draining service has ended."""


class StopReplica(Frozen, frozen=True, tag="stop_replica"):
    """End a replica's worker: it is drained, or its start is cancelled."""

    replica_id: int


class StartReplica(Frozen, frozen=True, tag="start_replica"):
    """Make a replica exist on the given cores."""

    replica_id: int
    service: str
    stage: str
    node: str
    shares: tuple[CoreShare, ...]
    variants: tuple[str, ...]
    expected_ready_s: float
    cause: str = ""


class ResizeReplica(Frozen, frozen=True, tag="resize_replica"):
    """Change a live replica's cores in place; no shares parks it."""

    replica_id: int
    shares: tuple[CoreShare, ...]
    cause: str = ""


class DrainReplica(Frozen, frozen=True, tag="drain_replica"):
    """Tell the service that a replica is to go; it answers with `StopReplica` when the replica is idle."""

    replica_id: int
    service: str
    cause: str = ""


class LoadVariant(Frozen, frozen=True, tag="load_variant"):
    """Make a variant resident in a replica, in the background."""

    replica_id: int
    variant: str
    cause: str = ""


class UnloadVariant(Frozen, frozen=True, tag="unload_variant"):
    """Drop a resident variant."""

    replica_id: int
    variant: str
    cause: str = ""


class Publish(Frozen, frozen=True, tag="publish"):
    """Give a service its new rules."""

    plan: ServicePlan


class OfferCapacity(Frozen, frozen=True, tag="offer_capacity"):
    """Tell a service how many cores it could be granted now."""

    service: str
    cores_grantable: float


class Solve(Frozen, frozen=True, tag="solve"):
    """Ask the policy to decide on a snapshot, away from the serving loop."""

    solve_id: int
    snapshot: ClusterSnapshot


class RecordDecision(Frozen, frozen=True, tag="record_decision"):
    """Write a decision down: what was decided, by what, why, and what became of it on the fresh snapshot."""

    at_s: float
    kind: Literal["decide", "react", "discarded"]
    policy: str
    decision: Decision | None
    reason: str
    runner_up: str = ""


ServiceCommand = (
    RunBatch
    | Complete
    | Reject
    | Shed
    | Fail
    | Discard
    | Release
    | ReleaseOutputs
    | WakeAt
    | ReportWindow
    | ServiceDrained
    | StopReplica
)
ControlCommand = (
    StartReplica
    | ResizeReplica
    | DrainReplica
    | StopReplica
    | LoadVariant
    | UnloadVariant
    | Publish
    | OfferCapacity
    | Solve
    | RecordDecision
    | WakeAt
)
Command = ServiceCommand | ControlCommand
