"""One service's machine on the simulated clock, without a control plane: replicas and events are given.

For tests of the data plane alone, with any requests (batch keys, cancellations, shape buckets) that a trace
does not have. When nothing more is to come the service is drained, so that every request ends; then the
accounts are checked, releases included.
"""

from collections.abc import Callable, Iterable
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
)
from steelyard.core.events import (
    BatchCompleted,
    Event,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    RequestCancelled,
    ServiceEvent,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId
from steelyard.journal.records import Record
from steelyard.sim.items import stage_items
from steelyard.sim.kernel import Kernel, Kind
from steelyard.sim.service_driver import ServiceDriver

End = Complete | Reject | Shed | Fail | Discard
ENDS: tuple[type[Command], ...] = (Complete, Reject, Shed, Fail, Discard)
Sampler = Callable[[str, int, int, float], float]
"""(variant, bucket, rows, cores) -> seconds that one batch takes."""


class GivenReplica(NamedTuple):
    """A replica of a stage (empty: the first) that is there from the start, or becomes ready at `ready_s`."""

    cores: float
    variants: tuple[str, ...]
    ready_s: float = 0.0
    stage: str = ""


class Outcome(NamedTuple):
    """How and when a request ended."""

    request: Request
    end: End
    ended_s: float


class OneMachine:
    """Runs one machine to the end of its arrivals.

    Args:
        machine: fresh.
        replicas: get the ids 1, 2, ... in this order.
        arrivals: requests with ascending `arrived_s`; read one at a time.
        sample_s: how long a batch takes.
        events: further events and when they happen: resizes, losses, cancellations, plans.
        window_s: sensing window; None for none.
        journal: collects a record of every event, if given.
        seed: of the items that requests have.

    Attributes:
        outcomes: by request, in the order of their ends.
        batches: every batch and when it started.
    """

    def __init__(
        self,
        machine: ServiceMachine,
        replicas: Iterable[GivenReplica],
        arrivals: Iterable[Request],
        sample_s: Sampler,
        *,
        events: Iterable[tuple[float, ServiceEvent]] = (),
        window_s: float | None = None,
        journal: list[Record] | None = None,
        seed: int = 0,
    ) -> None:
        self._machine = machine
        self._sample_s = sample_s
        self._window_s = window_s
        self._journal = journal
        self._items = stage_items(machine.service, seed)
        self._kernel = Kernel()
        self._cores: dict[int, float] = {}
        self._requests: dict[RequestId, Request] = {}
        self._released: set[RequestId] = set()
        self.outcomes: dict[RequestId, Outcome] = {}
        self.batches: list[tuple[float, RunBatch]] = []
        self._driver = ServiceDriver(
            machine,
            self._kernel,
            {
                RunBatch: self._run_batch,
                StopReplica: self._stop,
                Release: self._release,
                **dict.fromkeys(ENDS, self._end),
            },
            report=lambda _: None,
            on_drained=lambda: None,
            journal=None if journal is None else self._record,
        )
        for replica_id, replica in enumerate(replicas, start=1):
            self._place(replica_id, replica)
        for at_s, event in events:
            kind = Kind.CANCELLATION if isinstance(event, RequestCancelled) else Kind.REPLICA
            self._kernel.schedule(at_s, kind, self._tell, event)
        self._driver.serve(map(self._arrived, arrivals))
        if window_s is not None:
            self._kernel.schedule(window_s, Kind.WINDOW, self._close_window, None)

    def run(self) -> dict[RequestId, Outcome]:
        """Run to the end; returns the outcomes.

        Raises:
            AssertionError: the accounts do not balance.
        """
        self._kernel.run()
        self._driver.drain()
        self._kernel.run()
        self._check_accounts()
        return self.outcomes

    def _place(self, replica_id: int, replica: GivenReplica) -> None:
        cores, variants, ready_s, name = replica
        stage = name or self._machine.service.stages[0].name
        if ready_s > 0:
            started = ReplicaStarted(replica_id, stage, "local", cores, variants, ready_s)
            self._kernel.schedule(0.0, Kind.REPLICA, self._tell, started)
        ready = ReplicaReady(replica_id, stage, "local", cores, variants)
        self._kernel.schedule(ready_s, Kind.REPLICA, self._tell, ready)

    def _tell(self, event: ServiceEvent) -> None:
        if isinstance(event, ReplicaReady | ReplicaResized):
            self._cores[event.replica_id] = event.cores
        self._driver.tell(event)

    def _arrived(self, request: Request) -> RequestArrived:
        self._requests[request.id] = request
        return RequestArrived(request)

    def _close_window(self, _: None) -> None:
        """Windows end with the last thing that is due: they alone keep no run going."""
        if self._window_s is not None and self._kernel.due:
            at_s = self._kernel.now_s + self._window_s
            self._kernel.schedule(at_s, Kind.WINDOW, self._close_window, None)
        self._driver.close_window()

    def _record(self, machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        assert self._journal is not None
        self._journal.append(Record(machine, len(self._journal), now_s, event, tuple(commands)))

    def _run_batch(self, command: RunBatch) -> None:
        now_s = self._kernel.now_s
        bucket = self._requests[command.slices[0].request_id].bucket
        cores = self._cores[command.replica_id]
        finished_s = now_s + self._sample_s(command.variant, bucket, command.rows, cores)
        self.batches.append((now_s, command))
        items = self._items.get(command.stage)
        counts = {} if items is None else items.of(command)
        completed = BatchCompleted(command.batch_id, command.replica_id, now_s, finished_s, (), counts)
        self._kernel.schedule(finished_s, Kind.COMPLETION, self._tell, completed)

    def _stop(self, command: StopReplica) -> None:
        gone = ReplicaGone(command.replica_id, expected=True)
        self._kernel.schedule(self._kernel.now_s, Kind.REPLICA, self._tell, gone)

    def _end(self, command: End) -> None:
        assert command.request_id not in self.outcomes, f"{command.request_id} ended twice"
        request = self._requests[command.request_id]
        self.outcomes[command.request_id] = Outcome(request, command, self._kernel.now_s)

    def _release(self, command: Release) -> None:
        assert command.request_id not in self._released, f"{command.request_id} released twice"
        self._released.add(command.request_id)

    def _check_accounts(self) -> None:
        """Every request ended once and was released once, and the machine counts the same."""
        assert self.outcomes.keys() == self._requests.keys(), "a request has no end"
        assert self._released == self._requests.keys(), "a request was not released"
        ends: list[type[Command]] = [type(outcome.end) for outcome in self.outcomes.values()]
        counts = self._machine.counts
        counted = (counts.completed, counts.rejected, counts.shed, counts.failed, counts.cancelled)
        assert tuple(ends.count(kind) for kind in ENDS) == counted, counts
        assert self._machine.open_requests == 0, "requests are open at the end"
