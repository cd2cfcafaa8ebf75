"""How likely a wait is longer than t, for one stage and for several in a row; arrays in, arrays out.

One stage is M/D/n: Poisson arrivals, n replicas, a nearly constant service time s, utilisation rho = rate s
/ n. Its tail falls like exp(-n y t / s), where y > 0 solves rho (e^y - 1) = y (Tijms, A First Course in
Stochastic Models, Wiley 2003, section 9.6: M/D/n waits as E_n/D/1 does, and this is its Lundberg exponent).
A row waits at all with about Erlang's C. Put together,

    P(W > t) ~ min(C, a^sqrt(n) exp(-n y t / s)),    a = (1 - rho) / (rho e^y - 1),

where a is exact for one replica and its power is ours: over 1..64 replicas, utilisations of 5..95 % and
losses of 10 % to 0.01 %, wait plus service is 0.95 to 1.18 times the exact quantile, and at least 0.99 times
it from half utilisation on (tests/theory).

Stages in a row: waits are taken as independent and convolved on a grid, each rounded up to it. That is far
below the sum of the stages' quantiles: not all stages are slow at once.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RHO_MAX = 0.95
"""Utilisation beyond which a plan counts as unstable: the wait's quantile is then all noise."""
_NEWTON_STEPS = 6
_CELLS = 256


class StageLoad(NamedTuple):
    """One stage of a chain, for `chain_tail`.

    Attributes:
        rate_rps: rows a second that it is given.
        replicas: how many share them.
        service_s: seconds a full batch takes, by which the replicas' capacity is reckoned.
        rows: largest batch.
        latency_s: seconds a batch takes at a high quantile; None: `service_s`.
        burst: rows that arrive at once.
    """

    rate_rps: float
    replicas: int
    service_s: float
    rows: int = 1
    latency_s: float | None = None
    burst: float = 1.0


def delay_probability(replicas: ArrayLike, offered: ArrayLike) -> Floats:
    """Erlang's C by broadcasting: share of rows that find all replicas busy; 1 where there are too few.

    Args:
        replicas: whole numbers >= 1.
        offered: rate x service time, in replicas.
    """
    servers, load = np.broadcast_arrays(np.asarray(replicas, np.int64), np.asarray(offered, np.float64))
    loads, which = np.unique(load, return_inverse=True)
    counts = np.arange(int(servers.max(initial=1)) + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])  # of n!
    busy = np.exp(counts * np.log(np.maximum(loads, 1e-12))[:, None] - loads[:, None] - logs)  # a^n e^-a / n!
    within = np.maximum(np.cumsum(busy, axis=1), 1e-300)
    at = which.reshape(load.shape)
    blocked = busy[at, servers] / within[at, servers]  # Erlang's B
    rho = load / servers
    return np.where(rho < 1, blocked / np.maximum(1 - rho * (1 - blocked), 1e-300), 1.0)


def decay(utilisation: ArrayLike) -> Floats:
    """The y > 0 with rho (e^y - 1) = y; 0 where rho >= 1, infinite where it is 0.

    Newton's method on a convex function, from above its root: -2 ln rho is, and so is one step of the fixed
    point y = ln(y + rho) - ln rho from there, which helps where rho is small.
    """
    rho = np.asarray(utilisation, np.float64)
    inside = np.clip(rho, 1e-12, 1 - 1e-9)
    logs = -np.log(inside)
    y = logs + np.log(2.0 * logs + inside)
    for _ in range(_NEWTON_STEPS):
        grown = inside * np.exp(y)
        y = y - (grown - inside - y) / (grown - 1)
    return np.where(rho <= 0, inf, np.where(rho < 1, y, 0.0))


def wait_tail(rate_rps: ArrayLike, service_s: ArrayLike, replicas: ArrayLike, times_s: ArrayLike) -> Floats:
    """P(W > t) at every time: shape of the (broadcast) first three, with one more axis for `times_s`.

    A time below 0 is exceeded for certain. From a utilisation of 1 on, every time is.
    """
    delayed, amplitude, slope = _tail_terms(rate_rps, service_s, replicas)
    times = np.asarray(times_s, np.float64)
    falling = amplitude[..., None] * np.exp(-slope[..., None] * np.maximum(times, 0.0))
    return np.where(times < 0, 1.0, np.minimum(delayed[..., None], falling))


def wait_quantile_s(
    rate_rps: ArrayLike, service_s: ArrayLike, replicas: ArrayLike, loss: ArrayLike
) -> Floats:
    """The time that a share `loss` of the waits is longer than, by broadcasting; inf from `RHO_MAX` on."""
    delayed, amplitude, slope = _tail_terms(rate_rps, service_s, replicas)
    share = np.asarray(loss, np.float64)
    wait = np.log(np.maximum(amplitude / share, 1.0)) / np.maximum(slope, 1e-300)
    rho = np.asarray(rate_rps) * np.asarray(service_s) / np.asarray(replicas)
    return np.where(rho >= RHO_MAX, inf, np.where(delayed <= share, 0.0, wait))


def batch_wait_quantile_s(
    rate_rps: ArrayLike,
    rows: ArrayLike,
    service_s: ArrayLike,
    replicas: ArrayLike,
    loss: ArrayLike,
    *,
    burst: ArrayLike = 1.0,
) -> Floats:
    """The same for replicas that take up to `rows` waiting rows at once, in `service_s`, holding none back.

    Rows are served in service_s / rows each, so they wait as for so much shorter services, and one that
    finds all replicas busy also waits for the rest of a batch. Rows that come `burst` at a time wait `burst`
    times as long (the variance of their number is `burst` times Poisson's).
    """
    batch_s = np.asarray(service_s, np.float64)
    each_s = batch_s / np.asarray(rows, np.float64)
    wait_s = np.asarray(burst) * wait_quantile_s(rate_rps, each_s, replicas, loss)
    return np.where(wait_s > 0, wait_s + batch_s - each_s, 0.0)


def shed_ratio(tail: ArrayLike, utilisation: ArrayLike) -> Floats:
    """Share of rows that is lost where those that would wait too long do not hold up the others.

    (1 - rho) w / (1 - rho w) with w = P(W > patience) without impatience, rho < 1 (de Kok and Tijms, "A
    queueing system with impatient customers", Journal of Applied Probability 22, 1985).
    """
    w, rho = np.asarray(tail, np.float64), np.asarray(utilisation, np.float64)
    return np.asarray((1 - rho) * w / np.maximum(1 - rho * w, 1e-12))


def chain_tail(stages: Sequence[StageLoad], budget_s: float, *, cells: int = _CELLS) -> float:
    """P(latency of the stages in a row > budget), in about 0.1 ms; 1 if a stage cannot carry its rate."""
    slack_s = budget_s - sum(_fixed_s(stage) for stage in stages)
    if slack_s < 0:
        return 1.0
    return 1.0 - float(_waits_within(stages, slack_s, cells).sum())


def chain_latency_quantile_s(stages: Sequence[StageLoad], quantile: float, *, cells: int = _CELLS) -> float:
    """The latency that a share `quantile` of the requests keeps; infinite if a stage cannot carry its rate.

    At most a cell above the grid's answer, the grid spanning the bound below: the sum of the quantiles
    that share the loss equally.
    """
    loss = 1.0 - quantile
    span_s = sum(_wait_bound_s(stage, loss / len(stages)) for stage in stages)
    fixed_s = sum(_fixed_s(stage) for stage in stages)
    if span_s == 0.0 or span_s == inf:
        return fixed_s + span_s
    within = np.cumsum(_waits_within(stages, span_s, cells))
    reached = int(np.searchsorted(within, quantile))
    return fixed_s + span_s * min(reached, cells) / cells


def _fixed_s(stage: StageLoad) -> float:
    return stage.service_s if stage.latency_s is None else stage.latency_s


def _wait_bound_s(stage: StageLoad, loss: float) -> float:
    return float(
        batch_wait_quantile_s(
            stage.rate_rps, stage.rows, stage.service_s, stage.replicas, loss, burst=stage.burst
        )
    )


def _waits_within(stages: Sequence[StageLoad], span_s: float, cells: int) -> Floats:
    """Probability of each sum of waits on the grid 0, h .. span, each wait rounded up to it."""
    grid_s = np.linspace(0.0, span_s, cells + 1)
    total = np.zeros(cells + 1)
    total[0] = 1.0
    for stage in stages:
        each_s = stage.service_s / stage.rows
        rest_s = stage.service_s - each_s
        beyond = (grid_s - rest_s) / stage.burst
        tail = wait_tail(stage.rate_rps, each_s, stage.replicas, np.maximum(beyond, 0.0))
        mass = -np.diff(tail, prepend=1.0)
        total = np.convolve(total, mass)[: cells + 1]
    return total


def _tail_terms(
    rate_rps: ArrayLike, service_s: ArrayLike, replicas: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """C, the amplitude a^sqrt(n) and the slope n y / s, by broadcasting."""
    rate, service, servers = np.broadcast_arrays(
        np.asarray(rate_rps, np.float64), np.asarray(service_s, np.float64), np.asarray(replicas, np.float64)
    )
    offered = rate * service
    rho = offered / servers
    inside = np.clip(rho, 1e-12, 1 - 1e-9)
    y = decay(inside)
    one = (1 - inside) / (inside * np.exp(y) - 1)
    delayed = np.where(rate > 0, delay_probability(servers, offered), 0.0)
    amplitude = np.where(rho < 1, one ** np.sqrt(servers), 1.0)
    slope = np.where(rho < 1, servers * y / service, 0.0)
    return delayed, amplitude, slope
