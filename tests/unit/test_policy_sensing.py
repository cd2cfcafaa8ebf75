"""Rates that policies read off a snapshot's windows."""

import msgspec
import pytest

from steelyard.core.snapshot import ServiceView, ServiceWindow, StageWindow
from steelyard.core.types import Stage, Variant
from steelyard.policies.sensing import counted_fan_out, rate_over


def view(*windows: tuple[float, float, int], by_second: tuple[int, ...] = ()) -> ServiceView:
    """Windows of (from, to, rows)."""
    made = tuple(ServiceWindow("a", from_s, to_s, n, n, 0, 0, 0, 0, 0, 0, ()) for from_s, to_s, n in windows)
    return ServiceView("a", made, by_second, None, ())


def test_rows_over_the_seconds_that_their_windows_cover() -> None:
    seen = view((0.0, 0.5, 100), (0.5, 1.0, 4), (1.0, 1.5, 6))
    assert rate_over(seen, 1.0, now_s=1.5) == pytest.approx(10.0)  # 4 + 6 rows in 1 s; the first began before


def test_a_window_longer_than_asked_for_is_better_than_none() -> None:
    """The server stood still for 3 s: 30 rows came, and that is 10 a second, not nothing."""
    seen = view((0.0, 0.1, 1), (0.1, 3.1, 30), by_second=(1, 0, 0))
    assert rate_over(seen, 1.0, now_s=3.1) == pytest.approx(10.0)


def test_without_a_window_the_last_whole_second_counts() -> None:
    assert rate_over(view(by_second=(3, 7)), 1.0, now_s=5.0) == 7.0
    assert rate_over(view(), 1.0, now_s=5.0) == 0.0


@pytest.mark.parametrize(("reported", "wanted"), [(None, 2.0), (3.5, 3.5)])
def test_a_fan_out_is_the_counted_one_where_there_is_one(reported: float | None, wanted: float) -> None:
    read = Stage("read", (Variant("v"),), ("crop",), 2.0, items_of="crop")
    seen = view((0.0, 0.1, 1))
    assert counted_fan_out(seen, read) == 2.0  # the window knows no such stage
    stages = (StageWindow("read", 0, 0, None, 0, fan_out=reported),)
    windows = (msgspec.structs.replace(seen.windows[0], stages=stages),)
    assert counted_fan_out(msgspec.structs.replace(seen, windows=windows), read) == wanted
