"""What a simulation is given: plain values, so that a run can be sent to another process and hashed.

One scenario is one run: one policy, one seed. Everything random (arrivals within their seconds, service
times, counts of items) follows from `seed` and the name of what it is for, so that two policies with the
same seed see the same arrivals and the same items.
"""

from typing import Any, NamedTuple

from steelyard.core.types import Frozen, Service
from steelyard.profile.tables import StageTimes
from steelyard.workload.trace import ArrivalTrace, CountTrace

WINDOW_S = 0.1


class SimulatedNode(Frozen, frozen=True):
    """A node of the simulated cluster; `devices` by kind; `fractional` if it enforces parts of a core.

    Parts of a core that are idle are the neighbours' if it `lends` them (`lending`), and nobody's if not.
    `memory_bytes` is what its replicas may take together; 0: as much as they like.
    """

    name: str
    cores: int
    fractional: bool = False
    devices: dict[str, int] = {}
    memory_bytes: int = 0
    lends: bool = True


class Failure(Frozen, frozen=True):
    """The oldest `count` ready replicas of a stage are lost at `at_s`."""

    at_s: float
    service: str
    stage: str
    count: int = 1


class SlowDown(Frozen, frozen=True):
    """Batches that start in `[from_s, to_s)` take `factor` times as long: a neighbour, throttling."""

    from_s: float
    to_s: float
    factor: float


class Physics(Frozen, frozen=True):
    """What a machine does that no profile of one variant says.

    Attributes:
        dispatch_s: from a `RunBatch` to the start of its batch, and the same from its end to the news of it.
        sensing_lag_s: from the end of a sensing window to its report.
        corun_ratio: service time while every other core of the node is busy, over that alone; between the
            two it grows with the share of the other cores that are busy.
        starting_ratio: service time of a replica on whose cores another one starts, over that alone.
        failures: losses of replicas, by schedule.
        slow_downs: times when the whole machine is slower.
    """

    dispatch_s: float = 0.0
    sensing_lag_s: float = 0.0
    corun_ratio: float = 1.0
    starting_ratio: float = 1.0
    failures: tuple[Failure, ...] = ()
    slow_downs: tuple[SlowDown, ...] = ()


class Scenario(NamedTuple):
    """One run.

    Attributes:
        services: by name.
        times: what is known of each stage of each service; what policies believe and what comes true.
        traces: by service; a trace's own marks name rows, budgets and classes, its service is not looked at.
        policy: a registered name, with `+ours` for the shared data plane.
        options: the policy's own.
        nodes: the cluster.
        classes: latency bound in seconds, by service and SLO class.
        seed: of everything random.
        cold: start with no replica at all; otherwise with the policy's own plan for the largest rate of the
            first 30 s, ready at time 0.
        physics: what the machine adds.
        label: what the run is called in reports; empty for the policy's name.
    """

    services: dict[str, Service]
    times: tuple[StageTimes, ...]
    traces: dict[str, CountTrace | ArrivalTrace]
    policy: str
    options: dict[str, Any]
    nodes: tuple[SimulatedNode, ...]
    classes: dict[str, dict[str, float]] = {}
    seed: int = 0
    cold: bool = False
    physics: Physics = Physics()
    label: str = ""
