from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.foresight import cheapest_replicas, smoothest_rates


def test_a_peak_is_spread_over_its_patience() -> None:
    # Rows may be served one step later: the 50 are due at the end of the third, so two steps are left for
    # them, and the 10 that come in the third step are served in the fourth.
    rates = smoothest_rates(np.array([10.0, 50.0, 10.0, 10.0]), 1)
    assert rates.tolist() == pytest.approx([10.0, 25.0, 25.0, 10.0, 10.0])


def test_without_patience_rows_are_served_as_they_come() -> None:
    assert smoothest_rates(np.array([1.0, 5.0, 0.0, 2.0]), 0).tolist() == pytest.approx([1.0, 5.0, 0.0, 2.0])


def test_patience_for_everything_is_one_constant_rate_as_far_as_rows_are_there() -> None:
    # 6 rows over 6 steps, but nothing can be served before it arrives: 0, 0, then 6 over 4 steps
    assert smoothest_rates(np.array([0.0, 0.0, 6.0]), 3).tolist() == pytest.approx([0, 0, 1.5, 1.5, 1.5, 1.5])


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(0, 6))
def test_the_string_is_tight_between_what_has_come_and_what_is_due(rows: list[int], patience: int) -> None:
    arrivals = np.array(rows, dtype=float)
    rates = smoothest_rates(arrivals, patience)
    come = np.concatenate((np.cumsum(arrivals), np.full(patience, arrivals.sum())))
    due = np.concatenate((np.zeros(patience), np.cumsum(arrivals)))
    served = np.cumsum(rates)
    assert np.all(served <= come + 1e-6)
    assert np.all(served >= due - 1e-6)
    # it only speeds up where all that has come has been served, and only slows down where all that is due
    for step in range(len(rates) - 1):
        if rates[step + 1] > rates[step] + 1e-6:
            assert served[step] == pytest.approx(come[step], abs=1e-6)
        if rates[step + 1] < rates[step] - 1e-6:
            assert served[step] == pytest.approx(due[step], abs=1e-6)


def test_a_replica_is_kept_through_a_gap_that_costs_less_than_a_start() -> None:
    # Two are needed in the first and the last second; a second costs a core-second for each.
    def needed(gap: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[99.0, 2.0], *[[1.0, 2.0]] * gap, [99.0, 2.0]])

    assert cheapest_replicas(needed(5), 6.0).tolist() == [2] * 7
    assert cheapest_replicas(needed(7), 6.0).tolist() == [2, *[1] * 7, 2]


def test_cores_take_a_short_peak_and_replicas_a_long_one() -> None:
    # With one replica a second of the peak costs 3 core-seconds, with two 2; a start costs 4.
    def peak(seconds: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([[1.0, 99.0], *[[3.0, 2.0]] * seconds, [1.0, 99.0]])

    assert cheapest_replicas(peak(4), 4.0).tolist() == [1] * 6
    assert cheapest_replicas(peak(5), 4.0).tolist() == [1, *[2] * 5, 1]


def test_replicas_beyond_the_free_ones_are_paid_for_in_the_first_second() -> None:
    # Two save 2 a second, for which a start costs 5: worth it from the third second on, unless it is free.
    costs = np.array([[3.0, 1.0]] * 2)
    assert cheapest_replicas(costs, 5.0).tolist() == [2, 2]
    assert cheapest_replicas(costs, 5.0, 1).tolist() == [1, 1]
    assert cheapest_replicas(np.array([[3.0, 1.0]] * 3), 5.0, 1).tolist() == [2, 2, 2]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(0, 6),
)
def test_it_is_as_cheap_as_by_enumeration(rows: list[list[int]], start_cost: int) -> None:
    def total(counts: tuple[int, ...]) -> float:
        starts = sum(max(0, b - a) for a, b in pairwise(counts))
        return sum(float(costs[second][n - 1]) for second, n in enumerate(counts)) + start_cost * starts

    costs = np.array(rows, dtype=float)
    best = min(total(counts) for counts in product((1, 2, 3), repeat=len(rows)))
    assert total(tuple(cheapest_replicas(costs, float(start_cost)).tolist())) == best
