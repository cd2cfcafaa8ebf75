"""What each stage may choose from: (replicas, cores, rows), with time and price; one stage's constraints.

Replicas follow from cores and rows: as few as carry the rate, and where the wait model counts busy replicas
up to `extra_replicas_max` more, since then more replicas wait less. The options of all stages are reckoned in
one go, one array entry an option: a plan is then a few dozen array operations, however many stages there are.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import SpecError
from steelyard.plan.graph import StageOptions
from steelyard.plan.pareto import Floats
from steelyard.plan.problem import PlannedStage, PlanProblem, PlanStage, Table
from steelyard.plan.tails import RHO_MAX
from steelyard.plan.waits import Load, wait_model

Ints = NDArray[np.int64]
_ROUNDING = 1e-9


class StageChoices(NamedTuple):
    """A stage's options, arrays of shape (options,); ordered by cores, then rows, then replicas."""

    replicas: Ints
    cores: Ints
    rows: Ints
    time_s: Floats
    cost: Floats

    def options(self) -> StageOptions:
        """Times and costs alone."""
        return StageOptions(self.time_s, self.cost)

    def where(self, kept: NDArray[np.bool_] | slice) -> "StageChoices":
        """Some of them."""
        return StageChoices(
            self.replicas[kept], self.cores[kept], self.rows[kept], self.time_s[kept], self.cost[kept]
        )

    def planned(self, name: str, index: int) -> PlannedStage:
        """Option `index` as a plan, on no node yet."""
        return PlannedStage(
            name,
            int(self.replicas[index]),
            int(self.cores[index]),
            int(self.rows[index]),
            float(self.time_s[index]),
        )


class _Cells(NamedTuple):
    """All stages' tables, flat: one entry for each (stage, cores, rows); `owner` is the stage's index."""

    owner: Ints
    cores: Ints
    rows: Ints
    service_s: Floats
    single_s: Floats
    latency_s: Floats

    def where(self, kept: NDArray[np.intp]) -> "_Cells":
        """Some of them, in the order of `kept`."""
        owner, cores, rows, service_s, single_s, latency_s = self
        return _Cells(owner[kept], cores[kept], rows[kept], service_s[kept], single_s[kept], latency_s[kept])


def choices(
    problem: PlanProblem, *, replicas: Sequence[int] | None = None, cores_max: int | None = None
) -> list[StageChoices]:
    """For each stage all options that carry its rate, which may be none.

    Args:
        problem: its SLO is not looked at.
        replicas: if not None, exactly so many of each stage.
        cores_max: cores of the largest replica, if less than the tables' and the largest node's.

    Raises:
        SpecError: there is no such wait model, or the rate is negative or not finite.
    """
    limit = min(cores_max or 1 << 30, max(problem.nodes, default=1 << 30))
    cells = _cells(tuple((s.service_time_s, s.latency_s, s.burst) for s in problem.stages), limit)
    busy = wait_model(problem.wait).busy
    offered = _rates(problem)[cells.owner] * cells.service_s / cells.rows
    least = np.maximum(1, np.ceil(offered / (RHO_MAX if busy else 1.0) - _ROUNDING)).astype(np.int64)
    if replicas is None:
        extra = np.arange(problem.extra_replicas_max + 1 if busy else 1)
        of = np.repeat(np.arange(len(least)), len(extra))
        counts = (least[:, None] + extra).ravel()
    else:
        given = np.asarray(replicas, dtype=np.int64)[cells.owner]
        of = np.flatnonzero(given >= least)
        counts = given[of]
    most = np.array([stage.replicas_max for stage in problem.stages])
    kept = counts <= most[cells.owner[of]]
    counts = counts[kept]
    owner, cores, rows, service_s, single_s, latency_s = cells.where(of[kept])
    times = latency_s + _waits_s(problem, owner, counts, rows, service_s, single_s)
    finite = np.isfinite(times)
    cost = _prices(problem, owner, counts, cores)
    every = StageChoices(counts, cores, rows, times, cost).where(finite)
    borders = np.searchsorted(owner[finite], np.arange(len(problem.stages) + 1)).tolist()
    return [every.where(slice(first, end)) for first, end in pairwise(borders)]


def evaluated(
    problem: PlanProblem, stage: PlanStage, replicas: int, cores: int, rows: int
) -> tuple[float, float]:
    """Time and price of one choice for one stage, whether or not it carries the rate; inf if it never can.

    Time is queueing delay plus service time, q(n, c, b) + l(b, c).
    """
    owner, n, c, b = (
        np.array([value], dtype=np.int64) for value in (problem.stages.index(stage), replicas, cores, rows)
    )
    service_s = stage.service_time_s[rows - 1][cores - 1]
    latency_s = stage.latency_s[rows - 1][cores - 1] if stage.latency_s else service_s
    single_s = stage.service_time_s[min(rows, stage.burst) - 1][cores - 1]
    wait_s = _waits_s(problem, owner, n, b, np.array([service_s]), np.array([single_s]))
    return latency_s + float(wait_s[0]), float(_prices(problem, owner, n, c)[0])


def capacity_rps(stage: PlanStage, rows: int, cores: int) -> float:
    """Rows a second of one replica: b / l(b, c)."""
    return rows / stage.service_time_s[rows - 1][cores - 1]


def _losses(problem: PlanProblem) -> Floats:
    """Share of each stage's bursts that may wait longer than is planned for.

    Wait models that count busy replicas divide what the SLO allows (1 - q) among the stages: a request is
    late only if it is late somewhere. The others take q as it is, as they were published.
    """
    loss, stages = 1.0 - problem.quantile, len(problem.stages)
    if wait_model(problem.wait).busy:
        loss = min(0.5, problem.loss_scale * loss / stages)
    return np.full(stages, loss)


def _rates(problem: PlanProblem) -> Floats:
    """Rows a second of each stage: rate x fan_out."""
    if not (isfinite(problem.arrival_rate_rps) and problem.arrival_rate_rps >= 0):
        raise SpecError(f"want an arrival rate >= 0, not {problem.arrival_rate_rps}")
    return np.array([problem.rate_rps(stage) for stage in problem.stages])


def _waits_s(
    problem: PlanProblem,
    owner: NDArray[np.intp],
    replicas: Ints,
    rows: Ints,
    service_s: Floats,
    single_s: Floats,
) -> Floats:
    """The wait model's q(n, c, b), seconds; `owner` is the index of each option's stage."""
    bursts = np.array([float(stage.burst) for stage in problem.stages])
    load = Load(
        _rates(problem)[owner],
        rows,
        service_s,
        single_s,
        replicas,
        _losses(problem)[owner],
        bursts[owner],
    )
    return wait_model(problem.wait).wait_s(load)


def _prices(problem: PlanProblem, owner: NDArray[np.intp], replicas: Ints, cores: Ints) -> Floats:
    """Price: n (core c + replica) + start x (to be started) + resize x (those that stay with other cores).

    Replicas that stay are first those that have the wanted cores already.
    """
    prices = problem.prices
    cost = replicas * (prices.core * cores + np.array([s.replica_price for s in problem.stages])[owner])
    if not (prices.start or prices.resize):
        return np.asarray(cost, dtype=np.float64)
    for index, stage in enumerate(problem.stages):
        own = owner == index
        alike = (np.asarray(stage.present, np.int64)[:, None] == cores[own]).sum(axis=0)
        stay = np.minimum(replicas[own], len(stage.present))
        cost[own] += prices.start * (replicas[own] - stay) + prices.resize * np.maximum(0, stay - alike)
    return np.asarray(cost, dtype=np.float64)


@lru_cache(maxsize=64)
def _cells(tables: tuple[tuple[Table, Table, int], ...], cores_limit: int) -> _Cells:
    """Of each stage's service times, latencies and burst: what does not change with the load."""
    stages = []
    for index, (service_time_s, latency_s, burst) in enumerate(tables):
        times = np.array(service_time_s, dtype=np.float64)[:, :cores_limit]
        high = np.array(latency_s, dtype=np.float64)[:, :cores_limit] if latency_s else times
        rows, cores = np.indices(times.shape, dtype=np.int64) + 1
        single = times[np.minimum(rows, burst) - 1, cores - 1]
        arrays = (np.full(times.shape, index), cores, rows, times, single, high)
        stages.append([array.T.ravel() for array in arrays])
    return _Cells(*(np.concatenate(arrays) for arrays in zip(*stages, strict=True)))
