"""A whole cluster on the heap clock: real service machines, the real control machine, a policy, no processes.

What tests of policies run. Each `decide` is answered by a second instance of the policy after its declared
`solve_s`, as the live server does it; a start takes its cold start, a resize and a stop take no time. Every
run with equal arguments is the same.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    DrainReplica,
    Fail,
    OfferCapacity,
    Publish,
    RecordDecision,
    Reject,
    ReportWindow,
    ResizeReplica,
    RunBatch,
    Shed,
    Solve,
    StartReplica,
    StopReplica,
    WakeAt,
)
from steelyard.core.events import (
    BatchCompleted,
    CapacityChanged,
    Event,
    NodeJoined,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    Solved,
    WindowClosed,
    WindowReported,
    Woken,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId, Service, ServiceTimes
from steelyard.policies.base import Policy
from steelyard.sim.kernel import Kernel, Kind

CONTROL = ""
"""Name of the control machine among the services'."""

End = Complete | Reject | Shed | Fail | Discard


class Ended(NamedTuple):
    """How a request ended, and when it had arrived."""

    arrived_s: float
    ended_s: float
    end: End

    @property
    def violated(self) -> bool:
        """Late, shed, rejected or failed."""
        return self.end.late if isinstance(self.end, Complete) else not isinstance(self.end, Discard)


class CoresAt(NamedTuple):
    """Cores reserved for a service from `at_s` on."""

    at_s: float
    service: str
    cores: float


class ClosedLoop:
    """Runs a cluster of one node.

    Args:
        services: by name.
        service_times: by (service, stage).
        make: makes a policy; called twice, for `react` and for `decide`.
        arrivals: seconds of single-row requests, ascending, by service.
        cores: of the node.
        fractional: whether the node enforces parts of a core.
        spread: sigma of the log-normal factor on service times; 0 for none.
        seed: of that factor.

    Attributes:
        ended: by service, in the order of their ends.
        history: every change of reserved cores.
        decisions: everything recorded.
        sent: every command to the control plane's outside, with its time.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        service_times: Mapping[tuple[str, str], ServiceTimes],
        make: Callable[[], Policy],
        arrivals: Mapping[str, Iterable[float]],
        *,
        cores: int = 2,
        fractional: bool = False,
        spread: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._planner = make()
        self.control = ControlMachine(services, make())
        self._services = {
            name: ServiceMachine(service, {s.name: service_times[name, s.name] for s in service.stages})
            for name, service in services.items()
        }
        self._specs = dict(services)
        self._times = service_times
        self._rng = np.random.default_rng(seed)
        self._spread = spread
        self._kernel: Kernel[tuple[str, Event]] = Kernel()
        self._wakes: dict[str, int] = {}
        self._replicas: dict[int, StartReplica] = {}
        self._cores: dict[int, float] = {}
        self._arrived: dict[RequestId, float] = {}
        self.ended: dict[str, list[Ended]] = {name: [] for name in services}
        self.history: list[CoresAt] = []
        self.decisions: list[RecordDecision] = []
        self.sent: list[tuple[float, Command]] = []
        self._schedule_arrivals(arrivals)
        joined = NodeJoined("local", tuple(range(cores)), fractional)
        self._kernel.schedule(0.0, Kind.REPLICA, (CONTROL, joined))
        self._kernel.schedule(0.1, Kind.WINDOW, (CONTROL, WindowClosed()))

    def run(self, until_s: float) -> "ClosedLoop":
        """Run for `until_s` simulated seconds; returns itself."""
        while len(self._kernel):
            due = self._kernel.take()
            if due.at_s > until_s:
                break
            name, event = due.what
            if isinstance(event, Woken) and self._wakes.get(name) != due.number:
                continue
            if isinstance(event, ReplicaReady) and not self._cores[event.replica_id]:
                continue  # its start was given up
            if isinstance(event, WindowClosed):
                self._kernel.schedule(due.at_s + 0.1, Kind.WINDOW, (CONTROL, event))
                for service in self._services:
                    self._tell(service, event)
            else:
                self._tell(name, event)
        return self

    def violation_ratio(self, service: str, *, from_s: float = 0.0) -> float:
        """Violations over requests, of those that arrived from `from_s` on."""
        ended = [e for e in self.ended[service] if e.arrived_s >= from_s]
        return sum(e.violated for e in ended) / len(ended) if ended else 0.0

    def core_seconds(self, until_s: float, service: str | None = None) -> float:
        """Cores reserved, over time: from each start to its end, cold starts included."""
        total = 0.0
        for name in [service] if service is not None else list(self._specs):
            steps = [c for c in self.history if c.service == name]
            ends = [*(c.at_s for c in steps[1:]), until_s]
            total += sum(step.cores * (end - step.at_s) for step, end in zip(steps, ends, strict=False))
        return total

    def count(self, kind: type[Command]) -> int:
        """Commands of one kind that the control plane has sent."""
        return sum(isinstance(command, kind) for _, command in self.sent)

    def _schedule_arrivals(self, arrivals: Mapping[str, Iterable[float]]) -> None:
        sequence = 0
        for name, times_s in arrivals.items():
            for at_s in times_s:
                sequence += 1
                deadline_s = at_s + self._specs[name].slo_s
                request = Request(RequestId(0, sequence), name, 1, "x", at_s, deadline_s)
                self._arrived[request.id] = at_s
                self._kernel.schedule(at_s, Kind.ARRIVAL, (name, RequestArrived(request)))

    def _tell(self, name: str, event: Event) -> None:
        now_s = self._kernel.now_s
        if name == CONTROL:
            commands = self.control.handle(event, now_s=now_s)  # type: ignore[arg-type]
            self.control.validate()
            self.sent += [(now_s, command) for command in commands]
        else:
            commands = self._services[name].handle(event, now_s=now_s)  # type: ignore[arg-type]
        for command in commands:
            self._carry_out(name, command, now_s)

    def _carry_out(self, name: str, command: Command, now_s: float) -> None:
        match command:
            case RunBatch():
                self._run_batch(name, command, now_s)
            case Complete() | Reject() | Shed() | Fail() | Discard():
                ended = Ended(self._arrived[command.request_id], now_s, command)
                self.ended[name].append(ended)
            case WakeAt():
                self._wakes[name] = self._kernel.schedule(command.at_s, Kind.WAKE, (name, Woken()))
            case ReportWindow():
                self._tell(CONTROL, WindowReported(command.window))
            case RecordDecision():
                self.decisions.append(command)
            case Solve():
                decision = self._planner.decide(command.snapshot)
                solved = Solved(command.solve_id, decision, self._planner.solve_s)
                self._kernel.schedule(now_s + self._planner.solve_s, Kind.REPLICA, (CONTROL, solved))
            case Publish():
                self._tell(command.plan.service, PlanPublished(command.plan))
            case OfferCapacity():
                self._tell(command.service, CapacityChanged(command.cores_grantable))
            case StartReplica() | ResizeReplica() | DrainReplica() | StopReplica():
                self._carry_out_replica(command, now_s)
            case _:
                pass  # tensors: there are none

    def _carry_out_replica(
        self, command: StartReplica | ResizeReplica | DrainReplica | StopReplica, now_s: float
    ) -> None:
        replica_id = command.replica_id
        match command:
            case StartReplica(service=service, stage=stage, node=node, variants=variants):
                cores = sum(share.fraction for share in command.shares)
                self._replicas[replica_id] = command
                self._reserve(replica_id, cores, now_s)
                expected_s = command.expected_ready_s
                started = ReplicaStarted(replica_id, stage, node, cores, variants, expected_s, service)
                self._tell(service, started)
                ready = ReplicaReady(replica_id, stage, node, cores, variants, service, expected_s - now_s)
                self._tell_both(replica_id, ready, expected_s)
            case ResizeReplica():
                cores = sum(share.fraction for share in command.shares)
                self._reserve(replica_id, cores, now_s)
                self._tell_both(replica_id, ReplicaResized(replica_id, cores), now_s)
            case DrainReplica():
                self._tell(command.service, ReplicaDraining(replica_id))
            case StopReplica():
                self._reserve(replica_id, 0.0, now_s)
                self._tell_both(replica_id, ReplicaGone(replica_id, expected=True), now_s)

    def lose(self, replica_id: int, at_s: float) -> None:
        """Let a replica's worker die at `at_s`."""
        gone = ReplicaGone(replica_id, expected=False, reason="killed")
        self._kernel.schedule(at_s, Kind.REPLICA, (CONTROL, gone))

    def _tell_both(
        self, replica_id: int, event: ReplicaReady | ReplicaResized | ReplicaGone, at_s: float
    ) -> None:
        """A replica's life goes to its service first and then to the control machine."""
        service = self._replicas[replica_id].service
        self._kernel.schedule(at_s, Kind.REPLICA, (service, event))
        self._kernel.schedule(at_s, Kind.REPLICA, (CONTROL, event))

    def _reserve(self, replica_id: int, cores: float, now_s: float) -> None:
        self._cores[replica_id] = cores
        service = self._replicas[replica_id].service
        total = sum(c for r, c in self._cores.items() if self._replicas[r].service == service)
        self.history.append(CoresAt(now_s, service, total))

    def _run_batch(self, name: str, command: RunBatch, now_s: float) -> None:
        cores = self._cores[command.replica_id]
        median_s = self._times[name, command.stage].service_time_s(command.variant, 0, command.rows, cores)
        factor = float(np.exp(self._spread * self._rng.standard_normal())) if self._spread else 1.0
        finished_s = now_s + median_s * factor
        completed = BatchCompleted(command.batch_id, command.replica_id, now_s, finished_s)
        self._kernel.schedule(finished_s, Kind.COMPLETION, (name, completed))


def poisson(rates_rps: Iterable[tuple[float, float]], *, seed: int) -> list[float]:
    """Poisson arrivals: pieces of (seconds, rate), one after another."""
    rng = np.random.default_rng(seed)
    times_s: list[float] = []
    start_s = 0.0
    for seconds, rate_rps in rates_rps:
        count = int(rng.poisson(seconds * rate_rps))
        times_s += sorted(start_s + float(t) for t in rng.uniform(0.0, seconds, count))
        start_s += seconds
    return times_s
