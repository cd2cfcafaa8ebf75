"""Every set of (variant, cores) that there is, for `plan.infadapter` to be compared with.

The objective is reckoned here once more, straight from its definition and for all sets at once, so that the
two share nothing but the problem.
"""

import numpy as np
from numpy.typing import NDArray

from steelyard.plan.infadapter import RATE_MIN_RPS, MixProblem

SETS_MAX = 2_000_000


def best_value(problem: MixProblem) -> float | None:
    """The largest value of the objective over all sets that carry the rate; None if none does.

    Raises:
        ValueError: there are more than `SETS_MAX` sets.
    """
    values = _values(problem)
    return float(values.max()) if len(values) else None


def best_accuracy(problem: MixProblem) -> float | None:
    """The highest mean accuracy of a set that carries the rate; None if none does.

    Raises:
        ValueError: there are more than `SETS_MAX` sets.
    """
    free = MixProblem(problem.candidates, problem.rate_rps, problem.cores_max, problem.cores_min, 0.0, 0.0)
    return best_value(free)


def _values(problem: MixProblem) -> NDArray[np.float64]:
    """Of all sets that carry the rate; shape (sets,)."""
    grid = np.zeros((1, 0), dtype=np.int64)
    for each in problem.candidates:
        cores = np.array([0, *range(problem.cores_min, min(problem.cores_max, len(each.rps)) + 1)])
        longer = np.column_stack([np.repeat(grid, len(cores), axis=0), np.tile(cores, len(grid))])
        grid = longer[longer.sum(axis=1) <= problem.cores_max]
        if len(grid) > SETS_MAX:
            raise ValueError(f"{len(grid)} sets, at most {SETS_MAX} can be enumerated")
    rate = max(problem.rate_rps, RATE_MIN_RPS)
    tables = [np.array([0.0, *each.rps]) for each in problem.candidates]
    carried = np.stack([table[grid[:, i]] for i, table in enumerate(tables)], axis=1)
    legal = ((grid == 0) | (carried > 0)).all(axis=1) & (carried.sum(axis=1) >= rate * (1 - 1e-9))
    grid, carried = grid[legal], carried[legal]
    order = sorted(range(len(tables)), key=lambda i: -problem.candidates[i].accuracy)
    left, mass = np.full(len(grid), float(rate)), np.zeros(len(grid))
    for i in order:
        taken = np.minimum(carried[:, i], left)
        left -= taken
        mass += taken * problem.candidates[i].accuracy
    loads = np.array([each.load_s for each in problem.candidates])
    now = np.array([each.cores_now for each in problem.candidates])
    loading = np.where((grid > 0) & (grid != now), loads, 0.0).max(axis=1, initial=0.0)
    share = loading / loads.max() if loads.max() > 0 else loading
    values: NDArray[np.float64] = (
        mass / rate - problem.cost_weight * grid.sum(axis=1) / problem.cores_max - problem.load_weight * share
    )
    return values
