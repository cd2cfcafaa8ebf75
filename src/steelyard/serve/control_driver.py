"""The live driver of the control plane: windows in; starts, resizes, drains and rules out.

What concerns a replica goes to its service first and to the control machine second: a ready replica takes
traffic before the control plane gives away the cores that covered for it. A replica that is parked while it
runs a batch keeps its cores until the batch has ended: its service hands it no further one, and only then is
the control machine told.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from steelyard.backend.base import Backend, BackendEvent
from steelyard.control.routing import TO_CONTROL, TO_SERVICE, actions
from steelyard.core.commands import DrainReplica, RecordDecision, Solve, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ServiceEvent,
    Solved,
    SolveFailed,
    WindowClosed,
)
from steelyard.core.snapshot import CoreShare
from steelyard.serve.service_driver import MachinePump, ServiceDriver

_ENDS_OF_BATCHES = (BatchCompleted, BatchFailed)


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
        self._services = services
        self._planner = planner
        self._watch = watch
        self._service_of: dict[int, str] = {}
        self._cores_of: dict[int, float] = {}
        self._draining: set[int] = set()
        self._letting_go: dict[int, ReplicaResized] = {}
        self._is_stopped = False
        self._routed = actions(backend, self._tell_service, self._service_of.get)
        pump.actions |= self._routed | {
            StartReplica: self._start,
            DrainReplica: self._drain,
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
        if isinstance(event, TO_SERVICE):
            service = self._service_of.get(event.replica_id)
            if service is None:
                return  # a replica that has gone already: its last words concern nobody
            driver = self._services[service]
            if isinstance(event, _ENDS_OF_BATCHES):  # nearly all that the backend tells: the service's alone
                driver.handle(event)
                if self._letting_go and (parked := self._letting_go.pop(event.replica_id, None)) is not None:
                    self.on_backend(parked)
                return
            if isinstance(event, ReplicaResized) and not event.cores and driver.is_running(event.replica_id):
                self._letting_go[event.replica_id] = event
                driver.handle(event)
                return
            self._note(service, event)
            driver.handle(event)
            self._letting_go.pop(event.replica_id, None)
        if isinstance(event, TO_CONTROL):
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
        self._routed[StartReplica](command)

    def _drain(self, command: DrainReplica) -> None:
        cores = self._cores_of[command.replica_id]
        self._draining.add(command.replica_id)
        self._watch.on_replica(command.service, command.replica_id, "draining", cores)
        self._routed[DrainReplica](command)

    def _tell_service(self, service: str, event: ServiceEvent) -> None:
        self._services[service].handle(event)

    def _solve(self, command: Solve) -> None:
        self._planner.solve(command, self.handle)
