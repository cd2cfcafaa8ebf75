"""The cheapest replicas for arrivals that are known by the second, for a whole pipeline.

The SLO is divided into a budget for each stage (`plan.ladder`), a margin, and patience: what rows may wait
beyond that, wherever they do. For one division:
1. Rows are drawn into each second at random, as those of the trace will be.
2. First stages serve them as evenly as patience allows (`plan.foresight.smoothest_rates`), less what is not
   known of their moments; the stages behind them get their even flow, later by what the stages before take.
3. Each stage has replicas for every second: a start costs a core for the cold start, replicas that are not
   needed may be parked, and peaks may be carried by more cores on fewer replicas
   (`plan.foresight.cheapest_replicas`). What the largest rate of the first 30 s wants is there at the start.

Of the undominated divisions the one that costs least is taken.
"""

from collections.abc import Sequence
from math import ceil, floor, sqrt
from typing import NamedTuple

import numpy as np

from steelyard.core.types import Frozen
from steelyard.plan.chain import Option, frontier
from steelyard.plan.foresight import cheapest_replicas, smoothest_rates
from steelyard.plan.ladder import Counts, Floats, StageLadders
from steelyard.plan.problem import Table

STEPS = 20
"""A second, of the smoothing."""
TRIAL_SECONDS = 1800
"""Of the trace, by which divisions are compared."""
CANDIDATES_COST = 1.3
"""Divisions are compared that cost at most so many times what the cheapest does at the mean rate."""
FIRST_SECONDS = 30
PENALTY = 1000.0
"""Cores in place of those that would carry what the most cores on the replicas do not."""


class KnownStage(Frozen, frozen=True):
    """A stage: its name and place, rows for each row of a request, seconds of batches and of a cold start.

    `parks`: whether its replicas may be parked.
    """

    name: str
    after: tuple[str, ...]
    fan_out: int
    service_time_s: Table
    cold_start_s: float
    parks: bool = True


class Scheme(NamedTuple):
    """What was decided for a trace.

    Attributes:
        patience_s: what rows may wait beyond the stages' budgets.
        ladders: of each stage, within its budget.
        first: replicas of each stage that there may be at the start.
        replicas: of each stage, in each second.
        core_seconds: what it costs if nothing is random but where rows fall in their second.
    """

    patience_s: float
    ladders: tuple[StageLadders, ...]
    first: tuple[int, ...]
    replicas: tuple[Counts, ...]
    core_seconds: float


def best_scheme(stages: Sequence[KnownStage], rows: Counts, *, slack_s: float, cores: int) -> Scheme:
    """The cheapest scheme.

    Args:
        stages: in topological order.
        rows: of requests, in each second, shape (seconds,).
        slack_s: the SLO less the margin.
        cores: of the node, at least as many as stages.
    """
    rate = float(rows.mean()) if len(rows) else 0.0
    points = frontier([_divisions(stage, rate * stage.fan_out) for stage in stages])
    feasible = [point for point in points if slack_s > longest_s(stages, point.choices)]
    near = [point.choices for point in feasible if point.cost <= feasible[0].cost * CANDIDATES_COST]
    divisions = near or [points[-1].choices]
    best = divisions[0]
    if len(divisions) > 1:
        trial = rows[:TRIAL_SECONDS]
        costs = [scheme_of(stages, trial, d, slack_s=slack_s, cores=cores).core_seconds for d in divisions]
        best = divisions[int(np.argmin(costs))]
    return scheme_of(stages, rows, best, slack_s=slack_s, cores=cores)


def scheme_of(
    stages: Sequence[KnownStage],
    rows: Counts,
    budgets_s: Sequence[float],
    *,
    slack_s: float,
    cores: int,
) -> Scheme:
    """The cheapest replicas where each stage has its budget; arguments as of `best_scheme`."""
    patience_s = max(0.0, slack_s - longest_s(stages, budgets_s))
    drawn = drawn_rows(rows)
    flows: dict[str, Floats] = {}
    after_s = dict(zip((stage.name for stage in stages), budgets_s, strict=True))
    ladders: list[StageLadders] = []
    replicas: list[Counts] = []
    first: list[int] = []
    total = 0.0
    for stage, budget_s in zip(stages, budgets_s, strict=True):
        if stage.after:
            flow = _busiest([_later(flows[name], after_s[name]) for name in stage.after])
        else:
            sure_s = max(0.0, patience_s - _unsure_s(rows))
            flow = smoothest_rates(drawn, floor(sure_s * STEPS + 1e-9))
        flows[stage.name] = flow
        ladders.append(StageLadders(stage.service_time_s, budget_s, parks=stage.parks))
        costs = _costs(ladders[-1], flow * STEPS * stage.fan_out, cores)
        peak = costs[:FIRST_SECONDS].max(axis=0, initial=0.0)
        first.append(int(np.argmax(peak <= peak.min() + 1e-9)) + 1)
        chosen = cheapest_replicas(costs, stage.cold_start_s, first[-1])
        replicas.append(chosen)
        total += float(costs[np.arange(len(chosen)), chosen - 1].sum())
        total += stage.cold_start_s * float(np.maximum(np.diff(chosen), 0).sum())
    return Scheme(patience_s, tuple(ladders), tuple(first), tuple(replicas), total)


def longest_s(stages: Sequence[KnownStage], budgets_s: Sequence[float]) -> float:
    """Seconds of the longest path, each stage taking its budget."""
    ends: dict[str, float] = {}
    for stage, budget_s in zip(stages, budgets_s, strict=True):
        ends[stage.name] = max((ends[name] for name in stage.after), default=0.0) + budget_s
    return max(ends.values())


def drawn_rows(rows: Counts) -> Floats:
    """Rows in each step, shape (seconds x STEPS,): each falls on one of its second's steps at random."""
    draws = np.random.default_rng(0).multinomial(rows, np.full(STEPS, 1.0 / STEPS))
    return draws.reshape(-1).astype(np.float64)


def _divisions(stage: KnownStage, rate: float) -> list[Option[float]]:
    """Budgets: what each batch takes with the replicas that a rate needs, and the cores that it costs."""
    options = []
    for rows, line in enumerate(stage.service_time_s, start=1):
        for size, busy_s in enumerate(line, start=1):
            needed = rate * busy_s / rows
            budget_s = busy_s * (1.0 + 1.0 / max(1, ceil(needed)))
            options.append(Option(budget_s, max(1.0, needed) * size, budget_s))
    return options


def _unsure_s(rows: Counts) -> float:
    """By how long rows come before or after their time if their second's were evenly spread.

    Half way through a second of n rows there have come n / 2, with a deviation of sqrt(n) / 2, which is
    1 / (2 sqrt(n)) seconds' worth.
    """
    return 0.5 / sqrt(max(1.0, float(rows.mean()))) if len(rows) else 0.0


def _later(flow: Floats, seconds: float) -> Floats:
    return np.concatenate((np.zeros(ceil(seconds * STEPS)), flow))


def _busiest(flows: Sequence[Floats]) -> Floats:
    """What a stage behind several is given: in each step as much as the busiest of them gives."""
    busiest = np.zeros(max(len(flow) for flow in flows))
    for flow in flows:
        busiest[: len(flow)] = np.maximum(busiest[: len(flow)], flow)
    return busiest


def _costs(ladders: StageLadders, rates: Floats, cores: int) -> Floats:
    """Core-seconds of each second with each number of replicas; shape (seconds, replicas)."""
    seconds = ceil(len(rates) / STEPS)
    padded = np.concatenate((rates, np.zeros(seconds * STEPS - len(rates))))
    slowest = 1.0 / float(ladders.times_s[0, 0])
    most = max(1, min(cores, ceil(rates.max(initial=0.0) / slowest) + 1))
    columns = [ladders.cores_for(count, padded, PENALTY) for count in range(1, most + 1)]
    return np.stack([column.reshape(seconds, STEPS).mean(axis=1) for column in columns], axis=1)
