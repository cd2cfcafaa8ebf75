"""The planning problem as a value: stages, rate, objective, nodes and prices in; replicas, cores, rows out.

A stage s runs n replicas of c cores each, with batches of at most b rows. With l(b, c) its service time and
q(n, c, b) its queueing delay by the problem's wait model (`steelyard.plan.waits`):

    minimise    sum over s of price(n_s, c_s)
    subject to  sum of l + q over every path of the pipeline <= SLO,
                n_s b_s / l(b_s, c_s) >= rate x fan_out_s,
                the replicas fit the nodes (if there are any: no node means no limit).

Service times come as a table, not as a function: so problems are plain values that can be compared, hashed,
sent to another process and stored in a test.
"""

from collections.abc import Callable
from math import ceil, isfinite

from steelyard.core.errors import ProfileError, SpecError
from steelyard.core.plan import Infeasible
from steelyard.core.types import Frozen, ServiceTimes, Stage, Variant

__all__ = [
    "Infeasible",
    "PlanProblem",
    "PlanStage",
    "PlannedService",
    "PlannedStage",
    "Prices",
    "Table",
    "stage_of",
    "tabulate",
]

Table = tuple[tuple[float, ...], ...]
"""Seconds a batch takes, `table[rows - 1][cores - 1]`."""


class Prices(Frozen, frozen=True):
    """What a plan costs, in cores: one core for as long as the plan lasts is 1.

    Attributes:
        core: a core.
        start: starting one replica that is not there.
        resize: resizing one that is there and stays.
    """

    core: float = 1.0
    start: float = 0.0
    resize: float = 0.0


class PlanStage(Frozen, frozen=True):
    """One stage.

    Attributes:
        name: unique in the problem.
        service_time_s: the table by which capacity is reckoned.
        latency_s: the table by which latency is reckoned, a high quantile; empty: `service_time_s`.
        after: names of the stages that it needs the results of.
        fan_out: rows it is given for each row of a request, > 0.
        replicas_max: most replicas.
        replica_price: one replica, beside its cores: its memory.
        present: cores of the replicas that are there now, in any order.
    """

    name: str
    service_time_s: Table
    latency_s: Table = ()
    after: tuple[str, ...] = ()
    fan_out: float = 1.0
    replicas_max: int = 1000
    replica_price: float = 0.0
    present: tuple[int, ...] = ()

    @property
    def burst(self) -> int:
        """Rows of a request that reach the stage at once."""
        return max(1, ceil(self.fan_out))

    @property
    def rows_max(self) -> int:
        """Rows in the largest batch of the table."""
        return len(self.service_time_s)

    @property
    def cores_max(self) -> int:
        """Cores of the largest replica of the table."""
        return len(self.service_time_s[0])


class PlanProblem(Frozen, frozen=True):
    """One service at one arrival rate.

    Attributes:
        service: its name, for messages.
        stages: in topological order.
        arrival_rate_rps: rows of requests a second, >= 0.
        slo_s: latency bound, seconds.
        quantile: share of requests that must meet it.
        wait: name of the wait model, a key of `steelyard.plan.waits.WAITS`.
        nodes: free cores of each node; empty: no limit.
        prices: what is minimised.
        extra_replicas_max: beyond the fewest replicas that carry the rate, how many more are looked at, to
            shorten the wait.
        loss_scale: for wait models that count busy replicas: a stage may lose this many times its equal share
            of what the SLO allows. 1 is safe for any waits; see `steelyard.plan.tight`.
    """

    service: str
    stages: tuple[PlanStage, ...]
    arrival_rate_rps: float
    slo_s: float
    quantile: float = 0.99
    wait: str = "tail"
    nodes: tuple[int, ...] = ()
    prices: Prices = Prices()
    extra_replicas_max: int = 4
    loss_scale: float = 1.0

    def rate_rps(self, stage: PlanStage) -> float:
        """Rows a second that `stage` is given."""
        return self.arrival_rate_rps * stage.fan_out

    def after(self) -> tuple[tuple[int, ...], ...]:
        """For each stage the indices of those that it needs, checked.

        Raises:
            SpecError: a name is unknown or twice there, or a stage comes before one that it needs.
        """
        known: dict[str, int] = {}
        edges: list[tuple[int, ...]] = []
        for index, stage in enumerate(self.stages):
            for name in stage.after:
                if name not in known:
                    names = ", ".join(known) or "none"
                    raise SpecError(f"stage {stage.name}: after {name}, want one of those before it: {names}")
            if stage.name in known:
                raise SpecError(f"stage {stage.name}: there are two of that name")
            edges.append(tuple(sorted({known[name] for name in stage.after})))
            known[stage.name] = index
        return tuple(edges)


class PlannedStage(Frozen, frozen=True):
    """What a stage is to have.

    Attributes:
        name: the stage's.
        replicas: how many, >= 1.
        cores: of each.
        rows: largest batch.
        time_s: queueing delay plus service time, as the problem's wait model has it.
        nodes: index of each replica's node; empty if the problem has no nodes.
    """

    name: str
    replicas: int
    cores: int
    rows: int
    time_s: float
    nodes: tuple[int, ...] = ()


class PlannedService(Frozen, frozen=True):
    """A plan for all stages.

    Attributes:
        stages: in the order of the problem's.
        latency_s: of the longest path, at most the SLO.
        cost: by the problem's prices.
        cost_bound: no plan is cheaper than this; equal to `cost` where optimality is proven.
    """

    service: str
    stages: tuple[PlannedStage, ...]
    latency_s: float
    cost: float
    cost_bound: float

    @property
    def cores(self) -> int:
        """Cores of all replicas together."""
        return sum(stage.replicas * stage.cores for stage in self.stages)

    @property
    def gap(self) -> float:
        """How far `cost` may be above the optimum, as a share of it; 0: proven optimal."""
        excess = self.cost - self.cost_bound
        return excess / self.cost_bound if excess > 1e-9 * abs(self.cost) and self.cost_bound > 0 else 0.0


def tabulate(time_s: Callable[[int, int], float], rows_max: int, cores_max: int) -> Table:
    """The table of a function of (rows, cores).

    Raises:
        ProfileError: a time is not a positive number.
    """
    table = tuple(
        tuple(time_s(rows, cores) for cores in range(1, cores_max + 1)) for rows in range(1, rows_max + 1)
    )
    for rows, line in enumerate(table, start=1):
        for cores, value in enumerate(line, start=1):
            if not (isfinite(value) and value > 0):
                raise ProfileError(f"{rows} rows on {cores} cores take {value} s: want a time > 0")
    return table


def stage_of(
    stage: Stage,
    variant: Variant,
    times: ServiceTimes,
    *,
    cores_max: int | None = None,
    rows_max: int | None = None,
    ratio: float = 1.0,
) -> PlanStage:
    """A stage of a service on one of its variants, from its profile's medians and 0.99 quantiles.

    Args:
        stage: its name, order and fan-out are taken over.
        variant: its limits are, unless `cores_max` and `rows_max` are smaller.
        times: the stage's service times; shape bucket 0.
        cores_max: cores of the largest replica that may be planned: the largest node's.
        rows_max: largest batch that may be planned.
        ratio: observed over profiled service time.

    Raises:
        ProfileError: a time is not a positive number.
    """
    cores = min(variant.cores_max, cores_max or variant.cores_max)
    rows = min(variant.batch_rows_max, rows_max or variant.batch_rows_max)
    return PlanStage(
        name=stage.name,
        service_time_s=tabulate(
            lambda b, c: ratio * times.service_time_s(variant.name, 0, b, float(c)), rows, cores
        ),
        latency_s=tabulate(
            lambda b, c: ratio * times.service_time_s_p99(variant.name, 0, b, float(c)), rows, cores
        ),
        after=stage.after,
        fan_out=float(stage.fan_out),
    )
