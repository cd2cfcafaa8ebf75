"""The whole front of (accuracy, cost) of a chain at one latency bound, exact on a grid of latencies.

Every stage takes one of its options, each with a latency in whole ticks (rounded up), a cost in whole cores
and an accuracy. Latencies and costs add up, accuracies multiply; wanted is, for every cost, the highest
accuracy of which the latencies sum to at most the bound.

- *Half by half.* The stages are divided in two. Each half is built stage by stage and keeps its undominated
  (ticks, cost, accuracy); halves of four or five stages have some thousand. Together they are only needed at
  the bound itself: each state of one half meets the best that the other has within the ticks that are left,
  for all costs at once.
- *Dominance by tables.* States lie in a table of ticks by cost; a running maximum along both axes says which
  of them are beaten. That is a few passes over an array instead of comparing states.
- *No cost beyond the cheapest most accurate plan* is looked at: a pass over the ticks alone finds it.
- *Choices are read back* for the point that was chosen, not for all of them: a state's predecessor is the
  one whose accuracy, times the option's, is the state's to the last bit.

In the worst case the states of a half number ticks x cost, and the work is that times the options.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import SpecError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TICKS = 500
CELLS_MAX = 60_000_000
"""Of one table: half a gigabyte."""
_NONE = -1.0
_ROUNDING = 1e-12
"""Products in another order differ by that: no point is more accurate by it."""


class Options(NamedTuple):
    """What one stage may choose from, arrays of shape (options,).

    Attributes:
        ticks: latency, whole ticks >= 0.
        cost: whole cores >= 0.
        accuracy: > 0.
    """

    ticks: Ints
    cost: Ints
    accuracy: Floats

    def where(self, kept: Ints | NDArray[np.bool_]) -> "Options":
        """Some of them."""
        return Options(self.ticks[kept], self.cost[kept], self.accuracy[kept])


class Front:
    """The undominated points of a chain: cost and accuracy both rise; empty if the bound is too tight.

    Attributes:
        cost: whole cores, shape (points,).
        accuracy: shape (points,).
    """

    def __init__(
        self, stages: Sequence[Options], *, ticks_max: int = TICKS, cost_max: int | None = None
    ) -> None:
        """Find it.

        Args:
            stages: at least one, in any order.
            ticks_max: the bound.
            cost_max: points that cost more are left out.

        Raises:
            SpecError: costs span so much that the tables would not fit into memory.
        """
        self._kept = [_undominated(stage, ticks_max) for stage in stages]
        self._options = [stage.where(kept) for stage, kept in zip(stages, self._kept, strict=True)]
        self.cost: Ints = np.empty(0, np.int64)
        self.accuracy: Floats = np.empty(0)
        if any(not len(stage.cost) for stage in self._options):
            return
        self._least_cost = sum(int(stage.cost.min()) for stage in self._options)
        dearest = _cost_of_most_accurate(self._options, ticks_max)
        if dearest is None:
            return
        spread = (dearest if cost_max is None else min(dearest, cost_max)) - self._least_cost
        if spread < 0:
            return
        if (ticks_max + 1) * (spread + 1) > CELLS_MAX:
            raise SpecError(
                f"plans from {self._least_cost} to {self._least_cost + spread} cores are too many"
            )
        self._ticks_max = ticks_max
        order = sorted(range(len(stages)), key=lambda index: len(self._options[index].cost))
        self._sides = order[0::2], order[1::2]
        first, second = (_side_ticks(self._options, side) for side in self._sides)
        self._left = _Half([self._options[i] for i in self._sides[0]], ticks_max - second, spread)
        self._right = _Half([self._options[i] for i in self._sides[1]], ticks_max - first, spread)
        self._meet(spread)

    def choices(self, point: int) -> list[int]:
        """The index of the option that each stage takes at a point, in the order of the stages."""
        cost, accuracy = int(self.cost[point]) - self._least_cost, self.accuracy[point]
        left = self._left.states[-1]
        room = cost - left.cost
        fits = np.flatnonzero((room >= 0) & (room < self._best.shape[1]))
        reached = self._best[self._ticks_max - left.ticks[fits], room[fits]] * left.accuracy[fits]
        at = int(fits[np.flatnonzero(reached == accuracy)[0]])
        ticks_left = self._ticks_max - int(left.ticks[at])
        wanted = self._best[ticks_left, int(room[at])]
        right = self._right.states[-1]
        among = (right.ticks <= ticks_left) & (right.cost <= room[at]) & (right.accuracy == wanted)
        found = [0] * len(self._options)
        for half, side, state in (
            (self._left, self._sides[0], at),
            (self._right, self._sides[1], int(np.flatnonzero(among)[0])),
        ):
            for stage, option in zip(side, half.options(state), strict=True):
                found[stage] = int(self._kept[stage][option])
        return found

    def _meet(self, spread: int) -> None:
        """Every state of the left half with the best of the right one, for all costs."""
        self._best = self._right.best(self._ticks_max, spread)
        width = self._best.shape[1]
        highest = np.full(spread + 1, _NONE)
        states = self._left.states[-1]
        for ticks, cost, accuracy in zip(
            states.ticks.tolist(), states.cost.tolist(), states.accuracy.tolist(), strict=True
        ):
            room = min(width, spread + 1 - cost)
            target = highest[cost : cost + room]
            np.maximum(target, self._best[self._ticks_max - ticks, :room] * accuracy, out=target)
        rising = np.maximum.accumulate(highest)
        rises = highest > np.maximum(np.concatenate([[0.0], rising[:-1]]), 0.0) * (1 + _ROUNDING)
        self.cost = np.flatnonzero(rises) + self._least_cost
        self.accuracy = highest[rises]


class _Half:
    """Some of the stages, one after another: all undominated ways to run them.

    Attributes:
        states: after each number of stages, beginning with none; costs are above the stages' least.
    """

    def __init__(self, stages: Sequence[Options], ticks_max: int, spread: int) -> None:
        self._stages = [Options(s.ticks, s.cost - s.cost.min(), s.accuracy) for s in stages]
        nothing = np.zeros(1, np.int64)
        self.states = [Options(nothing, nothing, np.ones(1))]
        for index, stage in enumerate(self._stages):
            rest = sum(int(later.ticks.min()) for later in self._stages[index + 1 :])
            self.states.append(_extended(self.states[-1], stage, ticks_max - rest, spread))

    def best(self, ticks_max: int, spread: int) -> Floats:
        """Highest accuracy within ticks and cost, shape (ticks_max + 1, up to spread + 1)."""
        last = self.states[-1]
        width = min(spread, int(last.cost.max(initial=0))) + 1
        table = np.full((ticks_max + 1, width), _NONE)
        table[last.ticks, last.cost] = last.accuracy
        np.maximum.accumulate(table, axis=0, out=table)
        np.maximum.accumulate(table, axis=1, out=table)
        return table

    def options(self, state: int) -> list[int]:
        """The option of each stage that the last stage's state `state` is made of."""
        chosen: list[int] = []
        for stage, before, after in reversed(
            list(zip(self._stages, self.states, self.states[1:], strict=False))
        ):
            ticks = after.ticks[state] - stage.ticks
            cost = after.cost[state] - stage.cost
            width = int(before.cost.max()) + 1
            places = before.ticks * width + before.cost
            wanted = np.where((ticks >= 0) & (cost >= 0) & (cost < width), ticks * width + cost, -1)
            at = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
            same = (places[at] == wanted) & (before.accuracy[at] * stage.accuracy == after.accuracy[state])
            option = int(np.flatnonzero(same)[0])
            chosen.append(option)
            state = int(at[option])
        return chosen[::-1]


def _extended(states: Options, stage: Options, ticks_max: int, spread: int) -> Options:
    """One more stage: the undominated of all sums, in the order of ticks, then cost; may be none."""
    if not len(states.cost):
        return states
    base = int(states.ticks.min() + stage.ticks.min())
    ticks_top = min(ticks_max, int(states.ticks.max() + stage.ticks.max()))
    width = min(spread, int(states.cost.max() + stage.cost.max())) + 1
    table = np.full((max(0, ticks_top - base) + 1, width), _NONE)
    flat = table.reshape(-1)
    places = (states.ticks - base) * width + states.cost
    for ticks, cost, accuracy in zip(
        stage.ticks.tolist(), stage.cost.tolist(), stage.accuracy.tolist(), strict=True
    ):
        fits = (states.ticks <= ticks_top - ticks) & (states.cost < width - cost)
        at = places[fits] + (ticks * width + cost)
        flat[at] = np.maximum(flat[at], states.accuracy[fits] * accuracy)
    highest = np.maximum.accumulate(table, axis=0)
    np.maximum.accumulate(highest, axis=1, out=highest)
    at = np.flatnonzero((table == highest) & (table > 0))
    row, column = at // width, at % width
    reached, beaten = flat[at], highest.reshape(-1)
    above = np.where(row > 0, beaten[at - width], _NONE)  # a negative index is never taken
    left = np.where(column > 0, beaten[at - 1], _NONE)
    kept = (reached > above) & (reached > left)
    return Options(row[kept] + base, column[kept], reached[kept])


def _undominated(stage: Options, ticks_max: int) -> Ints:
    """Options within the bound that no other beats; of equal ones the first."""
    ticks, cost, accuracy = (np.asarray(values) for values in stage)
    no_worse = (
        (ticks[None] <= ticks[:, None])
        & (cost[None] <= cost[:, None])
        & (accuracy[None] >= accuracy[:, None])
    )
    equal = no_worse & no_worse.T
    index = np.arange(len(ticks))
    beaten = (no_worse & (~equal | (index[None] < index[:, None]))).any(axis=1)
    return np.flatnonzero(~beaten & (ticks <= ticks_max) & (accuracy > 0))


def _cost_of_most_accurate(stages: Sequence[Options], ticks_max: int) -> int | None:
    """What the most accurate plan costs at least; None if no plan is within the bound."""
    accuracy, cost = np.full(ticks_max + 1, _NONE), np.zeros(ticks_max + 1, np.int64)
    accuracy[0] = 1.0
    for stage in stages:
        following, price = np.full(ticks_max + 1, _NONE), np.zeros(ticks_max + 1, np.int64)
        for ticks, added, factor in zip(
            stage.ticks.tolist(), stage.cost.tolist(), stage.accuracy.tolist(), strict=True
        ):
            reached, costs = accuracy[: len(accuracy) - ticks] * factor, cost[: len(cost) - ticks] + added
            here, here_cost = following[ticks:], price[ticks:]
            better = (reached > here) | ((reached == here) & (costs < here_cost))
            here[better], here_cost[better] = reached[better], costs[better]
        accuracy, cost = following, price
    highest = accuracy.max()
    return int(cost[accuracy == highest].min()) if highest > 0 else None


def _side_ticks(stages: Sequence[Options], side: Sequence[int]) -> int:
    """The least ticks of some of the stages."""
    return sum(int(stages[index].ticks.min()) for index in side)
