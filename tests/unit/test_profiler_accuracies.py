"""Measured accuracies: the interval, and the file that keeps them."""

from pathlib import Path

import pytest

from steelyard.core.errors import ProfileError
from steelyard.profiler.accuracies import Accuracy, AccuracyStore, Measurement, wilson_95


def measured(accuracy: float, *, content: str = "aa", wiring: str = "w") -> Measurement:
    found = Accuracy("s", {"a": "v"}, accuracy, 0.0, 1.0, 10, "exact")
    return Measurement(wiring, {"a": content}, found)


def test_the_interval_is_wilsons() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I: 81 of 263, 0 of 20.
    assert wilson_95(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_95(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    low, high = wilson_95(1.0, 60)
    assert (round(low, 4), high) == (0.9398, 1.0)


def test_what_is_saved_is_found_and_replaced_by_what_is_measured_again(tmp_path: Path) -> None:
    store = AccuracyStore(tmp_path / "profiles")
    assert store.load() == []
    store.save([measured(0.5), measured(0.7, content="bb")])
    store.save([measured(0.6), measured(0.9, wiring="other")])
    assert [(m.contents["a"], m.wiring, m.accuracy.accuracy) for m in store.load()] == [
        ("aa", "w", 0.6),
        ("bb", "w", 0.7),
        ("aa", "other", 0.9),
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"format": 1', '"format": 2', "format 2, this version reads 1"),
        ('"accuracy": 0.5', '"accuracy": 1.5', r"accuracy 1.5 is not in \[0, 1\]"),
        ('"wiring"', '"wirng"', "not measured accuracies: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    store = AccuracyStore(tmp_path)
    file = store.save([measured(0.5)])
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(ProfileError, match=message) as raised:
        store.load()
    assert str(raised.value).startswith(f"{file}: ")
