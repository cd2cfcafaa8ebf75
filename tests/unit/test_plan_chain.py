from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.chain import Option, cheapest, frontier

option = st.builds(
    lambda time, cost: (time / 8, float(cost)), st.integers(0, 40), st.integers(1, 12)
)  # eighths are exact in binary: sums are compared for equality
problems = st.lists(st.lists(option, min_size=1, max_size=6), min_size=1, max_size=3)


def best_by_force(stages: list[list[tuple[float, float]]], budget_s: float) -> float | None:
    costs = [
        sum(cost for _, cost in combination)
        for combination in product(*stages)
        if sum(time for time, _ in combination) <= budget_s
    ]
    return min(costs, default=None)


@given(problems, st.integers(0, 120))
def test_the_chain_is_as_cheap_as_by_brute_force(
    stages: list[list[tuple[float, float]]], eighths: int
) -> None:
    options = [[Option(t, c, (i, j)) for j, (t, c) in enumerate(stage)] for i, stage in enumerate(stages)]
    point = cheapest(frontier(options), eighths / 8)
    expected = best_by_force(stages, eighths / 8)
    assert (point.cost if point else None) == expected
    if point:
        chosen = [stages[i][j] for i, j in point.choices]
        assert sum(t for t, _ in chosen) == point.time_s <= eighths / 8
        assert sum(c for _, c in chosen) == point.cost


@given(problems)
def test_a_frontier_has_falling_times_and_rising_costs(stages: list[list[tuple[float, float]]]) -> None:
    points = frontier([[Option(t, c, None) for t, c in stage] for stage in stages])
    assert all(a.cost < b.cost and a.time_s > b.time_s for a, b in pairwise(points))


def test_a_stage_without_options_has_no_plan() -> None:
    assert frontier([[Option(1.0, 1.0, "a")], []]) == ()
    assert cheapest((), 1.0) is None


def test_of_equal_options_the_first_wins() -> None:
    (point,) = frontier([[Option(1.0, 1.0, "first"), Option(1.0, 1.0, "second")]])
    assert point.choices == ("first",)
