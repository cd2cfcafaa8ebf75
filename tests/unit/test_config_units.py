"""Durations and sizes as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.config.units import duration_or_zero_s, duration_s, duration_text, shown, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("400ms", 0.4),
        ("6s", 6.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("50us", 5e-5),
        ("1.5 s", 1.5),
        ("1e3ms", 1.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong", ["-5ms", "0s", "50", 50, 0.05, "nan", "nans", "1e999s", "ms", "", None, True, "5 parsecs"]
)
def test_what_is_not_a_positive_duration_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="want a positive duration such as 50ms"):
        duration_s(wrong)


def test_zero_is_a_duration_only_where_it_may_be() -> None:
    assert duration_or_zero_s("0ms") == 0
    with pytest.raises(ValueError, match="positive duration"):
        duration_or_zero_s("-1ms")


@given(st.floats(min_value=1e-5, max_value=1e5))
def test_a_written_duration_reads_back(seconds: float) -> None:
    # Six significant digits are written: the relative error is at most half a unit of the sixth.
    assert math.isclose(duration_s(duration_text(seconds)), seconds, rel_tol=5.1e-6)


@pytest.mark.parametrize(
    ("text", "size"),
    [("300MB", 300_000_000), ("64GiB", 64 * 2**30), ("1kB", 1000), ("2KiB", 2048), ("7B", 7)],
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("wrong", ["300", 300, "-1MB", "0B", "3 Mb", None])
def test_what_is_not_a_size_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="want a size such as 300MB"):
        size_bytes(wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "nothing"), (True, "true"), ("a b", "'a b'"), ("ab", "ab"), ("", "''"), (3.5, "3.5")],
)
def test_values_are_shown_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text
    assert len(shown("x" * 1000)) == 60
    assert "\n" not in shown("a\nb")
