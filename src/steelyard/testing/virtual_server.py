"""The live drivers on virtual time: real machines, a real policy, replicas in memory; a minute in a second.

What tests of policies run. Everything is what the server runs, down to the drivers, but for the ends:
arrivals come from a list, batches and cold starts take the seconds they are told to, and each `decide` is
answered by a second instance of the policy after its declared `solve_s`. What is left out is what only a
machine has: noise, neighbours, and cores that are not really there. Runs with equal arguments are the same.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from steelyard.backend.base import BackendEvent
from steelyard.backend.memory import MemoryBackend
from steelyard.control.machine import ControlMachine
from steelyard.core.commands import Command, Complete, Discard, RecordDecision, RunBatch
from steelyard.core.events import Event, NodeJoined, ServiceDraining
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId, Service, ServiceTimes
from steelyard.journal.records import CONTROL, machine_name
from steelyard.policies.base import Policy
from steelyard.serve.base import End
from steelyard.serve.control_driver import ControlDriver
from steelyard.serve.planner import InlinePlanner
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.sim.items import stage_items
from steelyard.testing.virtual_clock import VirtualTimeLoop

WINDOW_S = 0.1


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


class VirtualServer:
    """One run of some services on one node; it starts cold.

    Args:
        services: by name.
        service_times: by (service, stage); what everybody believes, and what is true but for `spread`.
        make: makes a policy; called twice, for `react` and for `decide`.
        arrivals: seconds of single-row requests, ascending, by service.
        cores: of the node.
        fractional: whether the node enforces parts of a core.
        spread: sigma of a log-normal factor on service times; 0 for none.
        seed: of that factor, and of items.

    Attributes:
        ended: by service, in the order of their ends.
        history: every change of reserved cores until the end of the run.
        decisions: everything recorded.
        sent: every command of the control machine until the end of the run, with its time.
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
        self._services = dict(services)
        self._times = dict(service_times)
        self._node = NodeJoined("local", tuple(range(cores)), fractional)
        self._spread = spread
        self._rng = np.random.default_rng(seed)
        self._counts = {
            (name, stage): items.of
            for name, service in services.items()
            for stage, items in stage_items(service, seed).items()
        }
        self._arrivals = {name: tuple(times_s) for name, times_s in arrivals.items()}
        self._losses: list[tuple[float, int]] = []
        self._cores: dict[int, tuple[str, float]] = {}
        self._is_over = False
        self._control = ControlMachine(self._services, make(), window_s=WINDOW_S)
        self._planning = make()
        self.ended: dict[str, list[Ended]] = {name: [] for name in services}
        self.history: list[CoresAt] = []
        self.decisions: list[RecordDecision] = []
        self.sent: list[tuple[float, Command]] = []

    def lose(self, replica_id: int, at_s: float) -> None:
        """Let a replica's worker die at `at_s`; to be said before the run."""
        self._losses.append((at_s, replica_id))

    def run(self, until_s: float) -> "VirtualServer":
        """Run for `until_s` virtual seconds and answer what is open then; once. Returns itself."""
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(self._run(until_s))
        return self

    def violation_ratio(self, service: str, *, from_s: float = 0.0) -> float:
        """Violations over requests, of those that arrived from `from_s` on."""
        ended = [e for e in self.ended[service] if e.arrived_s >= from_s]
        return sum(e.violated for e in ended) / len(ended) if ended else 0.0

    def core_seconds(self, until_s: float, service: str | None = None) -> float:
        """Cores reserved, over time: from each start to its end, cold starts included."""
        total = 0.0
        for name in [service] if service is not None else list(self._services):
            steps = [step for step in self.history if step.service == name]
            ends = [*(step.at_s for step in steps[1:]), until_s]
            total += sum(step.cores * (end - step.at_s) for step, end in zip(steps, ends, strict=False))
        return total

    def count(self, kind: type[Command]) -> int:
        """Commands of one kind that the control machine has sent."""
        return sum(isinstance(command, kind) for _, command in self.sent)

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        """Take down a replica's change (`control_driver.ReplicaWatch`)."""
        if self._is_over:
            return
        self._cores[replica_id] = (service, 0.0 if state == "gone" else cores)
        total = sum(held for owner, held in self._cores.values() if owner == service)
        self.history.append(CoresAt(asyncio.get_running_loop().time(), service, total))

    async def _run(self, until_s: float) -> None:
        loop = asyncio.get_running_loop()

        def sink(event: BackendEvent) -> None:
            control.on_backend(event)

        def pump(name: str, machine: ServiceMachine | ControlMachine) -> MachinePump:
            return MachinePump(name, machine, clock=loop.time, call_at=loop.call_at, record=self._record)

        backend = MemoryBackend(
            self._node.core_ids,
            sink,
            loop=loop,
            service_time_s=self._service_time_s,
            cold_start_s=self._cold_start_s(),
            counts=self._counts,
        )
        drained = {name: asyncio.Event() for name in self._services}
        drivers = {
            name: ServiceDriver(
                pump(machine_name(name), ServiceMachine(service, self._times_of(name))),
                backend,
                free=_nobody,
                report=lambda event: control.handle(event),  # noqa: PLW0108 - control does not exist yet
                on_end=self._on_end,
                on_drained=drained[name].set,
            )
            for name, service in self._services.items()
        }
        control = ControlDriver(
            pump(CONTROL, self._control),
            backend,
            drivers,
            planner=InlinePlanner(self._planning, call_later=loop.call_later),
            watch=self,
            on_decision=self.decisions.append,
        )
        control.handle(self._node)
        for request in self._requests():
            loop.call_at(request.arrived_s, drivers[request.service].submit, request, _nobody)
        for at_s, replica_id in self._losses:
            loop.call_at(at_s, backend.lose, replica_id)
        for window in range(1, round(until_s / WINDOW_S) + 1):
            loop.call_at(window * WINDOW_S, control.close_window)
        await asyncio.sleep(until_s)
        self._is_over = True
        for driver in drivers.values():
            driver.handle(ServiceDraining())
        await asyncio.gather(*(event.wait() for event in drained.values()))
        control.stop()
        await backend.close()

    def _requests(self) -> Iterable[Request]:
        """Numbered as in a simulation, since items follow from the number."""
        for front_end, (name, service) in enumerate(self._services.items()):
            for sequence, at_s in enumerate(self._arrivals.get(name, ())):
                deadline_s = at_s + service.slo_s
                yield Request(RequestId(front_end, sequence), name, 1, "x", at_s, deadline_s)

    def _times_of(self, service: str) -> dict[str, ServiceTimes]:
        return {stage: times for (owner, stage), times in self._times.items() if owner == service}

    def _cold_start_s(self) -> float:
        """One for all replicas: the longest."""
        stages = [stage for service in self._services.values() for stage in service.stages]
        return max(variant.cold_start_s for stage in stages for variant in stage.variants)

    def _service_time_s(self, batch: RunBatch, cores: float) -> float:
        service, _ = self._cores[batch.replica_id]
        median_s = self._times[service, batch.stage].service_time_s(batch.variant, 0, batch.rows, cores)
        factor = float(np.exp(self._spread * self._rng.standard_normal())) if self._spread else 1.0
        return median_s * factor

    def _record(self, name: str, now_s: float, event: Event, commands: list[Command]) -> None:
        del event
        if name == CONTROL:
            self._control.validate()
            if not self._is_over:
                self.sent += [(now_s, command) for command in commands]

    def _on_end(self, request: Request, end: End) -> None:
        now_s = asyncio.get_running_loop().time()
        self.ended[request.service].append(Ended(request.arrived_s, now_s, end))


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


def _nobody(*_: object) -> None:
    """Takes what nobody wants."""
