import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import SpecError
from steelyard.plan.brute import paths
from steelyard.plan.shape import COPIES_MAX, Edges, Shape, Tree, shape_of

N: Edges = ((), (), (0, 1), (1,))


@st.composite
def pipelines(draw: st.DrawFn, stages_max: int = 7) -> Edges:
    """Any directed acyclic graph over a few stages, in topological order."""
    count = draw(st.integers(1, stages_max))
    return tuple(tuple(need for need in range(stage) if draw(st.booleans())) for stage in range(count))


def shaped(after: Edges) -> Shape:
    shape = shape_of(after)
    assert shape is not None
    return shape


def tangled_layers(layers: int) -> Edges:
    """Layers of three stages, each after two of the three before it."""
    edges: list[tuple[int, ...]] = [(), (), ()]
    for first in range(0, 3 * (layers - 1), 3):
        edges += [(first, first + 1), (first + 1, first + 2), (first, first + 2)]
    return tuple(edges)


def stage(index: int) -> Tree:
    return Tree("stage", index)


def test_a_chain_is_a_series() -> None:
    assert shaped(((), (0,), (1,))).tree == Tree("series", parts=(stage(0), stage(1), stage(2)))


def test_a_fork_and_a_join_are_a_series_around_parallel_branches() -> None:
    branches = Tree("parallel", parts=(stage(1), stage(2)))
    assert shaped(((), (0,), (0,), (1, 2))).tree == Tree("series", parts=(stage(0), branches, stage(3)))


def test_an_edge_that_only_shortens_another_way_changes_nothing() -> None:
    assert shaped(((), (0,), (0, 1))) == shaped(((), (0,), (1,)))


def test_two_stages_that_both_wait_for_two_others_are_series_parallel() -> None:
    # as a graph of activities on arcs this is irreducible; as an order it is {0, 1} before {2, 3}
    shape = shaped(((), (), (0, 1), (0, 1)))
    assert shape.tree.kind == "series"
    assert not shape.split


def test_an_n_is_not_and_one_of_its_stages_is_split() -> None:
    # 0 -> 2 <- 1 -> 3: with 1 twice it is (0 | 1) -> 2 beside 1 -> 3
    shape = shaped(N)
    assert shape.split
    assert sum(shape.copies) == 5


def leaf_paths(tree: Tree) -> set[tuple[int, ...]]:
    if tree.kind == "stage":
        return {(tree.stage,)}
    parts = [leaf_paths(part) for part in tree.parts]
    if tree.kind == "parallel":
        return set().union(*parts)
    found: set[tuple[int, ...]] = {()}
    for part in parts:
        found = {(*head, *tail) for head in found for tail in part}
    return found


@given(pipelines())
def test_splitting_moves_no_path(after: Edges) -> None:
    # of the longest paths; shorter ones (by an edge that skips a stage) are part of longer ones
    of_tree = leaf_paths(shaped(after).tree)
    of_graph = set(paths(after))
    maximal = {p for p in of_graph if not any(set(p) < set(q) for q in of_graph)}
    assert maximal <= of_tree
    assert all(any(set(p) <= set(q) for q in of_graph) for p in of_tree)


def test_a_pipeline_has_at_least_one_stage() -> None:
    with pytest.raises(SpecError, match="at least one stage"):
        shape_of(())


def test_what_is_too_tangled_has_no_shape() -> None:
    assert shape_of(tangled_layers(9)) is None


def test_copies_are_limited_before_they_take_long() -> None:
    shape = shape_of(tangled_layers(3))
    assert shape is not None
    assert sum(shape.copies) <= COPIES_MAX + 9
