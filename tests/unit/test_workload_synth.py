"""Made traces have the shape they promise, and statistics say what they are."""

from math import cos, exp, pi

import numpy as np
import pytest

from steelyard.core.errors import TraceError
from steelyard.workload import synth
from steelyard.workload.stats import describe
from steelyard.workload.trace import CountTrace, Mark, count_trace


def test_shapes() -> None:
    assert synth.constant(3, rate_rps=2.5).tolist() == [2.5, 2.5, 2.5]
    assert synth.ramp(5, from_rps=0, to_rps=8).tolist() == [0, 2, 4, 6, 8]
    assert synth.surge(5, base_rps=1, surge_rps=9, from_s=1, to_s=3).tolist() == [1, 9, 9, 1, 1]
    # One decay constant after the jump from 10 to 20: 10 + 10/e.
    spike = synth.spike(5, base_rps=10, peak_rps=20, at_s=2, decay_s=2)
    assert spike == pytest.approx([10, 10, 20, 10 + 10 * exp(-0.5), 10 + 10 * exp(-1)])
    # Middle 6, swing 4: 6 - 4 cos(2 pi t / 8).
    day = synth.diurnal(8, low_rps=2, high_rps=10, period_s=8)
    assert day == pytest.approx([6 - 4 * cos(2 * pi * t / 8) for t in range(8)])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ("constant", {"rate_rps": 1e19}, "rate: want a rate of 0 to 5,000,000"),
        ("constant", {"rate_rps": float("nan")}, "rate: want a rate of 0 to 5,000,000"),
        ("ramp", {"from_rps": 1, "to_rps": -1}, "to: want a rate of 0 to 5,000,000"),
        ("surge", {"base_rps": 1, "surge_rps": 2, "from_s": 3, "to_s": 3}, "got 3:3"),
        ("spike", {"base_rps": 1, "peak_rps": 2, "at_s": 9, "decay_s": 1}, r"in \[0, 5\), got 9"),
        ("diurnal", {"low_rps": 1, "high_rps": 2, "period_s": 0}, "positive period"),
    ],
)
def test_bad_shapes_are_refused(shape: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        synth.SHAPES[shape](5, **options)


def test_counts_are_poisson_with_a_seed_and_even_without() -> None:
    rates = synth.constant(4, rate_rps=2.5)
    # Totals 2.5, 5, 7.5, 10.
    assert synth.counts_of(rates, None).counts.tolist() == [2, 3, 2, 3]
    drawn = synth.counts_of(rates, np.random.default_rng(7)).counts
    assert drawn.tolist() == synth.counts_of(rates, np.random.default_rng(7)).counts.tolist()


def test_statistics() -> None:
    stats = describe(CountTrace({Mark(): np.array([0, 2, 4, 10])}, gaps=(0,)))
    # Mean 16/4 = 4; variance (16 + 4 + 0 + 36)/4 = 14; the 0.99 quantile lies 0.97 of the way from 4 to 10.
    assert (stats.seconds, stats.requests, stats.mean_rps, stats.max_rps) == (4, 16, 4.0, 10)
    assert stats.dispersion == pytest.approx(14 / 4)
    assert stats.p99_rps == pytest.approx(4 + 6 * 0.97)
    assert (stats.peak_ratio, stats.silent_seconds, stats.gaps) == (2.5, 1, 1)
    assert describe(count_trace([0, 0])).dispersion == 0.0
