"""What each stage may choose from: (replicas, cores, rows), with time and price; one stage's constraints.

One array entry an option, so that a table of 16 cores x 16 rows is reckoned in one go. Replicas follow from
cores and rows: as few as carry the rate, and where the wait model counts busy replicas up to
`extra_replicas_max` more, since then more replicas wait less.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.plan.graph import StageOptions
from steelyard.plan.pareto import Floats
from steelyard.plan.problem import PlannedStage, PlanProblem, PlanStage, as_array
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

    def where(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> "StageChoices":
        """Some of them."""
        return StageChoices(
            self.replicas[kept], self.cores[kept], self.rows[kept], self.time_s[kept], self.cost[kept]
        )

    def planned(self, name: str, index: int, nodes: tuple[int, ...] = ()) -> PlannedStage:
        """Option `index` as a plan."""
        return PlannedStage(
            name,
            int(self.replicas[index]),
            int(self.cores[index]),
            int(self.rows[index]),
            float(self.time_s[index]),
            nodes,
        )


def capacity_rps(stage: PlanStage, rows: int, cores: int) -> float:
    """Rows a second of one replica: b / l(b, c)."""
    return rows / stage.service_time_s[rows - 1][cores - 1]


def loss_share(problem: PlanProblem, stage: PlanStage) -> float:
    """Share of a stage's rows that may wait longer than is planned for.

    Wait models that count busy replicas divide the SLO's loss (1 - q) by the number of stages and a stage's
    by its fan-out: a request is late only if a row of it is late somewhere. The others take q as it is.
    """
    loss = 1.0 - problem.quantile
    if not wait_model(problem.wait).busy:
        return loss
    return loss / (len(problem.stages) * max(1.0, stage.fan_out))


def time_s(problem: PlanProblem, stage: PlanStage, replicas: Ints, cores: Ints, rows: Ints) -> Floats:
    """Queueing delay plus service time, q(n, c, b) + l(b, c), by broadcasting; inf where a queue grows."""
    at = (rows - 1, cores - 1)
    service_s = as_array(stage.service_time_s)[at]
    latency_s = as_array(stage.latency_s)[at] if stage.latency_s else service_s
    load = Load(
        problem.rate_rps(stage),
        rows.astype(np.float64),
        service_s,
        replicas.astype(np.float64),
        1.0 - loss_share(problem, stage),
        max(1.0, stage.fan_out),
    )
    return wait_model(problem.wait).wait_s(load) + latency_s


def price(problem: PlanProblem, stage: PlanStage, replicas: Ints, cores: Ints) -> Floats:
    """Price: n (core c + replica) + start x (to be started) + resize x (those that stay with other cores).

    Replicas that stay are first those that have the wanted cores already.
    """
    prices = problem.prices
    cost = replicas * (prices.core * cores + stage.replica_price)
    present = np.asarray(stage.present, dtype=np.int64)
    if len(present) and (prices.start or prices.resize):
        alike = (present[:, None] == cores[None, :]).sum(axis=0)
        stay = np.minimum(replicas, len(present))
        cost = cost + prices.start * (replicas - stay) + prices.resize * np.maximum(0, stay - alike)
    elif prices.start:
        cost = cost + prices.start * replicas
    return np.asarray(cost, dtype=np.float64)


def choices(
    problem: PlanProblem, stage: PlanStage, *, replicas: int | None = None, cores_max: int | None = None
) -> StageChoices:
    """All options of a stage that carry its rate; empty if none does.

    Args:
        problem: gives rate, prices and wait model.
        stage: one of the problem's.
        replicas: if not None, exactly so many.
        cores_max: cores of the largest replica, at most the table's.
    """
    cores_limit = min(stage.cores_max, cores_max or stage.cores_max, max(problem.nodes, default=1 << 30))
    cores, rows = (grid.ravel() for grid in _grid(cores_limit, stage.rows_max))
    offered = problem.rate_rps(stage) * as_array(stage.service_time_s)[rows - 1, cores - 1] / rows
    busy = wait_model(problem.wait).busy
    least = np.maximum(1, np.ceil(offered / (RHO_MAX if busy else 1.0) - _ROUNDING)).astype(np.int64)
    if replicas is not None:
        counts = np.full_like(least, replicas)
    else:
        extra = np.arange(problem.extra_replicas_max + 1 if busy else 1)
        counts = (least[:, None] + extra).ravel()
        cores, rows, least = (np.repeat(array, len(extra)) for array in (cores, rows, least))
    kept = (counts >= least) & (counts <= stage.replicas_max)
    counts, cores, rows = counts[kept], cores[kept], rows[kept]
    times = time_s(problem, stage, counts, cores, rows)
    every = StageChoices(counts, cores, rows, times, price(problem, stage, counts, cores))
    return every.where(np.isfinite(times))


def _grid(cores_max: int, rows_max: int) -> Sequence[Ints]:
    return np.meshgrid(np.arange(1, cores_max + 1), np.arange(1, rows_max + 1), indexing="ij")
