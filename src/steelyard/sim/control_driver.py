"""The heap-clock driver of the control plane: windows in; starts, resizes, drains and rules out.

As in the live driver, what concerns a replica goes to its service first and to the control machine second.
`decide` is asked of a second instance of the policy and answered after its declared `solve_s`; how long it
really took is only written down. A policy that raises ends the run: a simulation is where one wants to know.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

from steelyard.control.machine import ControlMachine
from steelyard.control.routing import actions
from steelyard.core.commands import Command, RecordDecision, Solve, WakeAt
from steelyard.core.events import (
    BatchCompleted,
    ControlEvent,
    NodeJoined,
    ReplicaResized,
    ServiceEvent,
    Solved,
    WindowReported,
    Woken,
)
from steelyard.core.plan import Decision
from steelyard.core.snapshot import ClusterSnapshot, ServiceWindow
from steelyard.journal.records import CONTROL
from steelyard.policies.base import Policy
from steelyard.sim.cluster import Cluster, ReplicaNews
from steelyard.sim.kernel import Kernel, Kind
from steelyard.sim.service_driver import Journal, ServiceDriver

DECISIONS_MAX = 2_000
"""Decisions that a run keeps: the latest."""
_WOKEN = Woken()


class ControlDriver:
    """Feeds the control machine.

    Args:
        machine: fresh.
        planning: the policy's instance for `decide`.
        kernel: the clock.
        cluster: makes replicas exist.
        services: the service drivers, by name; may be filled after this was made.
        sensing_lag_s: from the end of a sensing window to its report.

    Attributes:
        decisions: the latest that were recorded.
        decide_s: wall time of each `decide`, seconds.
    """

    def __init__(
        self,
        machine: ControlMachine,
        planning: Policy,
        kernel: Kernel,
        cluster: Cluster,
        services: Mapping[str, ServiceDriver],
        *,
        sensing_lag_s: float,
        journal: Journal | None = None,
    ) -> None:
        self._machine = machine
        self._planning = planning
        self._kernel = kernel
        self._services = services
        self._sensing_lag_s = sensing_lag_s
        self._journal = journal
        self._wake_s: float | None = None
        self._asked: list[int] | None = None  # while warming up: decisions that are to be answered at once
        self.decisions: deque[RecordDecision] = deque(maxlen=DECISIONS_MAX)
        self.decide_s = array("d")
        self._cluster = cluster
        self._actions: dict[type[Command], Callable[[Any], None]] = {
            **actions(cluster, self._tell_service, cluster.service_of),
            Solve: self._solve,
            RecordDecision: self.decisions.append,
            WakeAt: self._wake_at,
        }

    def tell(self, event: ControlEvent) -> None:
        """Hand the machine an event, and carry out what it wants."""
        now_s = self._kernel.now_s
        commands = self._machine.handle(event, now_s=now_s)
        if self._journal is not None:
            self._journal(CONTROL, now_s, event, commands)
        for command in commands:
            self._actions[type(command)](command)

    def warm_up(self, windows: Iterable[ServiceWindow], nodes: Iterable[NodeJoined]) -> None:
        """Let the machine see windows from before the nodes join, and answer its first `Solve` at once.

        What that decision starts is ready at once, too. Afterwards it is the time of the last window.
        """
        for window in windows:
            passed = self._kernel.advance(window.to_s)
            assert passed, "nothing is due before the nodes join"
            self.tell(WindowReported(window))
        self._asked = []
        for node in nodes:
            self.tell(node)
        (solve_id,), self._asked = self._asked, None
        self._cluster.cold_start_s = 0.0
        self.tell(Solved(solve_id, self._decide(self._machine.snapshot()), 0.0))
        self._cluster.cold_start_s = None

    def report(self, event: WindowReported) -> None:
        """A service's window has ended; its report is on the way."""
        self._kernel.schedule(self._kernel.now_s + self._sensing_lag_s, Kind.REPORT, self.tell, event)

    def _tell_service(self, service: str, event: ServiceEvent) -> None:
        self._services[service].tell(event)

    def _solve(self, command: Solve) -> None:
        if self._asked is not None:
            self._asked.append(command.solve_id)
            return
        solve_s = self._planning.solve_s
        solved = Solved(command.solve_id, self._decide(command.snapshot), solve_s)
        self._kernel.schedule(self._kernel.now_s + solve_s, Kind.SOLVED, self.tell, solved)

    def _decide(self, snapshot: ClusterSnapshot) -> Decision:
        began_s = perf_counter()
        decision = self._planning.decide(snapshot)
        self.decide_s.append(perf_counter() - began_s)
        return decision

    def _wake_at(self, command: WakeAt) -> None:
        self._wake_s = command.at_s
        self._kernel.schedule(command.at_s, Kind.DECIDE, self._on_wake, command.at_s)

    def _on_wake(self, at_s: float) -> None:
        if at_s == self._wake_s:  # otherwise a later wish has replaced it
            self._wake_s = None
            self.tell(_WOKEN)


class Listening:
    """Hears of one service's replicas: first the service, then the control plane (`cluster.Listener`)."""

    def __init__(self, service: ServiceDriver, control: ControlDriver) -> None:
        self.on_batch: Callable[[BatchCompleted], None] = service.tell
        self._service = service
        self._control = control

    def on_replica(self, event: ReplicaNews) -> None:
        """Something became of a replica."""
        self._service.tell(event)
        self._control.tell(event)

    def on_letting_go(self, event: ReplicaResized) -> None:
        """A replica has fewer cores from the next batch on: news for the service only."""
        self._service.tell(event)
