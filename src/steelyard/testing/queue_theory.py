"""Textbook queues in the simulator: waits of M/M/c and M/D/c, with confidence intervals by batch means.

A queue is one stage with `servers` replicas of one core, batches of one, first come first served, nobody
turned away. Arrivals are Poisson: counts drawn a second, uniform within it. Consecutive waits depend on each
other, so their variance says little; figures of long batches of them hardly do, and Student's t gives the
interval around the figure of all (sectioning; Asmussen and Glynn, Stochastic Simulation, 2007, III.5).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import Complete
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.formula import Distribution
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.draws import generator
from steelyard.sim.result import SimulatedRun
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.testing.fixed_plan import fixed
from steelyard.workload.trace import count_trace

MEDIAN_S = 0.010
MEAN_S = {"fixed": MEDIAN_S, "exponential": MEDIAN_S / float(np.log(2))}
"""Mean service time, seconds, by distribution."""

BATCHES = 30
T_99 = 2.756
"""Student's t for 30 batches: 0.995 quantile with 29 degrees of freedom."""


class Queue(NamedTuple):
    """A queue with Poisson arrivals; `rho` is the share of time that a server is busy."""

    distribution: Distribution
    servers: int
    rho: float

    @property
    def arrival_rate_rps(self) -> float:
        """Arrivals a second."""
        return self.rho * self.servers / MEAN_S[self.distribution]


class Interval(NamedTuple):
    """A figure and half the width of its 99 % confidence interval."""

    value: float
    half_width: float

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return abs(value - self.value) <= self.half_width


def waits_s(queue: Queue, *, requests: int, seed: int) -> tuple[NDArray[np.float64], SimulatedRun]:
    """Waits from arrival to start of service, in the order of completion, without the first tenth."""
    scenario, plan = _scenario(queue, requests, seed)
    waits: list[float] = []

    def journal(_: str, __: float, ___: Any, commands: list[Any]) -> None:
        waits.extend(command.queue_s for command in commands if type(command) is Complete)

    run = simulate(scenario, journal=journal, make=fixed(plan))
    return np.array(waits[len(waits) // 10 :]), run


def mean_s(waits: NDArray[np.float64]) -> Interval:
    """Mean wait."""
    return _interval(waits, lambda some: float(np.mean(some)))


def quantile_s(waits: NDArray[np.float64], quantile: float) -> Interval:
    """A quantile of the wait; a batch must hold many waits beyond it."""
    return _interval(waits, lambda some: float(np.quantile(some, quantile)))


def _interval(waits: NDArray[np.float64], figure: Callable[[NDArray[np.float64]], float]) -> Interval:
    of_batches = [figure(batch) for batch in np.array_split(waits, BATCHES)]
    return Interval(figure(waits), T_99 * float(np.std(of_batches, ddof=1)) / BATCHES**0.5)


def _scenario(queue: Queue, requests: int, seed: int) -> tuple[Scenario, ServicePlan]:
    stage = Stage("serve", (Variant("one"),))
    service = Service("queue", 1e6, (stage,), queue_rows_max=10**9, reply_s=0.0)
    latency = DeclaredLatency((0.0, 0.0, 0.0, MEDIAN_S * 1e3), distribution=queue.distribution)
    rules = StageRules(order="fifo", drop="none", admission="open")
    replicas = (ReplicaPlan(1.0, ("one",)),) * queue.servers
    plan = ServicePlan("queue", {"serve": StagePlan(replicas, (VariantShare("one", 1.0),), rules=rules)})
    seconds = max(1, round(requests / queue.arrival_rate_rps))
    counts = generator(seed, "queue", "counts").poisson(queue.arrival_rate_rps, seconds)
    scenario = Scenario(
        {"queue": service},
        (StageTimes("queue", "serve", (), {"one": latency}),),
        {"queue": count_trace(counts)},
        "fixed",
        {},
        (SimulatedNode("local", queue.servers),),
        seed=seed,
    )
    return scenario, plan
