"""How long a batch takes to fill, as planners reckon it, one batch at a time.

For whole tables of batches there is `plan.waits`; the wait for a busy replica is in `plan.tails`.
"""

from math import inf

from steelyard.profile.queueing import fill_wait_quantile_s


def themis_fill_wait_ms(rows: int, arrival_rate_rps: float) -> float:
    """Themis 2024: q(b, lambda) = (b - 1) 1000 / lambda [ms]; the first row waits for b - 1 more.

    Nothing for a free server, nothing for a backlog. Infinite where rows are waited for that never come.
    """
    if rows <= 1:
        return 0.0
    return (rows - 1) * 1000.0 / arrival_rate_rps if arrival_rate_rps > 0 else inf


def fill_wait_s(rows: int, arrival_rate_rps: float, quantile: float) -> float:
    """Wait for `rows - 1` more Poisson arrivals, at a quantile [s]: gamma of shape rows - 1 (Themis 2025)."""
    if rows <= 1:
        return 0.0
    return fill_wait_quantile_s(rows, arrival_rate_rps, quantile) if arrival_rate_rps > 0 else inf
