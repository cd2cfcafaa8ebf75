"""The rate to plan for: what arrives, what may come, and what waits.

    demand = max(recent + k sqrt(recent / T), forecast) + backlog / tau

The square root is the noise of counting Poisson arrivals over T seconds, not head-room: that is the
queueing formula's business. The forecast is a quantile of the maximum of the next seconds, over counts that
are averaged in pairs, so that the noise of single seconds is not planned for twice.
"""

from itertools import pairwise
from math import sqrt

from steelyard.core.snapshot import ServiceView
from steelyard.forecast.predictors import QuantileOfMaximum
from steelyard.policies.sensing import latest_stage, rate_over

RECENT_S = 2.0
NOISE_K = 1.0
HORIZON_S = 3
FORECAST_QUANTILE = 0.75
DRAIN_S = 1.0
"""tau: seconds within which a backlog is to be gone."""

_forecast = QuantileOfMaximum(HORIZON_S, quantile=FORECAST_QUANTILE)


def arrival_demand_rps(view: ServiceView, *, now_s: float) -> float:
    """Rows a second to plan for, without the backlog."""
    recent = rate_over(view, RECENT_S, now_s=now_s)
    counts = view.arrival_rows_by_second
    pairs = [(a + b) / 2 for a, b in pairwise(counts)] or [float(c) for c in counts]
    return max(recent + NOISE_K * sqrt(recent / RECENT_S), _forecast.predict(pairs))


def backlog_rps(view: ServiceView, stage: str) -> float:
    """Rows that wait in a stage, as a rate over `DRAIN_S`."""
    seen = latest_stage(view, stage)
    return seen.queue_rows / DRAIN_S if seen is not None else 0.0
