"""What is least when arrivals are known beforehand: the smoothest service, and the cheapest replicas for it.

*Smoothest service.* Rows may be served once they have arrived and must be within their patience. Between the
two cumulative curves the shortest path (the taut string) has the least possible rate at every time when the
rate is at its largest: it minimises the sum of every convex cost of the rate at once. That is the optimal
schedule of Yao, Demers and Shenker ("A scheduling model for reduced CPU energy", FOCS 1995) for jobs that are
due in the order in which they come.

*Cheapest replicas.* What a second costs with n replicas is given, and a start has a price, a stop has none:
a dynamic program over seconds finds the cheapest sequence of n. It keeps replicas through a gap exactly where
that costs less than starting them again.
"""

from math import inf

import numpy as np

from steelyard.plan.ladder import Counts, Floats


def smoothest_rates(arrivals: Floats, patience: int) -> Floats:
    """Rows served in each step, as evenly as possible; O(steps) but for traces made to defeat it.

    Args:
        arrivals: rows in each step, shape (steps,); they come evenly spread over the step.
        patience: steps after which what has arrived must have been served, >= 0.

    Returns:
        Shape (steps + patience,): the last rows may be served after the last arrival.
    """
    served = np.concatenate(([0.0], np.cumsum(arrivals), np.zeros(patience)))
    served[len(arrivals) + 1 :] = served[len(arrivals)]
    most = served.tolist()
    least = [*[0.0] * patience, *most[: len(most) - patience]]
    least[-1] = most[-1]
    path = np.empty(len(most))
    path[0] = 0.0
    start, level, last = 0, 0.0, len(most) - 1
    while start < last:
        end, slope = _straight(most, least, start, level)
        steps = np.arange(1, end - start + 1)
        path[start + 1 : end + 1] = level + slope * steps
        start, level = end, level + slope * (end - start)
    return np.maximum(np.diff(path), 0.0)


def _straight(most: list[float], least: list[float], start: int, level: float) -> tuple[int, float]:
    """Where the taut string that is at `level` at `start` next bends, and its slope until there."""
    low, high = -inf, inf
    low_at = high_at = start
    for step in range(start + 1, len(most)):
        steepest = (most[step] - level) / (step - start)
        flattest = (least[step] - level) / (step - start)
        if flattest > high:
            return high_at, high
        if steepest < low:
            return low_at, low
        if flattest >= low:
            low, low_at = flattest, step
        if steepest <= high:
            high, high_at = steepest, step
    return len(most) - 1, low


def cheapest_replicas(costs: Floats, start_cost: float, free: int | None = None) -> Counts:
    """How many replicas to have in each second; O(seconds x n).

    Args:
        costs: of a second with n replicas, shape (seconds, n_max); column n - 1 is for n.
        start_cost: of each replica that was not there the second before, >= 0.
        free: that many need no start in the first second; None: all of them.

    Returns:
        Shape (seconds,), each in 1 .. n_max. Of equal costs, the fewest replicas.
    """
    seconds, width = costs.shape
    counts = np.arange(width)
    total = np.empty((seconds, width))
    total[0] = costs[0]
    if free is not None:
        total[0] += start_cost * np.maximum(counts + 1 - free, 0)
    for second in range(1, seconds):
        before = total[second - 1]
        kept = np.minimum.accumulate(before[::-1])[::-1]
        started = np.minimum.accumulate(before - start_cost * counts) + start_cost * counts
        total[second] = costs[second] + np.minimum(kept, started)
    chosen = np.empty(seconds, dtype=np.int64)
    best = int(np.argmin(total[-1]))
    for second in range(seconds - 1, -1, -1):
        chosen[second] = best + 1
        if second:
            moves = total[second - 1] + start_cost * np.maximum(best - counts, 0)
            best = int(np.argmin(moves))
    return chosen
