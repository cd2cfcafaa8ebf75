"""The rate to plan for: what arrives, what may come, and what waits.

    demand = max(recent, forecast) + backlog / tau

`recent` is the rate of the last seconds plus the noise of counting Poisson arrivals over them (one standard
deviation, sqrt(rate / T)), or that of the last second less one and a half of it, if that is more: the first
is steady, the second proves a surge early. Head-room for queues is not in it: that is the queueing
formula's business. The forecast is a quantile of the maximum of the next seconds, over counts averaged in
pairs and less one standard deviation, so that noise is not planned for twice.
"""

from itertools import pairwise
from math import sqrt

from steelyard.core.snapshot import ServiceView
from steelyard.forecast.predictors import QuantileOfMaximum
from steelyard.policies.sensing import latest_stage, rate_over

STEADY_S = 4.0
SURGE_S = 1.0
SURGE_K = 1.5
HORIZON_S = 3
FORECAST_QUANTILE = 0.5
DRAIN_S = 1.0
"""tau: seconds within which a backlog is to be gone."""

_forecast = QuantileOfMaximum(HORIZON_S, quantile=FORECAST_QUANTILE)


def present_demand_rps(view: ServiceView, *, now_s: float) -> float:
    """Rows a second that arrive now: what counts where cores are short and nothing can be kept in reserve."""
    return rate_over(view, SURGE_S, now_s=now_s)


def recent_demand_rps(view: ServiceView, *, now_s: float) -> float:
    """Rows a second that may arrive now, noise of the count included."""
    steady = rate_over(view, STEADY_S, now_s=now_s)
    surge = rate_over(view, SURGE_S, now_s=now_s)
    return max(steady + sqrt(steady / STEADY_S), surge - SURGE_K * sqrt(surge / SURGE_S))


def arrival_demand_rps(view: ServiceView, *, now_s: float) -> float:
    """Rows a second to plan for, without the backlog."""
    counts = view.arrival_rows_by_second
    pairs = [(a + b) / 2 for a, b in pairwise(counts)] or [float(c) for c in counts]
    quiet = [max(0.0, x - sqrt(x / 2)) for x in pairs]
    return max(recent_demand_rps(view, now_s=now_s), _forecast.predict(quiet))


def backlog_rps(view: ServiceView, stage: str) -> float:
    """Rows that wait in a stage, as a rate over `DRAIN_S`."""
    seen = latest_stage(view, stage)
    return seen.queue_rows / DRAIN_S if seen is not None else 0.0
