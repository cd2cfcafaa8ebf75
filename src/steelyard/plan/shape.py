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

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from steelyard.core.errors import SpecError

Edges = tuple[tuple[int, ...], ...]
"""For each stage the indices of those that it needs, all smaller than its own."""

COPIES_MAX = 48
"""Stages and copies of stages together; what needs more counts as too tangled."""

_Sets = list[int]
"""For each vertex a set of others, as bits: those (directly) before it."""


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
def shape_of(after: Edges) -> Shape | None:
    """The pipeline as a series-parallel tree, with as few copies as a greedy choice finds; None: too tangled.

    Raises:
        SpecError: there is no stage.
    """
    if not after:
        raise SpecError("a pipeline needs at least one stage")
    stages = list(range(len(after)))
    order = _closure([sum(1 << need for need in set(needs)) for needs in after])
    while True:
        tree, tangled = _decompose(order, (1 << len(stages)) - 1)
        if tree is not None:
            named = _renamed(tree, stages)
            leaves = _leaves(named)
            return Shape(named, leaves, tuple(leaves.count(stage) for stage in range(len(after))))
        if len(stages) > COPIES_MAX:
            return None
        stages, order = _best_split(stages, order, tangled)


def heads_and_tails_s(
    after: Sequence[Sequence[int]], times_s: Sequence[float]
) -> tuple[list[float], list[float]]:
    """For each stage the longest path that ends with it, and that begins with it; its own time is in both."""
    tails = [0.0] * len(after)
    for stage in reversed(range(len(after))):
        tails[stage] += times_s[stage]
        for need in after[stage]:
            tails[need] = max(tails[need], tails[stage])
    return heads_s(after, times_s), tails


def heads_s(after: Sequence[Sequence[int]], times_s: Sequence[float]) -> list[float]:
    """For each stage the longest path that ends with it, its own time included."""
    heads: list[float] = []
    for needs, time_s in zip(after, times_s, strict=True):
        heads.append(max([heads[need] for need in needs], default=0.0) + time_s)
    return heads


def _decompose(order: _Sets, vertices: int) -> tuple[Tree | None, int]:
    """The tree over `vertices`, or None and those that are tangled."""
    if vertices.bit_count() == 1:
        return Tree("stage", vertices.bit_length() - 1), 0
    comparable = {vertex: order[vertex] & vertices for vertex in _bits(vertices)}
    for vertex in _bits(vertices):
        for need in _bits(order[vertex] & vertices):
            comparable[need] |= 1 << vertex
    kind: Literal["series", "parallel"] = "parallel"
    groups = _components(comparable, vertices)
    if len(groups) == 1:
        kind = "series"
        apart = {vertex: vertices & ~near & ~(1 << vertex) for vertex, near in comparable.items()}
        groups = _components(apart, vertices)
        groups.sort(key=lambda group: (order[group.bit_length() - 1] & vertices & ~group).bit_count())
    if len(groups) == 1:
        return None, vertices
    found = [_decompose(order, group) for group in groups]
    tangled = 0
    for _, rest in found:
        tangled |= rest
    parts = tuple(tree for tree, _ in found if tree is not None)
    return (None, tangled) if tangled else (Tree(kind, parts=parts), 0)


def _components(near: dict[int, int], vertices: int) -> list[int]:
    """Connected components, in the order of their first vertex."""
    groups: list[int] = []
    while vertices:
        group = new = vertices & -vertices
        while new:
            reached = 0
            for vertex in _bits(new):
                reached |= near[vertex]
            new = reached & ~group
            group |= new
        groups.append(group)
        vertices &= ~group
    return groups


def _best_split(stages: list[int], order: _Sets, tangled: int) -> tuple[list[int], _Sets]:
    """The split of a tangled vertex that leaves least tangled; then with fewest copies, then the first."""
    direct = _reduced(order)
    best: tuple[tuple[int, int], list[int], _Sets] | None = None
    for vertex in _bits(tangled):
        for changed in (_by_following(direct, vertex), _by_needed(direct, vertex)):
            if len(changed) == len(direct):
                continue
            split = _closure(changed)
            rank = (_decompose(split, (1 << len(split)) - 1)[1].bit_count(), len(split))
            if best is None or rank < best[0]:
                best = (rank, stages + [stages[vertex]] * (len(split) - len(stages)), split)
    assert best is not None, "an N has a vertex with two neighbours on one side"
    return best[1], best[2]


def _by_following(direct: _Sets, vertex: int) -> _Sets:
    """One copy for each vertex that directly follows; the first keeps its number."""
    changed = list(direct)
    following = [v for v, needs in enumerate(direct) if needs >> vertex & 1]
    for follower in following[1:]:
        changed[follower] ^= 1 << vertex | 1 << len(changed)
        changed.append(direct[vertex])
    return changed


def _by_needed(direct: _Sets, vertex: int) -> _Sets:
    """One copy for each vertex that it directly needs; the first keeps its number."""
    changed = list(direct)
    following = [v for v, needs in enumerate(direct) if needs >> vertex & 1]
    for need in _bits(direct[vertex] & (direct[vertex] - 1)):  # all but the first
        changed[vertex] ^= 1 << need
        for follower in following:
            changed[follower] |= 1 << len(changed)
        changed.append(1 << need)
    return changed


def _closure(direct: _Sets) -> _Sets:
    """All that are before each vertex, from those directly before it; vertices in any order."""
    closed: dict[int, int] = {}

    def visit(vertex: int) -> int:
        if vertex not in closed:
            every = direct[vertex]
            for need in _bits(direct[vertex]):
                every |= visit(need)
            closed[vertex] = every
        return closed[vertex]

    return [visit(vertex) for vertex in range(len(direct))]


def _reduced(order: _Sets) -> _Sets:
    """Those directly before each vertex: before it, and not before another one that is."""
    reduced = []
    for needs in order:
        indirect = 0
        for need in _bits(needs):
            indirect |= order[need]
        reduced.append(needs & ~indirect)
    return reduced


def _bits(vertices: int) -> Iterator[int]:
    """The members of a set, smallest first."""
    while vertices:
        low = vertices & -vertices
        yield low.bit_length() - 1
        vertices ^= low


def _leaves(tree: Tree) -> tuple[int, ...]:
    return (tree.stage,) if tree.kind == "stage" else tuple(s for part in tree.parts for s in _leaves(part))


def _renamed(tree: Tree, stages: Sequence[int]) -> Tree:
    if tree.kind == "stage":
        return Tree("stage", stages[tree.stage])
    return Tree(tree.kind, parts=tuple(_renamed(part, stages) for part in tree.parts))
