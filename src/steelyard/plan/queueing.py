"""How long a row waits, as planners reckon it: for its batch to fill, and for a replica to be free.

Planners want a bound that holds at a quantile and costs microseconds; the exact distributions, which are what
the simulator is checked against, are in `steelyard.profile.queueing`.
"""

from functools import lru_cache
from math import inf

from steelyard.profile.queueing import fill_wait_quantile_s, mmc_wait_quantile_s

RHO_MAX = 0.95
"""Utilisation beyond which a plan counts as unstable: the wait's quantile is then all noise."""


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


@lru_cache(maxsize=65536)
def server_wait_s(arrival_rate_rps: float, service_time_s: float, servers: int, quantile: float) -> float:
    """Wait for a free one of `servers` alike, nearly constant service times, at a quantile [s].

    Half of M/M/n's wait: the factor (arrival cv^2 + service cv^2) / 2 of Allen and Cunneen with Poisson
    arrivals and a constant service time. In the tail, where it is used, it is an upper bound: M/D/1's tail
    falls like exp(-x t / s) with rho (e^x - 1) = x, and x >= 2 (1 - rho), which is what halving gives.
    Infinite from `RHO_MAX` on.
    """
    if arrival_rate_rps <= 0:
        return 0.0
    if arrival_rate_rps * service_time_s >= RHO_MAX * servers:
        return inf
    return mmc_wait_quantile_s(arrival_rate_rps, service_time_s, servers, quantile) / 2


def stage_latency_s(
    arrival_rate_rps: float,
    rows: int,
    median_s: float,
    tail_s: float,
    servers: int,
    quantile: float,
) -> float:
    """Queueing delay plus service time of one stage at a quantile [s], for work-conserving batches.

    `servers` replicas take up to `rows` rows at once in `median_s` (`tail_s` at the quantile). Rows are
    served at `median_s / rows` each, so they wait as in an M/D/n queue of such short services; and where a
    batch is longer than one such service, a row that finds all replicas busy also waits for the rest of a
    batch.
    """
    each_s = median_s / rows
    wait_s = server_wait_s(arrival_rate_rps, each_s, servers, quantile)
    rest_s = (median_s - each_s) if wait_s > 0 else 0.0
    return wait_s + rest_s + tail_s
