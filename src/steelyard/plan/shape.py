"""Which pipelines are series-parallel, and how the others are made so by splitting stages.

Take the order "u before v" that the edges imply. If it falls apart into sets without any order between them,
these are parallel; if into sets of which each is wholly before the next, these are a series; if neither, the
order contains the shape N and is not series-parallel (Valdes, Tarjan and Lawler, "The recognition of series
parallel digraphs", SIAM Journal on Computing 11, 1982).

What is tangled so is untangled by *splitting*: a stage is replaced by one copy for each stage that directly
follows it, or by one for each that it directly follows. No path is gained or lost, so as long as the copies
of a stage take equal times the latency is the same. What follows from copies that don't is in
`steelyard.plan.graph`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from steelyard.core.errors import SpecError

Edges = tuple[tuple[int, ...], ...]
"""For each stage the indices of those that it needs, all smaller than its own."""

COPIES_MAX = 256

_Order = list[set[int]]
"""For each vertex all that are before it, directly or not."""


class Tree(NamedTuple):
    """A series-parallel pipeline: a stage, or parts in series or in parallel."""

    kind: Literal["stage", "series", "parallel"]
    stage: int = -1
    parts: tuple["Tree", ...] = ()


class Shape(NamedTuple):
    """A pipeline made series-parallel.

    Attributes:
        tree: of stages; one that is split occurs several times.
        leaves: the stages in the tree's order.
        copies: how often each stage occurs; all 1 where the pipeline is series-parallel itself.
    """

    tree: Tree
    leaves: tuple[int, ...]
    copies: tuple[int, ...]

    @property
    def split(self) -> bool:
        """Whether any stage had to be split."""
        return max(self.copies, default=1) > 1


@lru_cache(maxsize=256)
def shape_of(after: Edges) -> Shape:
    """The pipeline as a series-parallel tree, with as few copies as a greedy choice finds.

    Raises:
        SpecError: there is no stage, or it takes more than `COPIES_MAX` copies.
    """
    if not after:
        raise SpecError("a pipeline needs at least one stage")
    stages = list(range(len(after)))
    order = _closure([set(needs) for needs in after])
    while True:
        tree, tangled = _decompose(order, list(range(len(stages))))
        if tree is not None:
            named = _renamed(tree, stages)
            leaves = _leaves(named)
            return Shape(named, leaves, tuple(leaves.count(stage) for stage in range(len(after))))
        stages, order = _best_split(stages, order, tangled)
        if len(stages) > COPIES_MAX:
            raise SpecError(
                f"a pipeline of {len(after)} stages is too tangled: more than {COPIES_MAX} copies"
            )


def heads_and_tails_s(
    after: Sequence[Sequence[int]], times_s: Sequence[float]
) -> tuple[list[float], list[float]]:
    """For each stage the longest path that ends with it, and that begins with it; its own time is in both."""
    heads: list[float] = []
    for needs, time_s in zip(after, times_s, strict=True):
        heads.append(max((heads[need] for need in needs), default=0.0) + time_s)
    tails = [0.0] * len(after)
    for stage in reversed(range(len(after))):
        tails[stage] += times_s[stage]
        for need in after[stage]:
            tails[need] = max(tails[need], tails[stage])
    return heads, tails


def _decompose(order: _Order, vertices: list[int]) -> tuple[Tree | None, list[int]]:
    """The tree over `vertices`, or None and those that are tangled."""
    if len(vertices) == 1:
        return Tree("stage", vertices[0]), []
    groups = _components(vertices, lambda u, v: u in order[v] or v in order[u])
    kind: Literal["series", "parallel"] = "parallel"
    if len(groups) == 1:
        kind = "series"
        groups = _components(vertices, lambda u, v: u not in order[v] and v not in order[u])
        groups.sort(key=lambda group: len(order[group[0]].intersection(vertices)))
    if len(groups) == 1:
        return None, vertices
    found = [_decompose(order, group) for group in groups]
    tangled = [vertex for _, rest in found for vertex in rest]
    parts = tuple(tree for tree, _ in found if tree is not None)
    return (None, tangled) if tangled else (Tree(kind, parts=parts), [])


def _components(vertices: list[int], linked: Callable[[int, int], bool]) -> list[list[int]]:
    """Connected components, in the order of their first vertex."""
    rest, groups = list(vertices), []
    while rest:
        group, rest = [rest[0]], rest[1:]
        for vertex in group:  # grows while it is read
            near = [other for other in rest if linked(vertex, other)]
            group += near
            rest = [other for other in rest if other not in near]
        groups.append(sorted(group))
    return groups


def _best_split(stages: list[int], order: _Order, tangled: list[int]) -> tuple[list[int], _Order]:
    """The split of a tangled vertex that leaves least tangled; then with fewest copies, then the first."""
    direct = _reduced(order)
    best: tuple[tuple[int, int], list[int], _Order] | None = None
    for vertex in tangled:
        following = [v for v, needs in enumerate(direct) if vertex in needs]
        for ways in (_by_following(direct, vertex, following), _by_needed(direct, vertex, following)):
            if ways is None:
                continue
            split = _closure(ways)
            left = len(_decompose(split, list(range(len(split))))[1])
            rank = (left, len(split))
            if best is None or rank < best[0]:
                added = len(split) - len(stages)
                best = (rank, stages + [stages[vertex]] * added, split)
    assert best is not None, "an N has a vertex with two neighbours on one side"
    return best[1], best[2]


def _by_following(direct: _Order, vertex: int, following: list[int]) -> _Order | None:
    """One copy for each vertex that directly follows; the first keeps its number."""
    if len(following) < 2:
        return None
    changed = [set(needs) for needs in direct]
    for follower in following[1:]:
        changed[follower].discard(vertex)
        changed[follower].add(len(changed))
        changed.append(set(direct[vertex]))
    return changed


def _by_needed(direct: _Order, vertex: int, following: list[int]) -> _Order | None:
    """One copy for each vertex that it directly needs."""
    needed = sorted(direct[vertex])
    if len(needed) < 2:
        return None
    changed = [set(needs) for needs in direct]
    changed[vertex] = {needed[0]}
    for need in needed[1:]:
        for follower in following:
            changed[follower].add(len(changed))
        changed.append({need})
    return changed


def _closure(before: _Order) -> _Order:
    """All that are before each vertex, from those directly before it; vertices in any order."""
    closed: dict[int, set[int]] = {}

    def visit(vertex: int) -> set[int]:
        if vertex not in closed:
            closed[vertex] = set(before[vertex]).union(*(visit(need) for need in before[vertex]))
        return closed[vertex]

    return [visit(vertex) for vertex in range(len(before))]


def _reduced(order: _Order) -> _Order:
    """Those directly before each vertex: before it, and not before another one that is."""
    return [needs.difference(*(order[need] for need in needs)) for needs in order]


def _leaves(tree: Tree) -> tuple[int, ...]:
    return (tree.stage,) if tree.kind == "stage" else tuple(s for part in tree.parts for s in _leaves(part))


def _renamed(tree: Tree, stages: Sequence[int]) -> Tree:
    if tree.kind == "stage":
        return Tree("stage", stages[tree.stage])
    return Tree(tree.kind, parts=tuple(_renamed(part, stages) for part in tree.parts))
