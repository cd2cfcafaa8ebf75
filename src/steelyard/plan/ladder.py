"""What replicas of a stage carry with ever more cores, within a budget of time.

A stage's budget holds a batch, and the wait until the next of its replicas is free: l(b, c) (1 + 1 / n), as n
replicas that take turns start a batch every l / n. Single rows wait for a replica as rows do anyway, so of
them only the service must be within the budget. Of all batches that keep the budget that with the best
throughput counts, or a smaller one that is nearly as good.

Cores are spread evenly over the replicas that are active; the others are parked, in memory without cores. Of
so many cores, so many replicas are active as carry most: nearly always one core each.
"""

from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.plan.problem import Table

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

NEARLY = 0.99
"""Of the best throughput: a smaller batch that has so much of it is preferred."""


class Ladder(NamedTuple):
    """Some replicas with ever more cores, entry by entry; all of shape (entries,).

    Attributes:
        cores: of all replicas, one more in each entry.
        active: replicas that have cores.
        rates: rows a second; 0 where no batch keeps the budget.
        rows: the batch.
        busy_s: seconds that it takes on the smallest of the replicas.
    """

    cores: Counts
    active: Counts
    rates: Floats
    rows: Counts
    busy_s: Floats

    def entry_for(self, rates: Floats) -> int:
        """The first entry that carries its rate of `rates`; the one that carries most if none does.

        Args:
            rates: rows a second, asked of each entry, shape (entries,).
        """
        enough = (self.rates >= rates) & (self.rates > 0)
        return int(np.argmax(enough if enough.any() else self.rates))


class StageLadders:
    """The ladders of one stage.

    Args:
        service_time_s: `[rows - 1][cores - 1]`, seconds.
        budget_s: of a batch and the wait for a replica.
        parks: whether replicas may be parked; otherwise each has at least a core.
    """

    def __init__(self, service_time_s: Table, budget_s: float = inf, *, parks: bool = True) -> None:
        self.budget_s = budget_s
        self.times_s = np.array(service_time_s, dtype=np.float64)
        self._parks = parks
        self._known: dict[int, Ladder] = {}

    def of(self, replicas: int) -> Ladder:
        """The ladder of so many replicas, >= 1."""
        if replicas not in self._known:
            ladder = self._active(replicas)
            if self._parks and replicas > 1:
                ladder = _better(self.of(replicas - 1), ladder)
            self._known[replicas] = ladder
        return self._known[replicas]

    def cores_for(self, replicas: int, rates: Floats, penalty: float) -> Floats:
        """Cores with which so many replicas serve each of `rates`, in the mean; shape as `rates`.

        Between two numbers of cores both are taken, each for a part of the time. `penalty` is for what the
        most cores do not carry, in cores for as much again.
        """
        ladder = self.of(replicas)
        carried = np.maximum.accumulate(ladder.rates)
        first = int(np.argmax(carried > 0))
        cores: Floats = np.interp(rates, carried[first:], ladder.cores[first:].astype(np.float64))
        lacking: Floats = np.maximum(rates - carried[-1], 0.0) / max(float(carried[-1]), 1e-9)
        return cores + penalty * lacking

    def _active(self, replicas: int) -> Ladder:
        """All of so many replicas active."""
        rows_max, cores_max = self.times_s.shape
        cores = np.arange(replicas, replicas * cores_max + 1)
        size, larger = cores // replicas, cores % replicas
        rows = np.arange(1, rows_max + 1)[:, None]
        of_small = self.times_s[:, size - 1]
        of_large = self.times_s[:, np.minimum(size, cores_max - 1)]
        rates = (replicas - larger) * rows / of_small + larger * rows / of_large
        phases = np.where(rows > 1, 1.0 + 1.0 / replicas, 1.0)
        rates[of_small * phases > self.budget_s + 1e-9] = 0.0
        best = np.argmax(rates >= rates.max(axis=0) * NEARLY, axis=0)
        entry = np.arange(len(cores))
        active = np.full(len(cores), replicas)
        return Ladder(cores, active, rates[best, entry], best + 1, of_small[best, entry])


def _better(fewer: Ladder, more: Ladder) -> Ladder:
    """For each number of cores that ladder which carries more; `more` begins with one core more."""
    begin, end = int(more.cores[0]), int(fewer.cores[-1])
    before, shared = begin - int(fewer.cores[0]), max(0, end - begin + 1)
    take = more.rates[:shared] >= fewer.rates[before : before + shared]
    merged = [
        np.concatenate(
            (old[:before], np.where(take, new[:shared], old[before : before + shared]), new[shared:])
        )
        for old, new in zip(fewer, more, strict=True)
    ]
    return Ladder(*merged)
