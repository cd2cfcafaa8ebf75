"""Traces as values: cutting, scaling, and the arrivals they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import TraceError
from steelyard.workload.trace import (
    Arrival,
    CountTrace,
    Mark,
    arrival_times,
    arrival_trace,
    carry,
    count_trace,
    poisson_times,
)


def test_scaling_carries_the_fraction_to_the_next_second() -> None:
    # 3, 3, 3, 3 times 0.5: running totals 1.5, 3, 4.5, 6 -> floors 1, 3, 4, 6 -> differences 1, 2, 1, 2.
    assert count_trace([3, 3, 3, 3]).scale(0.5).counts.tolist() == [1, 2, 1, 2]


def test_ten_tenths_make_one_request_in_spite_of_binary_fractions() -> None:
    assert carry(np.full(10, 0.1)).tolist() == [0] * 9 + [1]


@given(
    counts=st.lists(st.integers(0, 1000), min_size=1, max_size=50),
    factor=st.floats(0.001, 20, allow_nan=False),
)
def test_scaling_keeps_the_total_within_one_request(counts: list[int], factor: float) -> None:
    scaled = count_trace(counts).scale(factor).counts
    assert abs(scaled.sum() - sum(counts) * factor) <= 1
    assert scaled.min() >= 0


def test_each_mark_keeps_its_own_total() -> None:
    gold, plain = Mark(slo_class="gold"), Mark()
    trace = CountTrace({plain: np.array([4, 4]), gold: np.array([1, 1])}).scale(1.5)
    # plain 8 * 1.5 = 12; gold 2 * 1.5 = 3.
    assert {mark: int(counts.sum()) for mark, counts in trace.by_mark.items()} == {plain: 12, gold: 3}


def test_a_slice_is_half_open_and_starts_at_zero() -> None:
    trace = CountTrace({Mark(): np.array([5, 6, 7, 8])}, gaps=(0, 2)).slice(1, 3)
    assert trace.counts.tolist() == [6, 7]
    assert trace.gaps == (1,)
    cut = arrival_trace([Arrival(0.5), Arrival(1.0), Arrival(2.0)]).slice(1, 2)
    assert [arrival.at_s for arrival in cut.requests] == [0.0]


@pytest.mark.parametrize(("from_s", "to_s"), [(-1, 2), (2, 2), (3, 2), (0, 5)])
def test_a_slice_outside_the_trace_is_refused(from_s: int, to_s: int) -> None:
    with pytest.raises(TraceError, match=f"got {from_s}:{to_s}"):
        count_trace([1, 1, 1, 1]).slice(from_s, to_s)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_a_positive_number_is_refused(factor: float) -> None:
    with pytest.raises(TraceError, match="positive scale"):
        count_trace([1]).scale(factor)


def test_exact_arrivals_thin_evenly_and_double_between_neighbours() -> None:
    trace = arrival_trace([Arrival(0.0), Arrival(1.0), Arrival(2.0), Arrival(3.0)])
    # Half: carried totals 0.5, 1, 1.5, 2 keep the second and the fourth.
    assert [a.at_s for a in trace.scale(0.5).requests] == [1.0, 3.0]
    # Twice: a copy halfway to the next arrival, the last one's halfway to the end of its second.
    assert [a.at_s for a in trace.scale(2).requests] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_exact_arrivals_count_by_second_and_keep_what_they_are() -> None:
    marked = Arrival(2.25, Mark("ocr", "gold", 0.2, 3))
    trace = arrival_trace([marked, Arrival(0.5)])
    assert trace.seconds == 3
    assert trace.counts.tolist() == [1, 0, 1]
    assert trace.arrivals(np.random.default_rng(0)) == [Arrival(0.5), marked]


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_arrivals_reproduce_the_counts_in_order(counts: list[int], seed: int) -> None:
    times = arrival_times(np.array(counts), np.random.default_rng(seed))
    assert np.all(np.diff(times) >= 0)
    assert np.bincount(times.astype(np.int64), minlength=len(counts)).tolist() == counts


def test_arrivals_of_marks_are_merged_by_time_and_repeat_with_the_seed() -> None:
    trace = CountTrace({Mark("a"): np.array([20, 20]), Mark("b"): np.array([20, 0])})
    drawn = trace.arrivals(np.random.default_rng(3))
    assert drawn == sorted(drawn, key=lambda a: a.at_s)
    assert sum(a.mark.service == "b" for a in drawn) == 20
    assert drawn == trace.arrivals(np.random.default_rng(3))


def test_poisson_counts_have_the_variance_of_their_mean() -> None:
    times = poisson_times(50.0, 400.0, np.random.default_rng(1))
    counts = np.bincount(times.astype(np.int64), minlength=400)
    # 400 counts of mean 50: standard errors sqrt(50/400) = 0.35 (mean), sqrt(2/400) = 0.07 (dispersion).
    assert abs(counts.mean() - 50) < 4 * 0.35
    assert abs(counts.var() / counts.mean() - 1) < 4 * 0.07


@pytest.mark.parametrize("rate", [0.0, -3.0, float("nan")])
def test_a_rate_that_is_not_positive_is_refused(rate: float) -> None:
    with pytest.raises(TraceError, match="rate: want a positive number"):
        poisson_times(rate, 1.0, np.random.default_rng(0))


def test_a_trace_needs_something_in_it() -> None:
    with pytest.raises(TraceError, match="at least one second"):
        count_trace([])
    with pytest.raises(TraceError, match="second 1: want a count of 0 or more, got -4"):
        count_trace([3, -4])
    with pytest.raises(TraceError, match="at least one arrival"):
        arrival_trace([])
    with pytest.raises(TraceError, match="got -1"):
        arrival_trace([Arrival(-1.0)])


def test_a_scale_that_makes_more_requests_than_fit_is_refused_before_they_are_made() -> None:
    with pytest.raises(TraceError, match=r"at most 10000000 requests a second, 20 times 1e\+09 is more"):
        count_trace([5, 20]).scale(1e9)
    with pytest.raises(TraceError, match="requests with exact times, 2 times"):
        arrival_trace([Arrival(0.0), Arrival(1.0)]).scale(1e9)
