"""The live driver of the control plane: windows in; starts, resizes, drains and rules out.

What concerns a replica goes to its service first and to the control machine second: a ready replica takes
traffic before the control plane gives away the cores that covered for it. A replica that is parked while it
runs a batch keeps its cores until the batch has ended: its service hands it no further one, and only then is
the control machine told.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from steelyard.backend.base import Backend, BackendEvent
from steelyard.core.commands import (
    DrainReplica,
    LoadVariant,
    OfferCapacity,
    Publish,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    CapacityChanged,
    NodeJoined,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    ReplicaThrottled,
    ResizeRefused,
    Solved,
    SolveFailed,
    VariantLoaded,
    VariantUnloaded,
    WindowClosed,
)
from steelyard.core.snapshot import CoreShare
from steelyard.serve.service_driver import MachinePump, ServiceDriver

_TO_CONTROL = (
    NodeJoined, ReplicaReady, ReplicaResized, ReplicaGone, ReplicaThrottled, ResizeRefused, VariantLoaded,
    VariantUnloaded,
)  # fmt: skip
_TO_SERVICE = (
    BatchCompleted, BatchFailed, ReplicaReady, ReplicaResized, ReplicaGone, VariantLoaded, VariantUnloaded,
)  # fmt: skip


class Planner(Protocol):
    """Where a policy's `decide` runs, away from the serving loop."""

    def solve(self, command: Solve, answer: Callable[[Solved | SolveFailed], None]) -> None:
        """Decide on `command.snapshot`; `answer` is called exactly once, later, on the serving loop."""
        ...


class ReplicaWatch(Protocol):
    """Told of every change of a replica, for metrics and the account of core-seconds."""

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        """`cores` are those reserved for it from now on; state `gone` ends it."""
        ...


def cores_of(shares: Iterable[CoreShare]) -> float:
    """Cores that shares add up to."""
    return sum(share.fraction for share in shares)


class ControlDriver:
    """Drives the `ControlMachine`.

    Args:
        pump: feeds the machine.
        backend: makes replicas exist.
        services: the service drivers, by name.
        planner: runs `decide`.
        watch: told of replicas and their cores.
        on_decision: told of every decision, for the log.
    """

    def __init__(
        self,
        pump: MachinePump,
        backend: Backend,
        services: Mapping[str, ServiceDriver],
        *,
        planner: Planner,
        watch: ReplicaWatch,
        on_decision: Callable[[RecordDecision], None],
    ) -> None:
        self._pump = pump
        self._backend = backend
        self._services = services
        self._planner = planner
        self._watch = watch
        self._service_of: dict[int, str] = {}
        self._cores_of: dict[int, float] = {}
        self._draining: set[int] = set()
        self._letting_go: dict[int, ReplicaResized] = {}
        self._is_stopped = False
        pump.actions |= {
            StartReplica: self._start,
            ResizeReplica: self._resize,
            DrainReplica: self._drain,
            StopReplica: backend.stop,
            LoadVariant: self._load,
            UnloadVariant: self._unload,
            Publish: self._publish,
            OfferCapacity: self._offer,
            Solve: self._solve,
            RecordDecision: on_decision,
        }

    def close_window(self) -> None:
        """End the sensing window of every service; their reports reach the control machine by `handle`."""
        for driver in self._services.values():
            driver.handle(WindowClosed())

    def stop(self) -> None:
        """Decide nothing more: the server is going down, and replicas that end are not to be replaced."""
        self._is_stopped = True
        self._pump.stop_timer()

    def handle(self, event: object) -> None:
        """Take a window, a decision or a node."""
        if not self._is_stopped:
            self._pump.handle(event)  # type: ignore[arg-type]

    def on_backend(self, event: BackendEvent) -> None:
        """The backend's sink: to the replica's service, then to the control machine."""
        if isinstance(event, _TO_SERVICE):
            service = self._service_of.get(event.replica_id)
            if service is None:
                return  # a replica that has gone already: its last words concern nobody
            driver = self._services[service]
            if isinstance(event, ReplicaResized) and not event.cores and driver.is_running(event.replica_id):
                self._letting_go[event.replica_id] = event
                driver.handle(event)
                return
            self._note(service, event)
            driver.handle(event)
            parked = self._letting_go.pop(event.replica_id, None)
            if parked is not None and isinstance(event, BatchCompleted | BatchFailed):
                self.on_backend(parked)
        if isinstance(event, _TO_CONTROL):
            self.handle(event)

    def _note(self, service: str, event: BackendEvent) -> None:
        match event:
            case ReplicaReady(replica_id=replica_id):
                self._watch.on_replica(service, replica_id, "ready", self._cores_of[replica_id])
            case ReplicaResized(replica_id=replica_id, cores=cores):
                self._cores_of[replica_id] = cores
                state = "draining" if replica_id in self._draining else "ready" if cores else "parked"
                self._watch.on_replica(service, replica_id, state, cores)
            case ReplicaGone(replica_id=replica_id):
                del self._service_of[replica_id], self._cores_of[replica_id]
                self._draining.discard(replica_id)
                self._watch.on_replica(service, replica_id, "gone", 0.0)

    def _start(self, command: StartReplica) -> None:
        cores = cores_of(command.shares)
        self._service_of[command.replica_id] = command.service
        self._cores_of[command.replica_id] = cores
        self._watch.on_replica(command.service, command.replica_id, "starting", cores)
        self._services[command.service].handle(
            ReplicaStarted(
                replica_id=command.replica_id,
                stage=command.stage,
                node=command.node,
                cores=cores,
                variants=command.variants,
                expected_ready_s=command.expected_ready_s,
                service=command.service,
            )
        )
        self._backend.start(command)

    def _resize(self, command: ResizeReplica) -> None:
        self._backend.resize(command)

    def _drain(self, command: DrainReplica) -> None:
        cores = self._cores_of[command.replica_id]
        self._draining.add(command.replica_id)
        self._watch.on_replica(command.service, command.replica_id, "draining", cores)
        self._services[command.service].handle(ReplicaDraining(command.replica_id))

    def _load(self, command: LoadVariant) -> None:
        self._backend.load(command)

    def _unload(self, command: UnloadVariant) -> None:
        """The service first: no batch of the variant may be on its way when it goes."""
        service = self._service_of.get(command.replica_id)
        if service is not None:
            self._services[service].handle(VariantUnloaded(command.replica_id, command.variant))
        self._backend.unload(command)

    def _publish(self, command: Publish) -> None:
        self._services[command.plan.service].handle(PlanPublished(command.plan))

    def _offer(self, command: OfferCapacity) -> None:
        self._services[command.service].handle(CapacityChanged(command.cores_grantable))

    def _solve(self, command: Solve) -> None:
        self._planner.solve(command, self.handle)
