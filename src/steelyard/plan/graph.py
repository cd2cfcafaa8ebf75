"""The cheapest choice for each stage of a pipeline whose stages may branch and join, within one budget.

Latency is the longest path, cost the sum over stages. Where the pipeline is series-parallel, combining
frontiers (`steelyard.plan.pareto`) is exact. Elsewhere stages are split into copies until it is
(`steelyard.plan.shape`), each copy with its share of the stage's cost:

- Copies that choose for themselves are a relaxation: the cheapest answer is a lower bound.
- A stage that takes the fastest of its copies' choices makes a plan of it. It is repaired: each stage moves
  to the cheapest option that the longest path through it leaves room for, until nothing changes.
- Where all copies agree, the bound is reached. Where they do not, the options of the stage that disagrees
  most are divided into slower and faster ones and both halves are solved, the lowest bound first and at most
  `nodes_max` of them: branch and bound. What is left is the gap, and is reported.

A pipeline that is too tangled even to be split starts from its fastest plan and is only repaired; its bound
is what the stages would cost if each had all the slack for itself.
"""

import heapq
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from steelyard.plan.pareto import Floats, Frontier, Indices, leaf, parallel_of, series_of
from steelyard.plan.shape import Edges, Shape, Tree, heads_and_tails_s, heads_s, shape_of

NODES_MAX = 400
SLACK = 1e-9
"""Relative. Sums of the same numbers in two orders may differ by so much."""


class StageOptions(NamedTuple):
    """What a stage may choose from, arrays of equal length: seconds it takes, and what it costs."""

    time_s: Floats
    cost: Floats


class Solution(NamedTuple):
    """A choice for each stage.

    Attributes:
        choices: index of each stage's option.
        time_s: of the longest path.
        cost: the sum.
        bound: no choice within the budget costs less; equal to `cost` where this one is proven optimal.
    """

    choices: tuple[int, ...]
    time_s: float
    cost: float
    bound: float


class _Node(NamedTuple):
    """An open subproblem: options left to each stage, and a stage whose copies chose `chosen`."""

    bound: float
    number: int
    allowed: list[Indices]
    stage: int
    chosen: list[int]


def solve(
    after: Edges, options: Sequence[StageOptions], budget_s: float, *, nodes_max: int = NODES_MAX
) -> Solution | None:
    """The cheapest choices whose longest path takes at most `budget_s`; None if there are none.

    Raises:
        SpecError: there is no stage.
    """
    limit_s = budget_s * (1 + SLACK)
    least_s = least_time_s(after, options)
    if least_s > limit_s or least_s == inf:
        return None
    shape = shape_of(after)
    if shape is None:
        return _repaired_only(after, options, limit_s)
    return _Search(after, shape, options, limit_s).run(nodes_max)


def least_time_s(after: Edges, options: Sequence[StageOptions]) -> float:
    """Seconds of the longest path where every stage takes its fastest option; inf if one has none."""
    return longest_path_s(after, [float(stage.time_s.min(initial=inf)) for stage in options])


def longest_path_s(after: Edges, times_s: Sequence[float]) -> float:
    """Seconds of the longest path."""
    return max(heads_s(after, times_s), default=0.0)


class _Search:
    """Branch and bound; one step where no stage is split."""

    def __init__(self, after: Edges, shape: Shape, options: Sequence[StageOptions], limit_s: float) -> None:
        self._after = after
        self._shape = shape
        self._options = options
        self._limit_s = limit_s
        self._best: Solution | None = None
        self._open: list[_Node] = []
        self._count = 0

    def run(self, nodes_max: int) -> Solution:
        """Look at subproblems, lowest bound first, until the best plan is proven or the limit is reached."""
        self._look([np.arange(len(stage.cost)) for stage in self._options])
        while self._open and self._count < nodes_max and not self._settled(self._open[0].bound):
            node = heapq.heappop(self._open)
            times = self._options[node.stage].time_s
            among = node.allowed[node.stage]
            fast = times[among] < max(times[option] for option in node.chosen)
            for half in (among[fast], among[~fast]):
                allowed = list(node.allowed)
                allowed[node.stage] = half
                self._look(allowed)
        assert self._best is not None, "the fastest options are within the limit"
        proven = not self._open or self._settled(self._open[0].bound)
        return self._best._replace(bound=self._best.cost if proven else self._open[0].bound)

    def _look(self, allowed: list[Indices]) -> None:
        """Solve the split pipeline, keep the plan that it makes, and open it if its copies disagree."""
        self._count += 1
        root = self._frontier(allowed)
        index = root.cheapest(self._limit_s)
        if index is None or self._settled(float(root.cost[index])):
            return
        chosen: list[list[int]] = [[] for _ in self._after]
        for stage, option in zip(self._shape.leaves, root.options(index), strict=True):
            chosen[stage].append(int(allowed[stage][option]))
        fastest = [
            min(choices, key=lambda option, times=stage.time_s: float(times[option]))  # type: ignore[misc]
            for choices, stage in zip(chosen, self._options, strict=True)
        ]
        if self._shape.split:
            fastest = _repaired(self._after, self._options, fastest, self._limit_s)
        plan = _solution(self._after, self._options, fastest)
        if self._best is None or plan.cost < self._best.cost:
            self._best = plan
        split = [stage for stage, choices in enumerate(chosen) if len(set(choices)) > 1]
        if split:
            stage = max(split, key=lambda s: (float(np.ptp(self._options[s].cost[chosen[s]])), -s))
            node = _Node(float(root.cost[index]), self._count, allowed, stage, chosen[stage])
            heapq.heappush(self._open, node)

    def _settled(self, bound: float) -> bool:
        """Whether a subproblem with this bound can no longer improve on the best plan."""
        return self._best is not None and bound >= self._best.cost * (1 - SLACK)

    def _frontier(self, allowed: list[Indices]) -> Frontier:
        """Of the whole pipeline, in which only the cheapest point is looked for."""
        leaves = [
            leaf(stage.time_s[among], stage.cost[among] / copies, self._limit_s)
            for stage, among, copies in zip(self._options, allowed, self._shape.copies, strict=True)
        ]
        return _combined(self._shape.tree, leaves, self._limit_s, cheapest_only=True)


def _combined(
    tree: Tree, leaves: Sequence[Frontier], limit_s: float, *, cheapest_only: bool = False
) -> Frontier:
    if tree.kind == "stage":
        return leaves[tree.stage]
    parts = [_combined(part, leaves, limit_s) for part in tree.parts]
    if tree.kind == "parallel":
        return parallel_of(parts)
    return series_of(parts, limit_s, cheapest_only=cheapest_only)


def _repaired_only(after: Edges, options: Sequence[StageOptions], limit_s: float) -> Solution:
    fastest = [int(np.argmin(stage.time_s)) for stage in options]
    bound = sum(
        float(stage.cost[stage.time_s <= room_s].min())
        for stage, room_s in zip(options, _rooms_s(after, options, fastest, limit_s), strict=True)
    )
    found = _solution(after, options, _repaired(after, options, fastest, limit_s))
    return found._replace(bound=bound)


def _repaired(after: Edges, options: Sequence[StageOptions], choices: list[int], limit_s: float) -> list[int]:
    """The move of one stage within its room that saves most, as long as there is one."""
    while True:
        best, moved = 0.0, choices
        for index, room_s in enumerate(_rooms_s(after, options, choices, limit_s)):
            stage = options[index]
            fitting = np.flatnonzero(stage.time_s <= room_s)
            if not len(fitting):
                continue
            option = int(fitting[np.argmin(stage.cost[fitting])])
            saving = float(stage.cost[choices[index]] - stage.cost[option])
            if saving > best:
                best, moved = saving, [*choices[:index], option, *choices[index + 1 :]]
        if moved is choices:
            return choices
        choices = moved


def _rooms_s(
    after: Edges, options: Sequence[StageOptions], choices: Sequence[int], limit_s: float
) -> list[float]:
    """Seconds that each stage may take while the others stay as they are."""
    times = _times_s(options, choices)
    heads, tails = heads_and_tails_s(after, times)
    return [limit_s - a - z + 2 * own for a, z, own in zip(heads, tails, times, strict=True)]


def _solution(after: Edges, options: Sequence[StageOptions], choices: Sequence[int]) -> Solution:
    """The choices with their time and cost, of which nothing is proven yet."""
    cost = sum(float(stage.cost[option]) for stage, option in zip(options, choices, strict=True))
    return Solution(tuple(choices), longest_path_s(after, _times_s(options, choices)), cost, -inf)


def _times_s(options: Sequence[StageOptions], choices: Sequence[int]) -> list[float]:
    return [float(stage.time_s[option]) for stage, option in zip(options, choices, strict=True)]
