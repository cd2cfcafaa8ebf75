"""Windows of half a second; one stage `read`."""

import pytest

from steelyard.core.snapshot import BusyCell, ServiceView, ServiceWindow, StageWindow
from steelyard.policies.meters import StageMeter


def window(to_s: float, *, rows: int = 0, busy_s: float = 0.0, cores: float = 1.0) -> ServiceWindow:
    stages = (StageWindow("other", 90, 90, None, 90), StageWindow("read", rows, rows, None, 1))
    busy = (BusyCell("other", "v", 1, 1.0, 1, 9.0), BusyCell("read", "v", 1, cores, 1, busy_s))
    return ServiceWindow("ocr", to_s - 0.5, to_s, 0, 0, 0, 0, 0, 0, 0, 0, stages, busy)


def view(*windows: ServiceWindow) -> ServiceView:
    return ServiceView("ocr", windows, (), None, ())


def test_a_mean_is_over_the_time_that_was_seen() -> None:
    # rows: (3 + 1) for half a second, (1 + 1) for the other: 3; busy: 0.2 s on 2 cores + 0.1 s on 1, in 1 s
    meter = StageMeter("read", 60.0)
    assert meter.mean(15.0, now_s=0.0) is None
    meter.look(view(window(0.5, rows=3, busy_s=0.2, cores=2.0), window(1.0, rows=1, busy_s=0.1)), now_s=1.0)
    mean = meter.mean(15.0, now_s=1.0)
    assert mean is not None
    assert mean.rows == pytest.approx(3.0)
    assert mean.cores_busy == pytest.approx(0.5)


def test_a_window_counts_once() -> None:
    meter = StageMeter("read", 60.0)
    seen = view(window(0.5, busy_s=0.5), window(1.0, busy_s=0.5))
    meter.look(seen, now_s=1.0)
    meter.look(seen, now_s=1.0)
    mean = meter.mean(15.0, now_s=1.0)
    assert mean is not None
    assert mean.cores_busy == pytest.approx(1.0)


def test_only_the_last_seconds_count() -> None:
    # looks at 1, 2 ... 10 s, n busy tenths in second n: the last 3 s have 0.8, 0.9 and 1.0
    meter = StageMeter("read", 5.0)
    for second in range(1, 11):
        meter.look(view(window(second - 0.5, busy_s=second / 10), window(float(second))), now_s=float(second))
    short, long = meter.mean(3.0, now_s=10.0), meter.mean(60.0, now_s=10.0)
    assert short is not None
    assert long is not None
    assert short.cores_busy == pytest.approx(0.9)
    assert long.cores_busy == pytest.approx(0.8)  # its memory is 5 s: 0.6 to 1.0


def test_windows_that_are_left_out_are_idle_time() -> None:
    # one busy second, then nothing to see for three
    meter = StageMeter("read", 60.0)
    seen = view(window(0.5, busy_s=0.5), window(1.0, busy_s=0.5))
    meter.look(seen, now_s=1.0)
    meter.look(seen, now_s=4.0)
    mean = meter.mean(15.0, now_s=4.0)
    assert mean is not None
    assert mean.cores_busy == pytest.approx(0.25)


def test_time_that_a_snapshot_no_longer_shows_does_not_count() -> None:
    # nobody looked from 1 s on; the snapshot of 21 s begins at 20 s
    meter = StageMeter("read", 60.0)
    meter.look(view(window(1.0, busy_s=0.0)), now_s=1.0)
    meter.look(view(window(20.5, busy_s=0.5), window(21.0, busy_s=0.5)), now_s=21.0)
    mean = meter.mean(60.0, now_s=21.0)
    assert mean is not None
    assert mean.cores_busy == pytest.approx(1.0 / 1.5)


def test_what_was_before_is_forgotten() -> None:
    meter = StageMeter("read", 60.0)
    meter.look(view(window(1.0, busy_s=0.0)), now_s=1.0)
    meter.forget(now_s=1.0)
    assert meter.mean(60.0, now_s=1.0) is None
    meter.look(view(window(1.0), window(1.5, busy_s=0.5)), now_s=1.5)
    mean = meter.mean(60.0, now_s=1.5)
    assert mean is not None
    assert mean.cores_busy == pytest.approx(1.0)
