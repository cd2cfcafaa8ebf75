"""The live driver of one service: the world becomes events, the machine's commands become calls.

It decides nothing. Events are handled one at a time, in the order in which they came: one that arises while
commands are carried out waits until they are done, so the machine never sees itself half-way. Time and timers
come in as functions, so the same driver runs on a wall clock and on a virtual one (tests/parity).
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from steelyard.backend.base import Backend
from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    Fail,
    Reject,
    Release,
    ReleaseOutputs,
    ReportWindow,
    RunBatch,
    ServiceDrained,
    Shed,
    StopReplica,
    WakeAt,
)
from steelyard.core.errors import ModelError
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    Event,
    ReplicaGone,
    RequestArrived,
    RequestCancelled,
    ServiceEvent,
    WindowReported,
    Woken,
)
from steelyard.core.types import Request, RequestId
from steelyard.serve.base import End, OnEnd
from steelyard.serve.untold import untold
from steelyard.serve.wiring import Wiring


class Timer(Protocol):
    """What a loop's `call_at` returns."""

    def cancel(self) -> None:
        """Never call it."""
        ...


class Machine(Protocol):
    """A pure state machine: events in, commands out, time as an argument."""

    def handle(self, event: Any, *, now_s: float) -> list[Command]:
        """Mutate, and say what is to be done."""
        ...


_ENDS_OF_BATCHES = (BatchCompleted, BatchFailed, ReplicaGone)
CallAt = Callable[[float, Callable[[], None]], Timer]
Record = Callable[[str, float, Event, list[Command]], None]


class MachinePump:
    """Feeds one machine: stamps the time, records, and carries out commands by a table of their types.

    Args:
        name: of the machine in the journal, such as `service/ocr`.
        machine: the pure state machine.
        clock: seconds, monotonic; the clock of every deadline.
        call_at: runs a function at a time of that clock.
        record: writes down (name, now_s, event, commands); called before the commands are carried out. None
            where nobody wants to know.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        *,
        clock: Callable[[], float],
        call_at: CallAt,
        record: Record | None,
    ) -> None:
        self.name = name
        self._machine = machine
        self._clock = clock
        self._call_at = call_at
        self._record = record
        self._pending: deque[Event] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self.actions: dict[type[Any], Callable[[Any], None]] = {WakeAt: self._wake_at}

    def handle(self, event: Event) -> None:
        """Take one event; returns when it and everything that followed from it at once is done."""
        pending = self._pending
        if self._busy:
            pending.append(event)
            return
        if pending:  # left over by an exception: first come, first handled
            pending.append(event)
            event = pending.popleft()
        self._busy = True
        actions = self.actions
        try:
            while True:
                now_s = self._clock()
                commands = self._machine.handle(event, now_s=now_s)
                if self._record is not None:
                    self._record(self.name, now_s, event, commands)
                for command in commands:
                    actions[type(command)](command)
                if not pending:
                    return
                event = pending.popleft()
        finally:
            self._busy = False

    def stop_timer(self) -> None:
        """Forget the machine's wish to be woken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_at(self, command: WakeAt) -> None:
        self.stop_timer()
        self._timer = self._call_at(command.at_s, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.handle(Woken())


class ServiceDriver:
    """Drives one `ServiceMachine`: requests from the edges, batches to the backend, windows to control.

    Args:
        pump: feeds the machine.
        backend: runs batches and ends replicas.
        wirings: by stage, where its inputs come from; a stage without takes the request's own tensors.
        free: gives a request's place in the arena back.
        report: takes the sensing windows.
        on_end: told of every request that ends, with its `End`, for metrics.
        on_drained: called once, when a draining service has answered its last request.
        on_batch: told of every batch that starts, for metrics.
        release: gives a batch's outputs back; by default the backend does.
    """

    def __init__(
        self,
        pump: MachinePump,
        backend: Backend,
        *,
        free: Callable[[Request], None],
        report: Callable[[WindowReported], None],
        on_end: Callable[[Request, End], None],
        on_drained: Callable[[], None],
        on_batch: Callable[[RunBatch], None] = lambda _: None,
        wirings: Mapping[str, Wiring] | None = None,
        release: Callable[[ReleaseOutputs], None] | None = None,
    ) -> None:
        self._pump = pump
        self._backend = backend
        self._wirings = wirings or {}
        self._free = free
        self._report = report
        self._on_end = on_end
        self._on_drained = on_drained
        self._on_batch = on_batch
        self._open: dict[RequestId, tuple[Request, OnEnd]] = {}
        self._running: set[int] = set()
        pump.actions |= {
            RunBatch: self._run_batch,
            Complete: self._end,
            Reject: self._end,
            Shed: self._end,
            Fail: self._end,
            Discard: self._end,
            Release: self._release,
            ReleaseOutputs: release or backend.release,
            ReportWindow: self._report_window,
            StopReplica: backend.stop,
            ServiceDrained: self._drained,
        }

    def submit(self, request: Request, on_end: OnEnd) -> None:
        """Take a request; `on_end` is called exactly once, perhaps before this returns."""
        self._open[request.id] = (request, on_end)
        self._pump.handle(RequestArrived(request))

    def cancel(self, request_id: RequestId) -> None:
        """The client has gone; nothing happens if the request has ended already."""
        if request_id in self._open:
            self._pump.handle(RequestCancelled(request_id))

    def handle(self, event: ServiceEvent) -> None:
        """Take an event from the backend or the control plane."""
        if isinstance(event, _ENDS_OF_BATCHES):
            self._running.discard(event.replica_id)  # before the machine hands it the next batch
        self._pump.handle(event)

    def is_running(self, replica_id: int) -> bool:
        """Whether a replica has a batch in flight."""
        return replica_id in self._running

    def _run_batch(self, command: RunBatch) -> None:
        self._running.add(command.replica_id)
        self._on_batch(command)
        requests = [self._open[part.request_id][0] for part in command.slices]
        wiring = self._wirings.get(command.stage)
        if wiring is None:
            self._backend.run(command, requests)
            return
        try:
            feeds = wiring.feeds(command.slices, requests)
        except ModelError as error:
            self.handle(BatchFailed(command.batch_id, command.replica_id, str(error)))
            return
        self._backend.run(command, requests, feeds)

    def _end(self, command: End) -> None:
        request, on_end = self._open[command.request_id]
        try:
            try:
                on_end(command)  # first: the client waits for nothing else
            finally:
                self._on_end(request, command)
        except Exception as error:  # a bug in one request's answer; the commands after this are others'
            untold(command.request_id, error)

    def _release(self, command: Release) -> None:
        request, _ = self._open.pop(command.request_id)
        self._free(request)

    def _report_window(self, command: ReportWindow) -> None:
        self._report(WindowReported(command.window))

    def _drained(self, command: ServiceDrained) -> None:
        del command
        self._on_drained()
