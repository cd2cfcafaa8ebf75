import numpy as np

from steelyard.plan.pareto import leaf, parallel, parallel_of, series, series_of


def test_a_leaf_keeps_what_nothing_beats() -> None:
    # 3 s for 4 is beaten by 2 s for 3; 1 s for 9 is the fastest; 5 s for 1 is over the budget of 4.
    points = leaf(np.array([1.0, 3.0, 2.0, 5.0]), np.array([9.0, 4.0, 3.0, 1.0]), 4.0)
    assert points.cost.tolist() == [3.0, 9.0]
    assert points.time_s.tolist() == [2.0, 1.0]
    assert [points.options(i) for i in range(2)] == [[2], [0]]


def test_of_equal_options_the_first_wins() -> None:
    points = leaf(np.array([1.0, 1.0]), np.array([2.0, 2.0]), 4.0)
    assert points.options(0) == [0]
    assert len(points.cost) == 1


A = leaf(np.array([4.0, 1.0]), np.array([1.0, 5.0]), 10.0)
B = leaf(np.array([3.0, 2.0]), np.array([2.0, 3.0]), 10.0)


def test_in_series_times_and_costs_add_up() -> None:
    # (4,1) + (3,2) = (7,3); (4,1) + (2,3) = (6,4); (1,5) + (3,2) = (4,7); (1,5) + (2,3) = (3,8)
    points = series(A, B, 10.0)
    assert points.cost.tolist() == [3.0, 4.0, 7.0, 8.0]
    assert points.time_s.tolist() == [7.0, 6.0, 4.0, 3.0]
    assert points.options(1) == [0, 1]
    assert series(A, B, 5.0).cost.tolist() == [7.0, 8.0]


def test_in_parallel_the_longer_time_counts_and_costs_add_up() -> None:
    # within 4 s: 1 + 2; within 3: 5 + 2; within 2: 5 + 3
    points = parallel(A, B)
    assert points.cost.tolist() == [3.0, 7.0, 8.0]
    assert points.time_s.tolist() == [4.0, 3.0, 2.0]
    assert points.options(2) == [1, 1]


def test_the_cheapest_within_a_budget() -> None:
    points = series(A, B, 10.0)
    assert points.cheapest(7.0) == 0
    assert points.cheapest(5.9) == 2
    assert points.cheapest(2.9) is None


def test_what_has_no_point_leaves_none() -> None:
    empty = leaf(np.array([9.0]), np.array([1.0]), 5.0)
    assert series(empty, B, 10.0).cheapest(10.0) is None
    assert series_of([A, empty, B], 10.0).cheapest(10.0) is None
    assert parallel_of([A, empty]).cheapest(10.0) is None


def test_the_cheapest_alone_is_the_cheapest_of_the_frontier() -> None:
    # of the sums above (3, 4, 7, 8) within 6.5 s: cost 4, in 6 s
    alone = series(A, B, 6.5, cheapest_only=True)
    assert (alone.cost.tolist(), alone.time_s.tolist(), alone.options(0)) == ([4.0], [6.0], [0, 1])
    assert len(series(A, B, 2.9, cheapest_only=True).cost) == 0
    rng = np.random.default_rng(5)
    for _ in range(50):
        parts = [leaf(time_s, cost, 10.0) for time_s, cost in rng.integers(1, 6, (3, 2, 5)).astype(float)]
        for budget_s in range(3, 16):
            whole = series_of(parts, float(budget_s))
            first = whole.cheapest(float(budget_s))
            few = series_of(parts, float(budget_s), cheapest_only=True)
            assert few.cheapest(float(budget_s)) == (None if first is None else 0)
            if first is not None:
                assert few.options(0) == whole.options(first)
                assert few.time_s[0] == whole.time_s[first]
