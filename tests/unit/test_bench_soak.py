"""When a long run calls something growth: its slope's whole interval above zero, and more than is allowed."""

import numpy as np
import pytest
from soak import trend

AT_S = np.arange(0.0, 600.0, 1.0).tolist()


def test_a_steady_leak_grows() -> None:
    noise = np.random.default_rng(1).normal(0.0, 0.5, len(AT_S))
    found = trend("memory MB", AT_S, (100 + np.array(AT_S) / 60 + noise).tolist(), 0.25)
    assert found.slope_per_minute == pytest.approx(1.0, abs=0.1)  # one MB a minute was put in
    assert found.grows


def test_noise_does_not_grow() -> None:
    noise = np.random.default_rng(2).normal(0.0, 0.5, len(AT_S))
    found = trend("memory MB", AT_S, (100 + noise).tolist(), 0.25)
    assert abs(found.slope_per_minute) < found.interval_per_minute
    assert not found.grows


def test_what_is_sure_but_allowed_does_not_grow() -> None:
    """0.1 MB a minute without noise: the interval has no width, the limit is 0.25."""
    found = trend("memory MB", AT_S, (100 + np.array(AT_S) / 600).tolist(), 0.25)
    assert found.slope_per_minute == pytest.approx(0.1)
    assert not found.grows


def test_the_first_fifth_does_not_count() -> None:
    """Pools that fill in the first two of ten minutes and then stay."""
    values = [min(100 + second, 215.0) for second in AT_S]
    found = trend("memory MB", AT_S, values, 0.25)
    assert (found.first, found.last, found.slope_per_minute) == (215.0, 215.0, 0.0)
    assert not found.grows


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20 samples"):
        trend("threads", AT_S[:24], [1.0] * 24, 0.1)  # 24 less the first fifth: 19
