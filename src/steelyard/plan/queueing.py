"""How long a row waits, as planners reckon it: for its batch to fill, and for a replica to be free.

Planners want a bound that holds at a quantile and costs microseconds; the exact distributions, which are what
the simulator is checked against, are in `steelyard.profile.queueing`.
"""

from functools import lru_cache
from math import exp, inf

from steelyard.profile.queueing import erlang_b, fill_wait_quantile_s, mmc_wait_quantile_s

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


@lru_cache(maxsize=4096)
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


def shedding_quantile(utilisation: float, loss_max: float) -> float:
    """The quantile of the wait without impatience at which a queue that sheds loses just `loss_max`.

    From `loss_ratio`: (1 - rho) w / (1 - rho w) = e gives w = e / (1 - rho + rho e); the quantile is 1 - w.
    What is shed does not hold up the others, so a busy queue may be planned by a lower quantile than 1 - e.
    """
    spare = max(0.0, 1.0 - utilisation)
    return 1.0 - loss_max / (spare + (1.0 - spare) * loss_max)


def stage_latency_s(
    arrival_rate_rps: float,
    rows: int,
    median_s: float,
    tail_s: float,
    servers: int,
    loss_max: float,
) -> float:
    """Queueing delay plus service time that all but `loss_max` of the rows keep [s], if those are shed.

    Work-conserving batches: `servers` replicas take up to `rows` rows at once in `median_s` (nearly always in
    `tail_s`). Rows are served at `median_s / rows` each, so they wait as in an M/D/n queue of such short
    services; and where a batch is longer than one such service, a row that finds all replicas busy also waits
    for the rest of a batch.
    """
    each_s = median_s / rows
    quantile = max(0.0, shedding_quantile(arrival_rate_rps * each_s / servers, loss_max))
    wait_s = server_wait_s(arrival_rate_rps, each_s, servers, quantile)
    rest_s = (median_s - each_s) if wait_s > 0 else 0.0
    return wait_s + rest_s + tail_s


def loss_ratio(arrival_rate_rps: float, service_time_s: float, servers: int, patience_s: float) -> float:
    """Share of rows that cannot start within `patience_s`, where those that cannot do not hold up the others.

    M/D/n with constant patience: P = (1 - rho) w / (1 - rho w), w = C(n) exp(-2 n (1 - rho) t / s) the
    wait's tail without impatience (de Kok and Tijms, "A queueing system with impatient customers", Journal
    of Applied Probability 22, 1985; exact for M/M/n, where the exponent has no 2). Written with Erlang's B
    it holds for any rho; far above 1 it becomes 1 - 1 / rho, the share that finds no capacity.
    """
    if patience_s < 0:
        return 1.0
    if arrival_rate_rps <= 0:
        return 0.0
    offered = arrival_rate_rps * service_time_s
    spare = 1.0 - offered / servers
    if abs(spare) < 1e-6:
        spare = 1e-6
    blocked = erlang_b(servers, offered)
    exponent = -2.0 * servers * spare * patience_s / service_time_s
    if exponent > 500.0:
        return 1.0 - servers / offered
    tail = exp(exponent)
    return spare * blocked * tail / (spare + (1.0 - spare) * blocked * (1.0 - tail))


def stage_loss_ratio(
    arrival_rate_rps: float, rows: int, median_s: float, servers: int, patience_s: float
) -> float:
    """`loss_ratio` for work-conserving batches, rows and rest of a batch reckoned as in `stage_latency_s`."""
    each_s = median_s / rows
    return loss_ratio(arrival_rate_rps, each_s, servers, patience_s - (median_s - each_s))
