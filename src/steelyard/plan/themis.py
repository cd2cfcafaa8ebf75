"""The two programs of Themis (arXiv 2407.14843, released code of 2024-07-23), in whole milliseconds.

A chain of stages; stage s runs n replicas of c cores with batches of b rows. With l(b, c) the service time
and q(b) = (b - 1) 1000 / lambda the fill wait [ms], a replica is reckoned to give 1000 b / (l + q) rows a
second: the time to fill a batch counts as busy. As released:

- `horizontal`: c = 1, least sum of n.
- `vertical`: n is given, least sum of c - *not* of n c - with enough capacity for lambda.
- Times are rounded up to whole ms and a chain takes 0 .. T - 1 of them, never exactly T.
- lambda = 0 gives one core and one replica.

`vertical` not feasible: the largest lambda' that is, by binary search, and replicas for the rest at its
cores.

The revision of 2025 runs the same programs on other sums (`Reckoning`, `plan.themis2025`).
"""

from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import NamedTuple

import numpy as np

from steelyard.plan.queueing import themis_fill_wait_ms

GB_PER_CORE = 18.0
"""What one core costs, in GB of memory."""


class ThemisStage(NamedTuple):
    """A stage: `latency_ms(rows, cores)`, and the largest cores and batch that may be chosen.

    Attributes:
        memory_gb: of one replica; the horizontal program prices a replica at this + `GB_PER_CORE` a core.
        fan_out: rows for each row of the service (the papers know only 1).
    """

    latency_ms: Callable[[int, int], float]
    cores_max: int
    rows_max: int
    memory_gb: float = 0.0
    fan_out: int = 1


class Reckoning(NamedTuple):
    """What a revision reckons with.

    Attributes:
        fill_wait_ms: of a batch of rows at a rate.
        fill_is_busy: whether a replica gives 1000 b / (l + q) rows a second, or 1000 b / l.
        demand_rps: the rate that is to be carried where lambda is seen.
    """

    fill_wait_ms: Callable[[int, float], float]
    fill_is_busy: bool
    demand_rps: Callable[[float], float]


THEMIS_2024 = Reckoning(themis_fill_wait_ms, True, lambda rate: rate)


class Choice(NamedTuple):
    """What was chosen for one stage; `time_ms` is service time and fill wait, rounded up."""

    replicas: int
    cores: int
    rows: int
    time_ms: int


def capacity_rps(
    stage: ThemisStage, rows: int, cores: int, rate: float, reckoning: Reckoning = THEMIS_2024
) -> float:
    """Rows a second of one replica: 1000 b / (l + q), or 1000 b / l; `rate` is the stage's own."""
    busy_ms = stage.latency_ms(rows, cores)
    if reckoning.fill_is_busy:
        busy_ms += reckoning.fill_wait_ms(rows, rate)
    return 1000.0 * rows / busy_ms


def horizontal(
    stages: Sequence[ThemisStage], rate: int, slo_ms: int, reckoning: Reckoning = THEMIS_2024
) -> tuple[Choice, ...] | None:
    """H(lambda): one-core replicas, as cheap as possible; None if one core is too slow for the SLO."""
    if rate == 0:
        return tuple(_idle(stage, 1) for stage in stages)
    options = []
    for stage in stages:
        own, demand = rate * stage.fan_out, reckoning.demand_rps(rate) * stage.fan_out
        price = stage.memory_gb + GB_PER_CORE
        choices = [
            _choice(
                stage, ceil(demand / capacity_rps(stage, rows, 1, own, reckoning)), 1, rows, own, reckoning
            )
            for rows in range(1, stage.rows_max + 1)
        ]
        options.append([(choice.replicas * price, choice) for choice in choices])
    return _least(options, slo_ms)


def vertical(
    stages: Sequence[ThemisStage],
    rate: int,
    slo_ms: int,
    replicas: Sequence[int],
    reckoning: Reckoning = THEMIS_2024,
) -> tuple[Choice, ...] | None:
    """V(lambda | n): cores and batches for replicas that stay as they are; None if not feasible."""
    if rate == 0:
        return tuple(_idle(stage, n) for stage, n in zip(stages, replicas, strict=True))
    options = []
    for stage, n in zip(stages, replicas, strict=True):
        own, demand = rate * stage.fan_out, reckoning.demand_rps(rate) * stage.fan_out
        options.append(
            [
                (float(cores), _choice(stage, n, cores, rows, own, reckoning))
                for cores in range(1, stage.cores_max + 1)
                for rows in range(1, stage.rows_max + 1)
                if n * capacity_rps(stage, rows, cores, own, reckoning) >= demand
            ]
        )
    return _least(options, slo_ms)


def vertical_with_extra(
    stages: Sequence[ThemisStage],
    rate: int,
    slo_ms: int,
    replicas: Sequence[int],
    reckoning: Reckoning = THEMIS_2024,
) -> tuple[tuple[Choice, ...], tuple[int, ...]]:
    """V(lambda | n), and the replicas to add if n are too few at any size.

    Where not even lambda' = 1 is feasible (the SLO is tighter than the fastest configuration) the program
    has no answer; taken then are single rows on all cores, the least latency there is.
    """
    low, high = 0, rate
    best = vertical(stages, rate, slo_ms, replicas, reckoning)
    if best is not None:
        return best, (0,) * len(stages)
    while high - low > 1:
        middle = (low + high) // 2
        found = vertical(stages, middle, slo_ms, replicas, reckoning)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    demand, carried = reckoning.demand_rps(rate), reckoning.demand_rps(low)

    def capacity(stage: ThemisStage, choice: Choice) -> float:
        """Rows of the service, not of the stage."""
        own = rate * stage.fan_out
        return capacity_rps(stage, choice.rows, choice.cores, own, reckoning) / stage.fan_out

    if best is None:
        best = tuple(
            _choice(stage, n, stage.cores_max, 1, rate * stage.fan_out, reckoning)
            for stage, n in zip(stages, replicas, strict=True)
        )
        least = min(
            choice.replicas * capacity(stage, choice) for stage, choice in zip(stages, best, strict=True)
        )
        carried = min(demand, int(least))
    extra = tuple(
        ceil((demand - carried) / capacity(stage, choice)) for stage, choice in zip(stages, best, strict=True)
    )
    return best, extra


def _idle(stage: ThemisStage, replicas: int) -> Choice:
    return Choice(replicas, 1, 1, ceil(stage.latency_ms(1, 1)))


def _choice(
    stage: ThemisStage, replicas: int, cores: int, rows: int, rate: float, reckoning: Reckoning
) -> Choice:
    time_ms = ceil(stage.latency_ms(rows, cores) + reckoning.fill_wait_ms(rows, rate))
    return Choice(replicas, cores, rows, time_ms)


def _least(options: Sequence[Sequence[tuple[float, Choice]]], slo_ms: int) -> tuple[Choice, ...] | None:
    """Least cost over budgets 0 .. T - 1: F_s(t) = min over options of F_{s-1}(t - time) + cost.

    Of equal costs, the first option in the order given and the smallest budget win.
    """
    least = np.full(slo_ms, inf)
    least[:1] = 0.0
    taken: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for stage in options:
        following = np.full(slo_ms, inf)
        chosen = np.full(slo_ms, -1, dtype=np.int64)
        for index, (cost, choice) in enumerate(stage):
            if choice.time_ms >= slo_ms:
                continue
            shifted = np.full(slo_ms, inf)
            shifted[choice.time_ms :] = least[: slo_ms - choice.time_ms] + cost
            better = shifted < following
            following[better] = shifted[better]
            chosen[better] = index
        least = following
        taken.append(chosen)
    if slo_ms < 1 or not np.isfinite(least).any():
        return None
    budget = int(np.argmin(least))
    picked: list[Choice] = []
    for stage, chosen in zip(reversed(options), reversed(taken), strict=True):
        _, choice = stage[int(chosen[budget])]
        picked.append(choice)
        budget -= choice.time_ms
    return tuple(reversed(picked))
