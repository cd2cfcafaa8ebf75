from math import inf

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.brute import least_cost
from steelyard.plan.graph import StageOptions, least_time_s, longest_path_s, solve
from steelyard.plan.shape import Edges, shape_of

DIAMOND: Edges = ((), (0,), (0,), (1, 2))
N: Edges = ((), (), (0, 1), (1,))


def tangled_layers(layers: int) -> Edges:
    """Layers of three stages, each after two of the three before it."""
    edges: list[tuple[int, ...]] = [(), (), ()]
    for first in range(0, 3 * (layers - 1), 3):
        edges += [(first, first + 1), (first + 1, first + 2), (first, first + 2)]
    return tuple(edges)


def options(*pairs: tuple[float, float]) -> StageOptions:
    return StageOptions(np.array([t for t, _ in pairs]), np.array([c for _, c in pairs]))


SLOW_OR_FAST = options((4.0, 1.0), (2.0, 3.0), (1.0, 7.0))

# eighths are exact in binary, so that sums do not depend on their order
pairs = st.tuples(st.integers(1, 40).map(lambda n: n / 8), st.integers(1, 12).map(float))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Edges, list[StageOptions], float]:
    count = draw(st.integers(1, 5))
    after = tuple(tuple(need for need in range(stage) if draw(st.booleans())) for stage in range(count))
    stages = [options(*draw(st.lists(pairs, min_size=1, max_size=4))) for _ in range(count)]
    return after, stages, draw(st.integers(1, 120)) / 8


def test_branches_may_both_use_the_time_between_fork_and_join() -> None:
    # 1 s less in 0 or 3 would buy both branches a slower option: 2 + 4 + 2 = 8 with (2, 3), two of (4, 1) and
    # (2, 3) again: 3 + 1 + 1 + 3 = 8; 4 + 2 + 2 or 2 + 2 + 4 would cost 1 + 3 + 3 + 3 = 10.
    found = solve(DIAMOND, [SLOW_OR_FAST] * 4, 8.0)
    assert found is not None
    assert found.choices == (1, 0, 0, 1)
    assert (found.time_s, found.cost, found.bound) == (8.0, 8.0, 8.0)


def test_an_n_is_solved_and_proven() -> None:
    # 0 -> 2 <- 1 -> 3 within 6: every path 0-2, 1-2, 1-3 takes 4 + 2, so either 0 and 1 take 4 and 2 and 3
    # take 2, or the other way round: 1 + 1 + 3 + 3 both.
    found = solve(N, [SLOW_OR_FAST] * 4, 6.0)
    assert found is not None
    assert (found.cost, found.bound) == (8.0, 8.0)


def test_nothing_is_cheap_enough_to_be_impossible() -> None:
    assert solve(DIAMOND, [SLOW_OR_FAST] * 4, 2.9) is None
    assert solve(DIAMOND, [SLOW_OR_FAST] * 4, 3.0) is not None
    assert solve(((), (0,)), [SLOW_OR_FAST, options()], 9.0) is None


def test_the_least_time_is_the_longest_path_of_the_fastest() -> None:
    assert least_time_s(DIAMOND, [SLOW_OR_FAST] * 4) == 3.0
    assert least_time_s(((),), [options()]) == inf
    assert longest_path_s(N, [1.0, 2.0, 4.0, 8.0]) == 10.0


@given(problems())
def test_as_cheap_as_by_brute_force_on_any_pipeline(
    problem: tuple[Edges, list[StageOptions], float],
) -> None:
    after, stages, budget_s = problem
    found = solve(after, stages, budget_s)
    expected = least_cost(after, stages, budget_s)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        times = [stage.time_s[choice] for stage, choice in zip(stages, found.choices, strict=True)]
        assert found.time_s == longest_path_s(after, times) <= budget_s
        assert found.cost == sum(
            stage.cost[choice] for stage, choice in zip(stages, found.choices, strict=True)
        )
        assert found.bound <= expected + 1e-6
        assert abs(found.cost - expected) < 1e-6


@given(problems())
def test_a_search_cut_short_still_bounds_the_optimum(
    problem: tuple[Edges, list[StageOptions], float],
) -> None:
    after, stages, budget_s = problem
    found, proven = solve(after, stages, budget_s, nodes_max=1), solve(after, stages, budget_s)
    assert (found is None) == (proven is None)
    if found is not None and proven is not None:
        assert found.bound <= proven.cost + 1e-6 <= found.cost + 2e-6
        shape = shape_of(after)
        if shape is not None and not shape.split:
            assert found == proven


def test_what_is_too_tangled_is_repaired_and_bounded() -> None:
    after = tangled_layers(9)
    assert shape_of(after) is None
    found = solve(after, [SLOW_OR_FAST] * len(after), 20.0)
    # nine layers take 9 s at best, and 20 s leave room for some slower and cheaper options
    assert found is not None
    assert found.time_s <= 20.0
    assert found.bound <= found.cost < 27 * 7.0
    assert solve(after, [SLOW_OR_FAST] * len(after), 8.9) is None
