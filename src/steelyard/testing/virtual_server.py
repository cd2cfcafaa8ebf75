"""The live drivers on virtual time: real machines, a real policy, replicas in memory; a minute in a second.

What is left out is what only a machine has: noise, neighbours, and cores that are not really there. It is for
tests of what the parts do together, and for a first look at a policy before it meets a machine.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from steelyard.backend.base import BackendEvent
from steelyard.backend.memory import MemoryBackend
from steelyard.control.machine import ControlMachine
from steelyard.core.commands import RecordDecision, RunBatch
from steelyard.core.events import ServiceDraining
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, Service, ServiceTimes
from steelyard.journal.records import CONTROL, machine_name
from steelyard.metrics.exporter import Exporter
from steelyard.metrics.summary import Counts
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.serve.base import End
from steelyard.serve.control_driver import ControlDriver
from steelyard.serve.planner import InlinePlanner
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.testing.virtual_clock import VirtualTimeLoop

WINDOW_S = 0.1


class Ended(NamedTuple):
    """One request, how it ended and when."""

    request: Request
    end: End
    ended_s: float


class ReplicaChange(NamedTuple):
    """One change of a replica: its state and its reserved cores from `at_s` on."""

    at_s: float
    service: str
    replica_id: int
    state: str
    cores: float


class VirtualRun(NamedTuple):
    """What came of a run; core-seconds and counts by service."""

    ended: list[Ended]
    counts: dict[str, Counts]
    core_seconds: dict[str, float]
    changes: list[ReplicaChange]
    decisions: list[RecordDecision]


class VirtualServer:
    """One run of some services under a policy.

    Args:
        services: what is served.
        service_times: by (service, stage); what the policy and the machines believe.
        policy: registered name.
        requests: ascending in `arrived_s`, from `warm_s` on: before that, the first replicas start.
        seconds: end of the account of core-seconds.
        cores: of the node.
        true_time_s: (service, batch, cores) -> seconds it really takes; None as believed.
        cold_start_s: of every replica.
        warm_s: beginning of the account.
    """

    def __init__(
        self,
        services: Sequence[Service],
        service_times: Mapping[tuple[str, str], ServiceTimes],
        policy: str,
        requests: Sequence[Request],
        *,
        seconds: float,
        cores: int = 2,
        true_time_s: Callable[[str, RunBatch, float], float] | None = None,
        cold_start_s: float = 0.2,
        warm_s: float = 1.0,
    ) -> None:
        self._services = {service.name: service for service in services}
        self._times = dict(service_times)
        self._policy = policy
        self._requests = requests
        self._seconds = seconds
        self._cores = cores
        self._true_time_s = true_time_s or self._believed_s
        self._cold_start_s = cold_start_s
        self._warm_s = warm_s
        self._service_of: dict[int, str] = {}
        self._exporter = Exporter({s.name: s.slo_s for s in services}, version="virtual", now_s=0.0)
        self._ended: list[Ended] = []
        self._changes: list[ReplicaChange] = []
        self._decisions: list[RecordDecision] = []

    def run(self) -> VirtualRun:
        """Run to the last answer."""
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(self._run())

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        """Take down a replica's change (`control_driver.ReplicaWatch`)."""
        now_s = asyncio.get_running_loop().time()
        self._service_of[replica_id] = service
        self._exporter.set_replica(service, replica_id, state, cores, now_s=now_s)
        self._changes.append(ReplicaChange(now_s, service, replica_id, state, cores))

    async def _run(self) -> VirtualRun:
        loop = asyncio.get_running_loop()

        def sink(event: BackendEvent) -> None:
            control.on_backend(event)

        def service_time_s(batch: RunBatch, cores: float) -> float:
            return self._true_time_s(self._service_of[batch.replica_id], batch, cores)

        def pump(name: str, machine: ServiceMachine | ControlMachine) -> MachinePump:
            return MachinePump(name, machine, clock=loop.time, call_at=loop.call_at, record=_nobody)

        def context() -> PolicyContext:
            return PolicyContext(self._services, self._times)

        backend = MemoryBackend(
            range(self._cores),
            sink,
            loop=loop,
            service_time_s=service_time_s,
            cold_start_s=self._cold_start_s,
        )
        drained = {name: asyncio.Event() for name in self._services}
        drivers = {
            name: ServiceDriver(
                pump(machine_name(name), ServiceMachine(service, self._times_of(name))),
                backend,
                free=lambda _: None,
                report=lambda event: control.handle(event),  # noqa: PLW0108 - control does not exist yet
                on_end=self._on_end,
                on_drained=drained[name].set,
            )
            for name, service in self._services.items()
        }
        machine = ControlMachine(self._services, make_policy(self._policy, context()), window_s=WINDOW_S)
        planner = InlinePlanner(make_policy(self._policy, context()), call_later=loop.call_later)
        control = ControlDriver(
            pump(CONTROL, machine),
            backend,
            drivers,
            planner=planner,
            watch=self,
            on_decision=self._decisions.append,
        )
        control.handle(backend.node())
        for request in self._requests:
            loop.call_at(request.arrived_s, drivers[request.service].submit, request, _nobody)
        windows = round(self._seconds / WINDOW_S)
        for window in range(1, windows + 1):
            loop.call_at(window * WINDOW_S, control.close_window)
        await asyncio.sleep(self._warm_s)
        before = self._core_seconds(self._warm_s)
        await asyncio.sleep(self._seconds - self._warm_s)
        after = self._core_seconds(self._seconds)
        for driver in drivers.values():
            driver.handle(ServiceDraining())
        await asyncio.gather(*(event.wait() for event in drained.values()))
        control.stop()
        await backend.close()
        return VirtualRun(
            self._ended,
            {name: metrics.summary.counts for name, metrics in self._exporter.services.items()},
            {name: after[name] - before[name] for name in after},
            self._changes,
            self._decisions,
        )

    def _times_of(self, service: str) -> dict[str, ServiceTimes]:
        return {stage: times for (owner, stage), times in self._times.items() if owner == service}

    def _believed_s(self, service: str, batch: RunBatch, cores: float) -> float:
        return self._times[service, batch.stage].service_time_s(batch.variant, 0, batch.rows, cores)

    def _core_seconds(self, now_s: float) -> dict[str, float]:
        services = self._exporter.services.items()
        return {name: metrics.core_seconds.total(now_s=now_s) for name, metrics in services}

    def _on_end(self, request: Request, end: End) -> None:
        now_s = asyncio.get_running_loop().time()
        self._exporter.observe_end(request.service, request, end, now_s=now_s)
        self._ended.append(Ended(request, end, now_s))


def _nobody(*_: object) -> None:
    """Takes what nobody wants."""
