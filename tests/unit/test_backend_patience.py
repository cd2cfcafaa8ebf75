"""When a batch counts as stuck."""

import pytest

from steelyard.backend.patience import Patience


def patience(*ended_s: float) -> Patience:
    made = Patience({"svc": 8.0, "quick": 0.4}, 30.0)
    for service_s in ended_s:
        made.ended("svc", "st", service_s)
        made.ended("quick", "st", service_s)
    return made


def test_a_stage_that_has_ended_none_may_take_all_the_time() -> None:
    assert patience().seconds_max("svc", "st", 0.01) == 30.0
    assert patience(0.01).seconds_max("svc", "other", 0.01) == 30.0
    assert patience().seconds_max("svc", "st", 2.0) == 40.0  # 20 times what was expected


@pytest.mark.parametrize(
    ("service", "expected_s", "ended_s", "seconds"),
    [
        ("svc", 0.01, (0.01,), 2.0),  # a quarter of 8 s
        ("quick", 0.01, (0.01,), 1.0),  # 0.1 s would be a quarter
        ("quick", 0.01, (3.0, 0.01), 12.0),  # four times the longest
        ("quick", 0.01, (9.0,), 30.0),  # 36 s, but for the most there is
        ("quick", 0.2, (0.01,), 4.0),  # 20 times what was expected
        ("quick", 2.0, (0.01,), 40.0),
        ("none", 0.01, (0.01,), 30.0),  # no objective
    ],
)
def test_then_the_objective_and_what_was_seen_count(
    service: str, expected_s: float, ended_s: tuple[float, ...], seconds: float
) -> None:
    assert patience(*ended_s).seconds_max(service, "st", expected_s) == pytest.approx(seconds)


def test_a_hundred_batches_tell_what_a_standstill_comes_to() -> None:
    known = patience(*[0.01] * 99)
    assert known.seconds_max("quick", "st", 0.01) == 1.0
    known.ended("quick", "st", 0.02)
    assert known.seconds_max("quick", "st", 0.01) == 0.25  # a quarter of 0.4 s, and 4 x 0.02 s, are less
    assert known.seconds_max("quick", "st", 0.03) == pytest.approx(0.6)  # 20 times what was expected
    known.ended("quick", "st", 0.1)
    assert known.seconds_max("quick", "st", 0.01) == pytest.approx(0.4)  # four times the longest
