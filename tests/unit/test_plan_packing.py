from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.brute import fits
from steelyard.plan.packing import pack


def test_the_largest_first_to_the_first_node_they_fit() -> None:
    # 4 to node 0 (of 5), 3 to node 1, 2 to node 2, 1 to node 0
    assert pack([1, 3, 4, 2], [5, 3, 2]) == (0, 1, 0, 2)


def test_where_first_fit_fails_a_search_finds_it() -> None:
    # first fit puts 4 and 3 on node 0 and then 3 and 2 on node 1 of 6, and 2 of 2 are left over
    sizes, nodes = [4, 3, 3, 2, 2, 2], [8, 8]
    placed = pack(sizes, nodes)
    assert placed is not None
    assert sum(size for size, node in zip(sizes, placed, strict=True) if node == 0) == 8


def test_what_does_not_fit_has_no_place() -> None:
    assert pack([3, 3], [5, 2]) is None  # in all 6 of 7, but a replica is on one node
    assert pack([8], [4, 4]) is None
    assert pack([], []) == ()


def test_very_many_replicas_are_placed_without_a_search() -> None:
    assert pack([2] * 2000, [4000]) == (0,) * 2000
    assert pack([3] * 1000 + [2] * 1000, [4] * 1250) is None


@given(st.lists(st.integers(1, 6), max_size=6), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_a_place_is_found_wherever_there_is_one(sizes: list[int], nodes: list[int]) -> None:
    placed = pack(sizes, nodes)
    assert (placed is not None) == fits(sizes, nodes)
    if placed is not None:
        for node, cores in enumerate(nodes):
            assert sum(size for size, at in zip(sizes, placed, strict=True) if at == node) <= cores
