"""What the default policy reckons a stage must carry, in rows a second."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.snapshot import ServiceView, ServiceWindow
from steelyard.policies.steelyard.demand import (
    SHARE,
    VIOLATION_TARGET,
    ArrivalRate,
    arriving_rps,
    needed_rps,
    slack_share,
)
from steelyard.policies.steelyard.targets import StageTarget

TARGET = StageTarget(1, 1.0, 0.02, 0.1, 1, 1.0)
"""100 ms to wait, as planned."""


def need(queue: int, arriving: float, slack_s: float | None, *, share: float = SHARE) -> float:
    return needed_rps(queue, arriving, TARGET, slack_s, share)


# Both terms


def test_what_waits_must_be_served_within_the_time_that_is_planned_for_waiting() -> None:
    # Nothing arrives; 8 rows in 0.1 s. Their slack of 50 ms gives 30 by the share, less than the plan's 100.
    assert need(8, 0.0, 0.05) == pytest.approx(80.0)


def test_a_queue_that_is_half_of_what_may_wait_is_the_settled_one() -> None:
    # 100/s may have 10 rows waiting; settled at half of them, what arrives is what is to be carried. All of
    # them within 0.1 s would be 50/s, which is less.
    assert need(5, 100.0, 0.1) == pytest.approx(100.0)


def test_a_longer_queue_is_worked_off_and_a_shorter_one_filled_within_two_waits() -> None:
    assert need(9, 100.0, 0.1) == pytest.approx(100.0 + 4 / 0.2)
    assert need(0, 100.0, None) == pytest.approx(100.0 - 5 / 0.2)


def test_slack_that_earlier_stages_have_not_used_is_time_to_wait() -> None:
    # 0.5 s of slack: 0.3 s by the share. 9 rows in 0.3 s are 30/s; what arrives, corrected in 0.6 s: 106.7.
    assert need(9, 100.0, 0.5) == pytest.approx(100.0 + 4 / 0.6)
    assert need(9, 0.0, 0.5) == pytest.approx(30.0)


def test_there_is_no_negative_need() -> None:
    assert need(0, 0.0, None) == 0.0


@given(
    queue=st.integers(0, 500),
    arriving=st.floats(0.0, 500.0),
    slack_s=st.none() | st.floats(-1.0, 1.0),
    share=st.floats(0.2, 4.0),
)
def test_more_waiting_and_less_slack_never_need_less(
    queue: int, arriving: float, slack_s: float | None, share: float
) -> None:
    now = need(queue, arriving, slack_s, share=share)
    assert need(queue + 1, arriving, slack_s, share=share) >= now
    if slack_s is not None and queue >= 0.9 * arriving * TARGET.wait_s:  # a queue that is to be worked off
        assert need(queue, arriving, slack_s - 0.1, share=share) >= now - 1e-9


# The knob


def test_the_share_of_the_slack_grows_with_the_violations_that_are_allowed() -> None:
    assert slack_share(VIOLATION_TARGET) == SHARE
    shares = [slack_share(target) for target in (0.0002, 0.001, 0.01, 0.3)]
    assert shares == sorted(shares)
    assert shares[0] < SHARE < shares[2]


def test_at_a_larger_share_more_of_the_queue_is_let_be_and_the_rest_corrected_sooner() -> None:
    # Four times the share: settled at 0.8 of the 10 rows that may wait; corrected within half of two waits.
    assert need(9, 100.0, 0.01, share=4 * SHARE) == pytest.approx(100.0 + 1 / (0.2 * sqrt(1 / 4)))


# What arrives


def view(
    *rows: int, from_s: float = 0.0, length_s: float = 0.1, seconds: tuple[int, ...] = ()
) -> ServiceView:
    windows = tuple(
        ServiceWindow("ocr", from_s + i * length_s, from_s + (i + 1) * length_s, n, n, 0, 0, 0, 0, 0, 0, ())
        for i, n in enumerate(rows)
    )
    return ServiceView("ocr", windows, seconds, None, ())


def test_the_rate_is_that_of_the_windows_so_far() -> None:
    assert ArrivalRate().update(view(4, 8)) == pytest.approx(60.0)


def test_a_window_counts_once_however_often_it_is_shown() -> None:
    rate = ArrivalRate()
    rate.update(view(4))
    assert rate.update(view(4, 8)) == pytest.approx(60.0)
    assert rate.update(view(4, 8)) == pytest.approx(60.0)


def test_windows_of_more_than_four_seconds_ago_are_forgotten() -> None:
    rate = ArrivalRate()
    rate.update(view(*[10] * 40))
    assert rate.update(view(*[2] * 20, from_s=4.0)) == pytest.approx((20 * 10 + 20 * 2) / 4.0)
    assert rate.update(view(*[2] * 20, from_s=6.0)) == pytest.approx(20.0)


def test_time_that_no_window_covers_does_not_count() -> None:
    # Two windows of 100/s, a gap of a second, and one of 40/s: 24 rows in 0.3 s
    rate = ArrivalRate()
    rate.update(view(10, 10))
    assert rate.update(view(4, from_s=1.2)) == pytest.approx(80.0)


def test_after_a_long_gap_only_the_latest_window_counts() -> None:
    rate = ArrivalRate()
    rate.update(view(10, 10))
    assert rate.update(view(4, from_s=60.0)) == pytest.approx(40.0)


def test_without_windows_the_last_whole_second_says_it() -> None:
    assert ArrivalRate().update(view(seconds=(3, 7))) == 7.0
    assert ArrivalRate().update(view()) == 0.0


# Downstream


def test_the_first_stage_is_given_what_arrives() -> None:
    assert arriving_rps(50.0, [], 0.1) == 50.0


def test_a_stage_is_given_what_waits_before_it_as_far_as_it_is_passed_on() -> None:
    # 50/s arrive and 20 rows wait upstream: within 0.2 s they would be 100/s more, but only 120/s are carried
    assert arriving_rps(50.0, [(120.0, 20, 1.0)], 0.2) == 120.0
    assert arriving_rps(50.0, [(500.0, 20, 1.0)], 0.2) == pytest.approx(150.0)


def test_an_overloaded_stage_spares_the_next_one() -> None:
    assert arriving_rps(50.0, [(30.0, 0, 1.0)], 0.2) == 30.0


def test_rows_that_become_several_are_several() -> None:
    # each upstream row is 3 of this stage: 40/s carried are 120, and 2 waiting ones 6 more within 0.2 s
    assert arriving_rps(90.0, [(40.0, 2, 3.0)], 0.2) == pytest.approx(120.0)
    assert arriving_rps(60.0, [(40.0, 2, 3.0)], 0.2) == pytest.approx(90.0)


def test_where_paths_join_the_fuller_one_counts() -> None:
    assert arriving_rps(50.0, [(30.0, 0, 1.0), (500.0, 0, 1.0)], 0.2) == 50.0
