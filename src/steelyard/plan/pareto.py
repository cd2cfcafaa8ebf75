"""Frontiers of (time, cost): all undominated ways to run a part of a pipeline, and what they are made of.

Two parts one after another add times and costs; two parts side by side take the longer time and the sum of
the costs. Every undominated way of the whole is made of undominated ways of its parts, so combining frontiers
loses nothing and nothing is rounded. Ties are broken by order (the earlier option wins), so equal problems
have equal answers in every process.

A frontier remembers only which points of its two parts each of its points came from; what a point stands for
is read back once, for the point that was chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Undominated points, cheapest and slowest first: `cost` rises strictly, `time_s` falls strictly.

    Attributes:
        time_s: seconds, shape (points,).
        cost: shape (points,).
        of: for a leaf, the index of each point's option; for a sum, the index of its point in `left`.
        right_of: index of its point in `right`; unused in a leaf.
        left: the part that the sum was made of first; None in a leaf.
        right: the other part.
    """

    time_s: Floats
    cost: Floats
    of: Indices
    right_of: Indices | None = None
    left: "Frontier | None" = None
    right: "Frontier | None" = None

    def cheapest(self, budget_s: float) -> int | None:
        """Index of the cheapest point within `budget_s`, or None."""
        index = int((-self.time_s).searchsorted(-budget_s))
        return index if index < len(self.time_s) else None

    def options(self, index: int) -> list[int]:
        """The options that point `index` is made of, leaf by leaf in the order they were combined."""
        if self.left is None or self.right is None or self.right_of is None:
            return [int(self.of[index])]
        left = self.left.options(int(self.of[index]))
        return left + self.right.options(int(self.right_of[index]))


def leaf(time_s: Floats, cost: Floats, budget_s: float) -> Frontier:
    """The undominated ones of a stage's options within `budget_s`; may be empty."""
    kept = _undominated(time_s, cost, (time_s <= budget_s).nonzero()[0])
    return Frontier(time_s[kept], cost[kept], kept)


def series(left: Frontier, right: Frontier, budget_s: float, *, cheapest_only: bool = False) -> Frontier:
    """One after the other, within `budget_s`: min-plus convolution. O(L R log(L R)).

    Of the cheapest point alone, or of none, where that is all that is asked for: O(L R), nothing is sorted.
    """
    times = np.add.outer(left.time_s, right.time_s).ravel()
    costs = np.add.outer(left.cost, right.cost).ravel()
    among = (times <= budget_s).nonzero()[0]
    kept = (_cheapest if cheapest_only else _undominated)(times, costs, among)
    width = max(1, len(right.time_s))
    return Frontier(times[kept], costs[kept], kept // width, kept % width, left, right)


def parallel(left: Frontier, right: Frontier) -> Frontier:
    """Side by side: at each time that either part can take, the cheapest of both. O((L + R) log)."""
    if not len(left.time_s) or not len(right.time_s):
        none = np.empty(0, dtype=np.intp)
        return Frontier(np.empty(0), np.empty(0), none, none, left, right)
    slowest_first = -np.concatenate([left.time_s, right.time_s])
    of = np.searchsorted(-left.time_s, slowest_first)
    right_of = np.searchsorted(-right.time_s, slowest_first)
    both = np.flatnonzero((of < len(left.time_s)) & (right_of < len(right.time_s)))
    of, right_of = of[both], right_of[both]
    times = np.maximum(left.time_s[of], right.time_s[right_of])
    costs = left.cost[of] + right.cost[right_of]
    kept = _undominated(times, costs, np.arange(len(times)))
    return Frontier(times[kept], costs[kept], of[kept], right_of[kept], left, right)


def series_of(parts: Sequence[Frontier], budget_s: float, *, cheapest_only: bool = False) -> Frontier:
    """Several parts, one after another; what cannot leave the rest its least time is dropped on the way.

    With `cheapest_only`, of two parts and more the cheapest point alone: the last sum is the largest one.
    """
    least_s = [float(part.time_s[-1]) if len(part.time_s) else 0.0 for part in parts]
    total = parts[0]
    for position, part in enumerate(parts[1:], start=1):
        rest_s = sum(least_s[position + 1 :])
        last = cheapest_only and position == len(parts) - 1
        total = series(total, part, budget_s - rest_s * (1 - 1e-12), cheapest_only=last)
    return total


def parallel_of(parts: Sequence[Frontier]) -> Frontier:
    """Several parts, side by side."""
    total = parts[0]
    for part in parts[1:]:
        total = parallel(total, part)
    return total


def _cheapest(times: Floats, costs: Floats, among: Indices) -> Indices:
    """Of the points `among` the one that `_undominated` names first: of the cheapest the fastest."""
    cost = costs[among]
    cheapest: Indices = among[cost == cost.min(initial=np.inf)]
    return cheapest[times[cheapest].argsort(kind="stable")[:1]]


def _undominated(times: Floats, costs: Floats, among: Indices) -> Indices:
    """Of the points `among`, those that no other beats: each is cheaper than all that are faster.

    One stable sort by time. Of points of the same time only the last that is kept is the cheapest.
    """
    order = among[times[among].argsort(kind="stable")]
    if not len(order):
        return order
    cost = costs[order]
    kept = np.empty(len(order), dtype=bool)
    kept[0] = True
    kept[1:] = cost[1:] < np.minimum.accumulate(cost)[:-1]
    order = order[kept]
    last = np.empty(len(order), dtype=bool)
    last[-1] = True
    last[:-1] = times[order[1:]] > times[order[:-1]]
    return order[last][::-1]
