"""`simulate`: one scenario from its first arrival to its last answer; `simulate_many`: several on all cores.

The machines and policies are those that serve; only the ends differ: a heap for a clock, drawn service times,
a trace for clients. The order of what happens is documented in `kernel` and docs/simulator.md. After the end
of the trace nothing is charged and nothing arrives; what is open is finished, and counts.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import RunBatch, StopReplica
from steelyard.core.errors import SpecError
from steelyard.core.events import NodeJoined
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Service, ServiceTimes
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import service_times
from steelyard.sim.account import Account, Costs, Ends
from steelyard.sim.clients import Clients
from steelyard.sim.cluster import Cluster, Listener
from steelyard.sim.control_driver import ControlDriver, Listening
from steelyard.sim.draws import Durations, generator
from steelyard.sim.items import stage_items
from steelyard.sim.kernel import Kernel, Kind
from steelyard.sim.result import SimulatedRun, flow_of, series_of, summary_of
from steelyard.sim.scenario import WINDOW_S, Scenario
from steelyard.sim.service_driver import Journal, ServiceDriver
from steelyard.sim.warmth import WARM_S, WINDOWS_PER_S, warm_windows
from steelyard.workload.arrivals import Arrivals
from steelyard.workload.trace import count_trace

DRAIN_S_MAX = 600.0
"""Seconds after the trace's end when requests that are still open count as failed."""

Progress = Callable[[float, float], None]
"""(simulated seconds so far, seconds of the trace)."""

MakePolicy = Callable[[PolicyContext], Policy]


class Simulation:
    """One run, taken to pieces for those who want to look at more than `SimulatedRun` says.

    Args:
        scenario: what is run.
        on_progress: told of every simulated second.
        journal: told of every event and its commands, before they are carried out.
        make: makes the policy (two instances), instead of the registry by the scenario's name.

    Attributes:
        seconds: length of the longest trace.
        accounts: by service.
        costs: by service.

    Raises:
        SpecError: the scenario names a service that is not there, or one without service times.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        on_progress: Progress | None = None,
        journal: Journal | None = None,
        make: MakePolicy | None = None,
    ) -> None:
        check(scenario)
        self._scenario = scenario
        self._on_progress = on_progress
        self._kernel = Kernel(start_s=0.0 if scenario.cold else -float(WARM_S))
        silence = count_trace([0])
        self._arrivals = {name: Arrivals(scenario.traces.get(name, silence)) for name in scenario.services}
        self.seconds = max(arrivals.seconds for arrivals in self._arrivals.values())
        self.accounts = {name: Account(self._kernel) for name in scenario.services}
        self.costs = {name: Costs(self._kernel) for name in scenario.services}
        self._listeners: dict[str, Listener] = {}
        self._drivers: dict[str, ServiceDriver] = {}
        self._windows_closed = 0
        self._undrained = len(scenario.services)
        cluster = self._cluster = Cluster(
            self._kernel,
            scenario.nodes,
            scenario.services,
            {(t.service, t.stage): Durations(t, scenario.seed) for t in scenario.times},
            {
                (name, stage): items
                for name, service in scenario.services.items()
                for stage, items in stage_items(service, scenario.seed).items()
            },
            physics=scenario.physics,
            costs=self.costs,
            listeners=self._listeners,
        )
        times = {(t.service, t.stage): service_times(t) for t in scenario.times}
        self._control = self._make_control(cluster, times, journal, make)
        for service in scenario.services.values():
            self._add_service(service, cluster, times, journal)

    def run(self) -> SimulatedRun:
        """Run to the end; once.

        Raises:
            AssertionError: a law does not hold: the accounts, or Little's law.
        """
        began_s = perf_counter()
        scenario = self._scenario
        nodes = [
            NodeJoined(n.name, tuple(range(n.cores)), n.fractional, n.devices, n.memory_bytes)
            for n in scenario.nodes
        ]
        if scenario.cold:
            for node in nodes:
                self._control.tell(node)
        else:
            rows = {name: arrivals.rows_by_second() for name, arrivals in self._arrivals.items()}
            self._control.warm_up(warm_windows(scenario.services, rows), nodes)
        for index, (name, service) in enumerate(scenario.services.items()):
            clients = Clients(
                service,
                self._arrivals[name],
                scenario.classes.get(name, {}),
                self.accounts[name],
                front_end=index,
            )
            self._drivers[name].serve(clients.requests(generator(scenario.seed, name, "arrivals")))
        for failure in scenario.physics.failures:
            self._kernel.schedule(failure.at_s, Kind.REPLICA, self._cluster.lose, failure)
        self._kernel.schedule(1 / WINDOWS_PER_S, Kind.WINDOW, self._close_window, None)
        self._kernel.schedule(float(self.seconds), Kind.END, self._end_trace, None)
        self._kernel.run()
        return self._result(max(perf_counter() - began_s, 1e-9))

    def _make_control(
        self,
        cluster: Cluster,
        times: dict[tuple[str, str], ServiceTimes],
        journal: Journal | None,
        make: MakePolicy | None,
    ) -> ControlDriver:
        scenario = self._scenario
        future = {name: tuple(a.rows_by_second().tolist()) for name, a in self._arrivals.items()}
        context = PolicyContext(scenario.services, times, scenario.options, future=future)
        make = make or partial(make_policy, scenario.policy)
        reacting, planning = make(context), make(context)
        machine = ControlMachine(scenario.services, reacting, window_s=WINDOW_S, policy_name=scenario.policy)
        lag_s = scenario.physics.sensing_lag_s
        return ControlDriver(
            machine, planning, self._kernel, cluster, self._drivers, sensing_lag_s=lag_s, journal=journal
        )

    def _add_service(
        self,
        service: Service,
        cluster: Cluster,
        times: dict[tuple[str, str], ServiceTimes],
        journal: Journal | None,
    ) -> None:
        name = service.name
        machine = ServiceMachine(service, {stage.name: times[name, stage.name] for stage in service.stages})
        driver = self._drivers[name] = ServiceDriver(
            machine,
            self._kernel,
            {RunBatch: cluster.run, StopReplica: cluster.stop, **self.accounts[name].actions},
            report=self._control.report,
            on_drained=self._on_drained,
            journal=journal,
        )
        self._listeners[name] = Listening(driver, self._control)

    def _close_window(self, _: None) -> None:
        for driver in self._drivers.values():
            driver.close_window()
        self._windows_closed += 1
        if self._windows_closed % WINDOWS_PER_S == 0:
            for costs in self.costs.values():
                costs.mark_second()
            if self._on_progress is not None:
                self._on_progress(min(self._kernel.now_s, float(self.seconds)), float(self.seconds))
        next_s = (self._windows_closed + 1) / WINDOWS_PER_S
        self._kernel.schedule(next_s, Kind.WINDOW, self._close_window, None)

    def _end_trace(self, _: None) -> None:
        for costs in self.costs.values():
            costs.close()
        self._kernel.schedule(self.seconds + DRAIN_S_MAX, Kind.END, self._give_up, None)
        for driver in self._drivers.values():
            driver.drain()

    def _on_drained(self) -> None:
        self._undrained -= 1
        if not self._undrained:
            self._kernel.stop()

    def _give_up(self, _: None) -> None:
        for account in self.accounts.values():
            account.give_up()
        self._kernel.stop()

    def _result(self, wall_s: float) -> SimulatedRun:
        scenario = self._scenario
        summaries, series, flows = [], [], []
        for name, service in scenario.services.items():
            account, costs, driver = self.accounts[name], self.costs[name], self._drivers[name]
            driver.settle()
            ends = account.ends()
            check_account(driver.machine, ends)
            flows.append(flow_of(name, ends, driver.request_seconds))
            summary = summary_of(
                scenario, service, account, ends, costs, self._control.decide_s,
                seconds=self.seconds, wall_s=wall_s,
            )  # fmt: skip
            summaries.append(summary)
            series.append(series_of(service, summary, account, ends, costs, seconds=self.seconds))
        return SimulatedRun(
            scenario.label or scenario.policy,
            scenario.seed,
            tuple(summaries),
            tuple(series),
            tuple(flows),
            tuple(self._control.decisions),
        )


def simulate(
    scenario: Scenario,
    *,
    on_progress: Progress | None = None,
    journal: Journal | None = None,
    make: MakePolicy | None = None,
) -> SimulatedRun:
    """Run one scenario; equal scenarios give equal runs, but for wall times.

    Args:
        scenario: what is run.
        on_progress: told of every simulated second.
        journal: told of every event and its commands, before they are carried out.
        make: makes the policy (two instances), instead of the registry by the scenario's name.

    Raises:
        SpecError: the scenario contradicts itself, or its policy is unknown or refuses its options.
        TraceError: a request of the trace is none that the service takes.
        AssertionError: a law does not hold: the accounts, or Little's law.
    """
    return Simulation(scenario, on_progress=on_progress, journal=journal, make=make).run()


def check(scenario: Scenario) -> None:
    """Refuse a scenario that contradicts itself.

    Raises:
        SpecError: no service or node, a trace or failure of an unknown one, a stage without times.
    """
    if not scenario.services or not scenario.nodes:
        name = scenario.label or scenario.policy
        raise SpecError(f"scenario {name}: want at least one service and one node")
    known = ", ".join(scenario.services)
    for name in (*scenario.traces, *scenario.classes):
        if name not in scenario.services:
            raise SpecError(f"no service {name!r}; there are: {known}")
    stages = [f"{s.name}.{stage.name}" for s in scenario.services.values() for stage in s.stages]
    for failure in scenario.physics.failures:
        if f"{failure.service}.{failure.stage}" not in stages:
            raise SpecError(f"no stage {failure.service}.{failure.stage}; there are: {', '.join(stages)}")
    timed = {(times.service, times.stage) for times in scenario.times}
    for service in scenario.services.values():
        for stage in service.stages:
            if (service.name, stage.name) not in timed:
                raise SpecError(f"service {service.name}: stage {stage.name} has no service times")


def check_account(machine: ServiceMachine, ends: Ends) -> None:
    """The account and the machine count the same; what was given up is open in the machine.

    Raises:
        AssertionError: they do not.
    """
    theirs = machine.counts
    theirs = theirs._replace(failed=theirs.failed + machine.open_requests)
    ours = ends.counts(theirs.rows)
    assert ours == theirs, f"service {machine.service.name}: {ours} in the account, {theirs} in the machine"
