"""What the default policy reckons a stage must carry, in rows a second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.snapshot import ServiceView, ServiceWindow
from steelyard.policies.steelyard.demand import ArrivalRate, arriving_rps, needed_rps
from steelyard.policies.steelyard.knob import AS_IT_COMES, VIOLATION_TARGET, Knob, knob_at
from steelyard.policies.steelyard.targets import StageTarget

TARGET = StageTarget(1, 1.0, 0.02, 0.1, 1, 1.0)
"""100 ms to wait, as planned."""


def need(
    queue: int, arriving: float, slack_s: float | None, *, knob: Knob = AS_IT_COMES, lag_s: float = 0.0
) -> float:
    return needed_rps(queue, arriving, TARGET, slack_s, knob, lag_s=lag_s)


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
    violation_target=st.floats(1e-6, 0.5),
)
def test_more_waiting_and_less_slack_never_need_less(
    queue: int, arriving: float, slack_s: float | None, violation_target: float
) -> None:
    knob = knob_at(violation_target)
    now = need(queue, arriving, slack_s, knob=knob)
    assert need(queue + 1, arriving, slack_s, knob=knob) >= now
    if slack_s is not None and queue >= knob.queue_share * arriving * TARGET.wait_s:  # is to be worked off
        assert need(queue, arriving, slack_s - 0.1, knob=knob) >= now - 1e-9


def test_beyond_the_default_what_is_gone_before_cores_come_asks_for_none() -> None:
    # 30 rows come at once to a stage that 60/s come to and that may wait 0.1 s: 300/s. Cores take effect in
    # 0.25 s; twice that: 30 rows in 0.5 s are 60/s, and 60/s and the 27 too many within two waits 60 + 27.
    knob = AS_IT_COMES._replace(lags=2.0)
    assert need(30, 60.0, 0.1, lag_s=0.25) == pytest.approx(300.0)
    assert need(30, 60.0, 0.1, knob=knob, lag_s=0.25) == pytest.approx(60.0 + 27 / (2 * 0.5))


# The knob


def test_the_default_holds_nothing_and_carries_all() -> None:
    assert knob_at(VIOLATION_TARGET) == AS_IT_COMES
    assert Knob(1.0, 0.6, 0.5, 2.0, 0.0, 0.65, 0.0, 1.0, 4.0) == AS_IT_COMES


@pytest.mark.parametrize("name", ["slack_share", "queue_share", "lags", "service_share", "hold_share"])
def test_the_more_violations_are_allowed_the_more_is_waited(name: str) -> None:
    values = [getattr(knob_at(target), name) for target in (0.0002, 0.001, 0.01, 0.3)]
    assert values == sorted(values)
    assert values[0] <= values[1] < values[2]


@pytest.mark.parametrize("name", ["carried", "correct_waits", "patience", "growth"])
def test_the_more_violations_are_allowed_the_less_is_kept(name: str) -> None:
    values = [getattr(knob_at(target), name) for target in (0.0002, 0.001, 0.01, 0.3)]
    assert values == sorted(values, reverse=True)
    assert values[0] == values[1] > values[2]


def test_what_may_be_lost_beyond_the_default_needs_no_cores() -> None:
    # At 0.101 a tenth of 100/s is not carried. Of 10 rows that may wait 0.5 x 101^0.09 = 0.7575 stand.
    knob = knob_at(0.101)
    settled = knob.queue_share * 10
    assert knob.carried == pytest.approx(0.9)
    assert settled == pytest.approx(7.575, abs=0.01)
    assert need(8, 100.0, 0.01, knob=knob) == pytest.approx(90.0 + (8 - settled) / (knob.correct_waits * 0.1))


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
