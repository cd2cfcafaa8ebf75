"""Make traces: a rate for every second by shape, then Poisson counts around it.

Rates are requests a second, arrays of shape (seconds,). The shapes are those that autoscalers are tested on:
`constant`, `ramp` (a line), `surge` (a plateau), `spike` (a jump that decays exponentially) and `diurnal` (a
sine).
"""

from collections.abc import Callable, Mapping
from math import isfinite

import numpy as np

from steelyard.core.errors import TraceError
from steelyard.workload.trace import COUNT_MAX, SECONDS_MAX, CountTrace, Times, carry, count_trace

RATE_RPS_MAX = COUNT_MAX // 2
"""Of which no Poisson count is above what a trace may have in a second."""


def constant(seconds: int, *, rate_rps: float) -> Times:
    """The same rate throughout."""
    return np.full(_seconds(seconds), _rate("rate", rate_rps))


def ramp(seconds: int, *, from_rps: float, to_rps: float) -> Times:
    """From one rate to another in a straight line; both ends are reached."""
    return np.linspace(_rate("from", from_rps), _rate("to", to_rps), _seconds(seconds))


def surge(seconds: int, *, base_rps: float, surge_rps: float, from_s: int, to_s: int) -> Times:
    """A base rate, and another during the seconds `[from_s, to_s)`."""
    if not 0 <= from_s < to_s <= seconds:
        raise TraceError(f"surge: want 0 <= start < end <= {seconds} seconds, got {from_s}:{to_s}")
    rates = constant(seconds, rate_rps=base_rps)
    rates[from_s:to_s] = _rate("surge", surge_rps)
    return rates


def spike(seconds: int, *, base_rps: float, peak_rps: float, at_s: int, decay_s: float) -> Times:
    """A base rate; at `at_s` it jumps to the peak and falls back by 1/e every `decay_s` seconds."""
    if not 0 <= at_s < seconds:
        raise TraceError(f"spike: want a second in [0, {seconds}), got {at_s}")
    if not (isfinite(decay_s) and decay_s > 0):
        raise TraceError(f"spike: want a positive decay in seconds, got {decay_s:g}")
    since_s = np.arange(_seconds(seconds), dtype=np.float64) - at_s
    rise = _rate("peak", peak_rps) - _rate("base", base_rps)
    return np.where(since_s >= 0, base_rps + rise * np.exp(-np.maximum(since_s, 0) / decay_s), base_rps)


def diurnal(seconds: int, *, low_rps: float, high_rps: float, period_s: float) -> Times:
    """A sine between two rates that begins at the low one, as a day begins at night."""
    if not (isfinite(period_s) and period_s > 0):
        raise TraceError(f"diurnal: want a positive period in seconds, got {period_s:g}")
    phase = 2 * np.pi * np.arange(_seconds(seconds), dtype=np.float64) / period_s
    middle, swing = (_rate("high", high_rps) + _rate("low", low_rps)) / 2, (high_rps - low_rps) / 2
    return middle - swing * np.cos(phase)


SHAPES: Mapping[str, Callable[..., Times]] = {
    "constant": constant,
    "ramp": ramp,
    "surge": surge,
    "spike": spike,
    "diurnal": diurnal,
}
"""Every shape by name; the first argument is the number of seconds, the others are keywords."""


def counts_of(rates_rps: Times, rng: np.random.Generator | None) -> CountTrace:
    """Counts a second around rates: Poisson if a generator is given, else as even as whole numbers allow."""
    return count_trace(carry(rates_rps) if rng is None else rng.poisson(rates_rps))


def _seconds(seconds: int) -> int:
    if not 1 <= seconds <= SECONDS_MAX:
        raise TraceError(f"want 1 to {SECONDS_MAX} seconds, got {seconds}")
    return seconds


def _rate(name: str, rate_rps: float) -> float:
    if not (isfinite(rate_rps) and 0 <= rate_rps <= RATE_RPS_MAX):
        raise TraceError(f"{name}: want a rate of 0 to {RATE_RPS_MAX:,} requests a second, got {rate_rps:g}")
    return rate_rps
