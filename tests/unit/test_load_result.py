"""The client's accounting: what counts as late, as a violation, as void."""

import numpy as np
import pytest

from steelyard.load.result import OK, OVERRUN, TIMEOUT, Outcomes, quantile, summarise


def outcomes_of(*rows: tuple[float, float | None, int], slo_s: float = np.inf) -> Outcomes:
    """Outcomes of (at_s, latency_s, status), each handed over 1 ms late unless it overran."""
    outcomes = Outcomes(np.array([row[0] for row in rows]), np.full(len(rows), slo_s))
    for index, (_, latency_s, status) in enumerate(rows):
        outcomes.status[index] = status
        outcomes.latency_s[index] = np.nan if latency_s is None else latency_s
        outcomes.lateness_s[index] = np.nan if status == OVERRUN else 0.001
    return outcomes


def test_violations_are_late_or_not_completed() -> None:
    result = summarise(
        outcomes_of(
            (0.1, 0.02, OK),
            (0.2, 0.09, OK),
            (1.1, 0.001, 503),
            (1.2, 0.002, 503),
            (1.3, None, TIMEOUT),
            (2.5, None, OVERRUN),
            (2.6, 0.05, OK),
            slo_s=0.05,
        ),
        seconds=4.0,
        slo_s=0.05,
    )
    # Late: 90 ms only, 50 ms is just in time. Violations: 1 late + 2 refused + 1 timeout + 1 overrun = 5 of
    # 7.
    assert (result.offered, result.completed, result.late, result.violations) == (7, 3, 1, 5)
    assert result.violation_ratio == pytest.approx(5 / 7)
    assert result.errors == {"timeout": 1, "overrun": 1, "503": 2}
    # Two of the three completed are in time, over 4 s.
    assert result.goodput_rps == 0.5
    assert result.latency_ms == {"p50": 50.0, "p90": 90.0, "p99": 90.0, "max": 90.0}
    assert result.per_second.offered == [2, 3, 2, 0]
    assert result.per_second.completed == [2, 0, 1, 0]
    assert result.per_second.violations == [1, 3, 1, 0]
    assert result.per_second.p50_ms == [20.0, None, 50.0, None]
    assert result.per_second.p99_ms == [90.0, None, 50.0, None]


def test_without_an_slo_nothing_is_late() -> None:
    result = summarise(outcomes_of((0.0, 9.0, OK)), seconds=1.0, slo_s=None)
    assert (result.late, result.violations, result.slo_ms) == (0, 0, None)


def test_nothing_offered_is_no_violation() -> None:
    result = summarise(Outcomes(np.array([]), np.array([])), seconds=2.0, slo_s=0.1)
    assert (result.offered, result.violation_ratio, result.void) == (0, 0.0, False)
    assert result.latency_ms["p99"] is None


def test_a_run_is_void_when_one_request_in_a_hundred_was_sent_too_late() -> None:
    rows = [(index / 100, 0.01, OK) for index in range(100)]
    on_time = outcomes_of(*rows)
    on_time.lateness_s[99] = 0.5
    # 99 of 100 are at 1 ms: the smallest value that 99 % do not exceed is 1 ms.
    assert not summarise(on_time, seconds=1.0, slo_s=None).void
    on_time.lateness_s[98] = 0.0021
    assert summarise(on_time, seconds=1.0, slo_s=None).void
    on_time.lateness_s[98] = 0.002  # just in time
    assert not summarise(on_time, seconds=1.0, slo_s=None).void


def test_a_quantile_is_an_observed_value() -> None:
    # 0.5 * 4 = 2: two of four values do not exceed 2. 0.99 * 4 = 3.96: it takes all four.
    assert quantile(np.array([4.0, 1.0, 3.0, 2.0]), 0.5) == 2.0
    assert quantile(np.array([4.0, 1.0, 3.0, 2.0]), 0.99) == 4.0
