"""When a batch counts as stuck."""

import pytest

from steelyard.backend.patience import Patience


def patience(slo_s: float | None, *ended_s: float) -> Patience:
    made = Patience(slo_s, 30.0)
    for service_s in ended_s:
        made.ended(service_s)
    return made


def test_a_stage_that_has_ended_none_may_take_all_the_time() -> None:
    assert patience(8.0).seconds_max(0.01) == 30.0
    assert patience(8.0).seconds_max(2.0) == 40.0  # 20 times what was expected


@pytest.mark.parametrize(
    ("slo_s", "expected_s", "ended_s", "seconds"),
    [
        (8.0, 0.01, (0.01,), 2.0),  # a quarter of 8 s
        (0.4, 0.01, (0.01,), 1.0),  # 0.1 s would be a quarter
        (0.4, 0.01, (3.0, 0.01), 12.0),  # four times the longest
        (0.4, 0.01, (9.0,), 30.0),  # 36 s, but for the most there is
        (0.4, 0.2, (0.01,), 4.0),  # 20 times what was expected
        (0.4, 2.0, (0.01,), 40.0),
        (None, 0.01, (0.01,), 30.0),  # no objective
    ],
)
def test_then_the_objective_and_what_was_seen_count(
    slo_s: float | None, expected_s: float, ended_s: tuple[float, ...], seconds: float
) -> None:
    assert patience(slo_s, *ended_s).seconds_max(expected_s) == pytest.approx(seconds)


def test_a_hundred_batches_tell_what_a_standstill_comes_to() -> None:
    known = patience(0.4, *[0.01] * 99)
    assert known.seconds_max(0.01) == 1.0
    known.ended(0.02)
    assert known.seconds_max(0.01) == 0.25  # a quarter of 0.4 s, and 4 x 0.02 s, are less
    assert known.seconds_max(0.03) == pytest.approx(0.6)  # 20 times what was expected
    known.ended(0.1)
    assert known.seconds_max(0.01) == pytest.approx(0.4)  # four times the longest


def test_what_is_given_by_itself_counts_up_to_the_most_there_is() -> None:
    found = patience(8.0, 0.01)
    assert [found.seconds_max(0.01, given_s) for given_s in (0.0, 1.0, 5.0, 50.0)] == [2.0, 2.0, 5.0, 30.0]
