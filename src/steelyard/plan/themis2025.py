"""How the authors of Themis reckon in their revision of 2025; the programs are those of `plan.themis`.

- A replica gives 1000 b / l rows a second: filling a batch is no busy time.
- The rate to be carried has square-root head-room: round(lambda + sqrt(lambda)).
- The wait for b - 1 more rows is taken at its 0.99 quantile. `exponential` (the release's default) adds the
  quantiles of the single gaps up, (b - 1) ln(100) / lambda; `gamma` takes the quantile of their sum, which
  is what Poisson arrivals have, and much less for b > 2.
- Every latency grows by a tenth of l(1, 1), a margin in zeta.

The release's third queue model ("constant") has a slip in its units and is left out.
"""

from collections.abc import Callable
from math import inf, log, sqrt

from steelyard.plan.queueing import fill_wait_s
from steelyard.plan.themis import Reckoning

QUANTILE = 0.99
HEADROOM = 1.0
"""k of k sqrt(lambda)."""
MARGIN = 0.1


def exponential_fill_wait_ms(rows: int, arrival_rate_rps: float) -> float:
    """(b - 1) ln(100) 1000 / lambda [ms]: each gap at its own 0.99 quantile."""
    if rows <= 1:
        return 0.0
    return -(rows - 1) * log(1.0 - QUANTILE) * 1000.0 / arrival_rate_rps if arrival_rate_rps > 0 else inf


def gamma_fill_wait_ms(rows: int, arrival_rate_rps: float) -> float:
    """0.99 quantile of Gamma(b - 1, 1 / lambda) [ms]: all gaps together."""
    return 1000.0 * fill_wait_s(rows, arrival_rate_rps, QUANTILE)


def demand_with_headroom_rps(rate: float) -> float:
    """round(lambda + k sqrt(lambda))."""
    return float(round(rate + HEADROOM * sqrt(rate)))


def with_margin(latency_ms: Callable[[int, int], float]) -> Callable[[int, int], float]:
    """l(b, c) + l(1, 1) / 10: zeta grows by a tenth of alpha + beta + gamma + zeta."""
    margin_ms = MARGIN * latency_ms(1, 1)
    return lambda rows, cores: latency_ms(rows, cores) + margin_ms


RECKONINGS: dict[str, Reckoning] = {
    "exponential": Reckoning(exponential_fill_wait_ms, False, demand_with_headroom_rps),
    "gamma": Reckoning(gamma_fill_wait_ms, False, demand_with_headroom_rps),
}
"""By name of the queue model."""
