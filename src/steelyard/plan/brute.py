"""Every combination of options, looked at: the proof of the programs, for problems small enough.

Nothing is shared with them but the options themselves: paths are listed one by one, and a plan fits the nodes
if trying all ways to place it finds one.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from steelyard.core.errors import SpecError
from steelyard.plan.graph import StageOptions
from steelyard.plan.pareto import Floats
from steelyard.plan.shape import Edges

COMBINATIONS_MAX = 20_000_000


def least_cost(
    after: Edges,
    options: Sequence[StageOptions],
    budget_s: float,
    *,
    sizes: Sequence[Sequence[tuple[int, int]]] = (),
    nodes: tuple[int, ...] = (),
) -> float | None:
    """The cost of the cheapest combination within the budget, None if there is none.

    Args:
        after: for each stage those that it needs.
        options: of each stage.
        budget_s: seconds; the comparison allows for rounding as the programs do.
        sizes: (replicas, cores) of each option, if there are nodes.
        nodes: free cores of each node; empty: no limit.

    Raises:
        SpecError: there are more than `COMBINATIONS_MAX` combinations.
    """
    shape = tuple(len(stage.cost) for stage in options)
    if np.prod(shape, dtype=np.float64) > COMBINATIONS_MAX:
        raise SpecError(f"{shape} options are more than {COMBINATIONS_MAX} combinations")
    cost = _outer([stage.cost for stage in options], range(len(options)))
    latency = np.zeros(shape)
    for path in paths(after):
        latency = np.maximum(latency, _outer([stage.time_s for stage in options], path))
    feasible = np.broadcast_to(latency <= budget_s * (1 + 1e-9), shape)
    cost = np.broadcast_to(cost, shape)
    if not nodes:
        return float(cost[feasible].min()) if feasible.any() else None
    for flat in np.argsort(np.where(feasible, cost, np.inf), axis=None, kind="stable"):
        index = np.unravel_index(flat, shape)
        if not feasible[index]:
            return None
        replicas = [sizes[stage][int(option)] for stage, option in enumerate(index)]
        if fits([cores for count, cores in replicas for _ in range(count)], nodes):
            return float(cost[index])
    return None


def paths(after: Edges) -> Iterator[tuple[int, ...]]:
    """Every path from a stage that needs none to one that none needs."""
    needed = {need for needs in after for need in needs}

    def ending_at(stage: int) -> Iterator[tuple[int, ...]]:
        if not after[stage]:
            yield (stage,)
        for need in after[stage]:
            for path in ending_at(need):
                yield (*path, stage)

    for stage in range(len(after)):
        if stage not in needed:
            yield from ending_at(stage)


def fits(sizes: Sequence[int], nodes: Sequence[int]) -> bool:
    """Whether some assignment of replicas to nodes keeps every node within its cores."""
    return any(
        all(
            sum(size for size, at in zip(sizes, assignment, strict=True) if at == node) <= cores
            for node, cores in enumerate(nodes)
        )
        for assignment in product(range(len(nodes)), repeat=len(sizes))
    )


def _outer(values: Sequence[Floats], stages: Sequence[int] | range) -> Floats:
    """Sum over `stages`, with one axis for each stage of the problem."""
    total = np.zeros((1,) * len(values))
    for stage in stages:
        total = total + values[stage].reshape([-1 if axis == stage else 1 for axis in range(len(values))])
    return total
