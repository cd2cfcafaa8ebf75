"""The heap-clock driver of one service: the very machine that serves, fed from the simulated clock.

It decides nothing, and carries commands out in the order given, as the live driver does: a later `WakeAt`
replaces the former. Nothing that it does hands the machine another event before its commands are done.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from steelyard.core.commands import Command, ReportWindow, ServiceDrained, WakeAt
from steelyard.core.events import (
    Event,
    RequestArrived,
    ServiceDraining,
    ServiceEvent,
    WindowClosed,
    WindowReported,
    Woken,
)
from steelyard.core.service import ServiceMachine
from steelyard.journal.records import machine_name
from steelyard.sim.kernel import Kernel, Kind

Journal = Callable[[str, float, Event, list[Command]], None]
"""(machine, now_s, event, commands), before the commands are carried out; as the live recorder's."""
_WOKEN = Woken()


class ServiceDriver:
    """Feeds one machine.

    Args:
        machine: fresh.
        kernel: the clock.
        actions: what to do with commands, by type; those without an entry concern nobody.
        report: takes the sensing windows.
        on_drained: called once, when a draining service has answered its last request.
        journal: told of every event.

    Attributes:
        request_seconds: time integral of the requests that are open, as the machine counts them.
    """

    def __init__(
        self,
        machine: ServiceMachine,
        kernel: Kernel,
        actions: Mapping[type[Command], Callable[[Any], None]],
        *,
        report: Callable[[WindowReported], None],
        on_drained: Callable[[], None],
        journal: Journal | None = None,
    ) -> None:
        self.machine = machine
        self.request_seconds = 0.0
        self._handle = machine.handle
        self._open = machine.open_ids
        self._name = machine_name(machine.service.name)
        self._kernel = kernel
        self._report = report
        self._on_drained = on_drained
        self._journal = journal
        self._at_s = kernel.now_s
        self._wake_s: float | None = None
        self._arrivals: Iterator[RequestArrived] = iter(())
        self._actions: dict[type[Command], Callable[[Any], None]] = {
            WakeAt: self._wake_at,
            ReportWindow: self._report_window,
            ServiceDrained: self._drained,
            **actions,
        }

    def tell(self, event: ServiceEvent) -> None:
        """Hand the machine an event, and carry out what it wants."""
        now_s = self._kernel.now_s
        if now_s > self._at_s:
            self.request_seconds += len(self._open) * (now_s - self._at_s)
            self._at_s = now_s
        commands = self._handle(event, now_s=now_s)
        if self._journal is not None:
            self._journal(self._name, now_s, event, commands)
        actions = self._actions
        for command in commands:
            act = actions.get(type(command))
            if act is not None:
                act(command)

    def settle(self) -> None:
        """Bring `request_seconds` up to now."""
        now_s = self._kernel.now_s
        self.request_seconds += len(self._open) * (now_s - self._at_s)
        self._at_s = now_s

    def serve(self, arrivals: Iterator[RequestArrived]) -> None:
        """Take these requests as they arrive."""
        self._arrivals = arrivals
        self._schedule_arrival(next(arrivals, None))

    def close_window(self) -> None:
        """A sensing window ends."""
        self.tell(WindowClosed())

    def drain(self) -> None:
        """The trace has ended: finish what is open."""
        self.tell(ServiceDraining())

    def _schedule_arrival(self, event: RequestArrived | None) -> None:
        if event is not None:
            self._kernel.schedule(event.request.arrived_s, Kind.ARRIVAL, self._on_arrival, event)

    def _on_arrival(self, event: RequestArrived) -> None:
        """A request has arrived; those that follow before anything else happens need no place in the heap."""
        tell, advance = self.tell, self._kernel.advance
        tell(event)
        for following in self._arrivals:
            if not advance(following.request.arrived_s):
                self._schedule_arrival(following)
                return
            tell(following)

    def _wake_at(self, command: WakeAt) -> None:
        self._wake_s = command.at_s
        self._kernel.schedule(command.at_s, Kind.WAKE, self._on_wake, command.at_s)

    def _on_wake(self, at_s: float) -> None:
        if at_s == self._wake_s:  # otherwise a later wish has replaced it
            self._wake_s = None
            self.tell(_WOKEN)

    def _report_window(self, command: ReportWindow) -> None:
        self._report(WindowReported(command.window))

    def _drained(self, command: ServiceDrained) -> None:
        del command
        self._on_drained()
