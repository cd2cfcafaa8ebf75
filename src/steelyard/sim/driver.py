"""The heap-clock driver of one service: the very machine that serves, with sampled service times.

It carries commands out in the order given, as the live driver does: a batch ends after its sampled time, a
later `WakeAt` replaces the former, a stopped replica is gone at once. When nothing more is to come, the
service is drained, so that every request ends; then the accounts are checked.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    Fail,
    Reject,
    Release,
    RunBatch,
    Shed,
    StopReplica,
    WakeAt,
)
from steelyard.core.events import (
    BatchCompleted,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    RequestCancelled,
    ServiceDraining,
    ServiceEvent,
    WindowClosed,
    Woken,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId
from steelyard.journal.records import Record, machine_name
from steelyard.sim.kernel import Kernel, Kind

End = Complete | Reject | Shed | Fail | Discard
Sampler = Callable[[str, int, int, float], float]
"""(variant, bucket, rows, cores) -> seconds that one batch takes."""


class SimulatedReplica(NamedTuple):
    """A replica that is there from the beginning, or becomes ready at `ready_s`."""

    cores: float
    variants: tuple[str, ...]
    ready_s: float = 0.0


class Outcome(NamedTuple):
    """How and when a request ended; for a completed one, latency is `ended_s - arrived_s` plus the reply."""

    request: Request
    end: End
    ended_s: float


class ServiceDriver:
    """Runs one machine to the end of its arrivals.

    Args:
        machine: fresh.
        replicas: get the ids 1, 2, ... in this order.
        arrivals: requests with ascending `arrived_s`; read one at a time.
        sample_s: how long a batch takes.
        events: further events and when they happen: resizes, losses, cancellations, plans.
        window_s: sensing window; None for none.
        journal: collects a record of every event, if given.

    Attributes:
        outcomes: by request, in the order of their ends.
        batches: every batch and when it started.
    """

    def __init__(
        self,
        machine: ServiceMachine,
        replicas: Iterable[SimulatedReplica],
        arrivals: Iterable[Request],
        sample_s: Sampler,
        *,
        events: Iterable[tuple[float, ServiceEvent]] = (),
        window_s: float | None = None,
        journal: list[Record] | None = None,
    ) -> None:
        self._machine = machine
        self._stage = machine.service.stages[0].name
        self._arrivals: Iterator[Request] = iter(arrivals)
        self._sample_s = sample_s
        self._window_s = window_s
        self._journal = journal
        self._kernel = Kernel()
        self._sequence = 0
        self._wake_s: float | None = None
        self._cores: dict[int, float] = {}
        self._requests: dict[RequestId, Request] = {}
        self._released: set[RequestId] = set()
        self.outcomes: dict[RequestId, Outcome] = {}
        self.batches: list[tuple[float, RunBatch]] = []
        for replica_id, replica in enumerate(replicas, start=1):
            self._schedule_replica(replica_id, replica)
        for at_s, event in events:
            kind = Kind.CANCELLATION if isinstance(event, RequestCancelled) else Kind.REPLICA
            act = self._on_cores if isinstance(event, ReplicaReady | ReplicaResized) else self._tell
            self._kernel.schedule(at_s, kind, act, event)
        self._schedule_arrival()
        if window_s is not None:
            self._kernel.schedule(window_s, Kind.WINDOW, self._on_window, WindowClosed())

    def run(self) -> dict[RequestId, Outcome]:
        """Run to the end; returns the outcomes.

        Raises:
            AssertionError: the accounts do not balance.
        """
        self._kernel.run()
        self._tell(ServiceDraining())
        self._kernel.run()
        self._check_accounts()
        return self.outcomes

    def _on_arrival(self, event: RequestArrived) -> None:
        self._schedule_arrival()
        self._tell(event)

    def _on_window(self, event: WindowClosed) -> None:
        if self._window_s is not None and self._kernel.due:
            self._kernel.schedule(self._kernel.now_s + self._window_s, Kind.WINDOW, self._on_window, event)
        self._tell(event)

    def _on_wake(self, at_s: float) -> None:
        if at_s == self._wake_s:
            self._wake_s = None
            self._tell(Woken())

    def _on_cores(self, event: ReplicaReady | ReplicaResized) -> None:
        self._cores[event.replica_id] = event.cores
        self._tell(event)

    def _tell(self, event: ServiceEvent) -> None:
        now_s = self._kernel.now_s
        if isinstance(event, RequestArrived):
            self._requests[event.request.id] = event.request
        commands = self._machine.handle(event, now_s=now_s)
        if self._journal is not None:
            name = machine_name(self._machine.service.name)
            self._journal.append(Record(name, self._sequence, now_s, event, tuple(commands)))
            self._sequence += 1
        for command in commands:
            self._carry_out(command, now_s)

    def _carry_out(self, command: Command, now_s: float) -> None:
        match command:
            case RunBatch():
                self._run_batch(command, now_s)
            case Complete() | Reject() | Shed() | Fail() | Discard():
                assert command.request_id not in self.outcomes, f"{command.request_id} ended twice"
                request = self._requests[command.request_id]
                self.outcomes[command.request_id] = Outcome(request, command, now_s)
            case Release():
                assert command.request_id not in self._released, f"{command.request_id} released twice"
                self._released.add(command.request_id)
            case WakeAt():
                assert command.at_s > now_s, f"wake at {command.at_s}, not after {now_s}"
                self._wake_s = command.at_s
                self._kernel.schedule(command.at_s, Kind.WAKE, self._on_wake, command.at_s)
            case StopReplica():
                gone = ReplicaGone(command.replica_id, expected=True)
                self._kernel.schedule(now_s, Kind.REPLICA, self._tell, gone)
            case _:
                pass  # reports, outputs: nobody is there to take them

    def _run_batch(self, command: RunBatch, now_s: float) -> None:
        bucket = self._requests[command.slices[0].request_id].bucket
        cores = self._cores[command.replica_id]
        finished_s = now_s + self._sample_s(command.variant, bucket, command.rows, cores)
        self.batches.append((now_s, command))
        completed = BatchCompleted(command.batch_id, command.replica_id, now_s, finished_s)
        self._kernel.schedule(finished_s, Kind.COMPLETION, self._tell, completed)

    def _schedule_arrival(self) -> None:
        request = next(self._arrivals, None)
        if request is not None:
            self._kernel.schedule(request.arrived_s, Kind.ARRIVAL, self._on_arrival, RequestArrived(request))

    def _schedule_replica(self, replica_id: int, replica: SimulatedReplica) -> None:
        cores, variants, ready_s = replica
        if ready_s > 0:
            started = ReplicaStarted(replica_id, self._stage, "local", cores, variants, ready_s)
            self._kernel.schedule(0.0, Kind.REPLICA, self._tell, started)
        ready = ReplicaReady(replica_id, self._stage, "local", cores, variants)
        self._kernel.schedule(ready_s, Kind.REPLICA, self._on_cores, ready)

    def _check_accounts(self) -> None:
        """Every request ended once and was released once, and the machine counts the same."""
        assert self.outcomes.keys() == self._requests.keys(), "a request has no end"
        assert self._released == self._requests.keys(), "a request was not released"
        ends = [outcome.end for outcome in self.outcomes.values()]
        counts = self._machine.counts
        for kind, count in (
            (Complete, counts.completed),
            (Shed, counts.shed),
            (Reject, counts.rejected),
            (Fail, counts.failed),
            (Discard, counts.cancelled),
        ):
            assert sum(isinstance(end, kind) for end in ends) == count, f"{kind.__name__}: {counts}"
        assert self._machine.open_requests == 0, "requests are open at the end"
