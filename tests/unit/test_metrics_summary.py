"""Accounting, quantiles and core-seconds; every number is derived beside it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.metrics.summary import (
    OUTCOMES,
    RESOLUTION,
    Counts,
    FixedHistogram,
    LatencyHistogram,
    Outcome,
    ServiceSummary,
)
from steelyard.metrics.sums import CoreSeconds


def test_violations_are_over_requests_that_were_not_cancelled() -> None:
    counts = Counts()
    ends: tuple[tuple[Outcome, bool], ...] = (
        ("completed", False), ("completed", True), ("shed", False), ("rejected", False), ("failed", False),
        ("cancelled", False), ("cancelled", False), ("completed", False),
    )  # fmt: skip
    for outcome, late in ends:
        counts.add(outcome, late=int(late), rows=2)
    # 8 requests: 3 completed of which 1 late, 1 shed, 1 rejected, 1 failed, 2 cancelled
    assert counts.as_dict() == {
        "requests": 8, "completed": 3, "late": 1, "shed": 1, "rejected": 1, "failed": 1, "cancelled": 2,
        "violations": 4,
    }  # fmt: skip
    assert counts.rows == 16
    # 1 late + 1 shed + 1 rejected + 1 failed = 4 of 8 - 2
    assert counts.violation_ratio == pytest.approx(4 / 6)
    assert Counts().violation_ratio == 0


@given(st.lists(st.sampled_from(OUTCOMES)))
def test_every_request_ends_once(ends: list[Outcome]) -> None:
    counts = Counts()
    for outcome in ends:
        counts.add(outcome)
    assert counts.requests == len(ends) == sum(getattr(counts, outcome) for outcome in OUTCOMES)


@given(st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=200), st.floats(0.001, 1))
def test_a_quantile_is_never_too_low_and_at_most_the_resolution_too_high(
    latencies_s: list[float], quantile: float
) -> None:
    histogram = LatencyHistogram()
    histogram.add(latencies_s)
    exact_s = sorted(latencies_s)[max(1, math.ceil(quantile * len(latencies_s))) - 1]
    found_s = histogram.quantile_s(quantile)
    assert found_s is not None
    assert exact_s * (1 - 1e-6) <= found_s <= exact_s * (1 + RESOLUTION) * (1 + 1e-6)
    assert histogram.quantile_s(1.0) == pytest.approx(max(latencies_s), rel=1e-6)
    assert histogram.max_s == max(latencies_s)


@given(st.lists(st.floats(1e-6, 1e5)), st.lists(st.floats(1e-6, 1e5)))
def test_merging_histograms_is_counting_all(left_s: list[float], right_s: list[float]) -> None:
    together, left, right = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    left.add(left_s)
    right.add(right_s)
    for latency_s in left_s + right_s:
        together.add([latency_s])
    left.merge(right)
    assert np.array_equal(left.bucket_counts, together.bucket_counts)
    assert (left.count, left.max_s) == (together.count, together.max_s)


def test_a_histogram_without_counts_has_no_quantiles() -> None:
    assert LatencyHistogram().quantile_s(0.5) is None


def test_one_request_seen_at_once_is_one_a_second() -> None:
    summary = ServiceSummary()
    summary.observe_completed([0.1], [None], now_s=10.0)
    assert (summary.view(now_s=10.02).rate_rps, summary.view(now_s=12.0).rate_rps) == (1.0, 0.5)


def test_the_sliding_window() -> None:
    summary = ServiceSummary(window_s=3.0, slice_s=1.0)
    summary.observe_completed([0.1], [None], now_s=10.0, rows=3)
    summary.observe_completed([0.3], [None], now_s=10.5, late=1)
    summary.observe("rejected", now_s=11.2)
    view = summary.view(now_s=12.0)
    # from 10.0, where counting began, to 12.0: 3 ends, 1 of them completed in time, 2 violations of 3
    assert (view.span_s, view.count, view.rate_rps, view.goodput_rps) == (2.0, 3, 1.5, 0.5)
    assert view.violations == 2
    assert view.violation_ratio == pytest.approx(2 / 3)
    assert view.p50_s == pytest.approx(0.1, rel=RESOLUTION)
    assert view.p99_s == pytest.approx(0.3)
    assert view.max_s == 0.3
    # at 13.9 the slices 11, 12 and 13 are left: 2.9 s with one rejection
    view = summary.view(now_s=13.9)
    assert (view.count, view.violations, view.p50_s, view.max_s) == (1, 1, None, None)
    assert view.span_s == pytest.approx(2.9)
    # long after: nothing; the totals stay
    view = summary.view(now_s=100.5)
    assert (view.count, view.rate_rps, view.violation_ratio) == (0, 0.0, 0.0)
    assert (summary.counts.requests, summary.counts.rows, summary.latency.count) == (3, 5, 2)


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(OUTCOMES)), max_size=60))
def test_the_window_holds_what_a_list_would(ends: list[tuple[float, Outcome]]) -> None:
    summary = ServiceSummary(window_s=4.0, slice_s=0.5)
    now_s, seen = 0.0, []
    for step_s, outcome in ends:
        now_s += step_s
        summary.observe(outcome, now_s=now_s)
        seen.append(now_s)
    # slices of 0.5 s: those whose index is more than that of now less 8 are in the window
    inside = sum(1 for at_s in seen if math.floor(at_s / 0.5) > math.floor(now_s / 0.5) - 8)
    assert summary.view(now_s=now_s).count == inside


def test_core_seconds_are_the_integral_of_a_step_function() -> None:
    cores = CoreSeconds(now_s=10.0)
    cores.set(1.0, now_s=12.0)
    cores.set(2.5, now_s=14.0)
    cores.set(0.0, now_s=15.0)
    # 2 s x 0 + 2 s x 1 + 1 s x 2.5 + 5 s x 0
    assert cores.total(now_s=20.0) == pytest.approx(4.5)
    assert cores.cores == 0.0


def test_core_seconds_with_a_clock_that_seems_to_go_back() -> None:
    cores = CoreSeconds(now_s=0.0)
    cores.set(1.0, now_s=2.0)
    cores.set(3.0, now_s=1.5)  # late news: counts from 2.0 on
    assert cores.total(now_s=4.0) == pytest.approx(6.0)


def test_fixed_buckets_include_their_upper_bound() -> None:
    histogram = FixedHistogram((0.1, 1.0))
    histogram.add((0.05, 0.1, 0.5))
    histogram.add((1.0, 7.0))
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum_s == pytest.approx(8.65)


def test_the_mean_accuracy_is_known_only_if_every_answer_s_is() -> None:
    summary = ServiceSummary(window_s=2.0, slice_s=1.0)
    assert summary.accuracy.mean is None
    summary.observe_completed([0.1], [None], now_s=0.5)
    summary.observe_completed([0.1, 0.1], [0.9, 0.8], now_s=2.5)
    summary.observe("shed", now_s=2.6)
    assert summary.accuracy.mean is None  # of the first nobody knows
    assert summary.view(now_s=2.7).accuracy == pytest.approx(0.85)  # the first is older than the window
