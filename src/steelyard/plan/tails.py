"""How likely a wait is longer than t, for one stage and for several in a row; arrays in, arrays out.

One stage is M/D/n: Poisson arrivals, n replicas, a nearly constant service time s, utilisation rho =
rate s / n. Its tail falls like exp(-n y t / s), where y > 0 solves rho (e^y - 1) = y (Tijms, A First Course
in Stochastic Models, Wiley 2003, section 9.6; M/D/n waits as E_n/D/1 does, and this is its exponent). A row
waits at all with about the probability C of Erlang. Put together,

    P(W > t) ~ min(C, a^sqrt(n) exp(-n y t / s)),    a = (1 - rho) / (rho e^y - 1),

where a is exact for one replica and its power is ours. Over 1..64 replicas, utilisations of 5 to 95 % and
losses of 10 % to 0.01 %, wait plus service is 0.95 to 1.18 times the exact quantile, and at least 0.99 times
it from half utilisation on.

*Batches* form of what waits. Rows are then served in l(b) / b each, and wait as for so much shorter services;
but a free replica takes a single row for l(1), so that it is busy far more often than full batches say, and a
row that finds all of them busy first waits for the rest of a batch.

*Bursts*, rows that arrive at once as a fan-out makes them, are customers as a whole, and the wait is that of
their last row: each takes as many replicas as it has batches.

Against simulation at 0.3 to 0.7 of full use, latency (wait plus a full batch) is 1.1 to 1.7 times the
quantile for rows that come one by one where batches fill, up to 3 times where they do not; and 0.89 to 1.2
times it for bursts (tests/theory).

*Stages in a row*: waits are taken as independent and convolved on a grid of 1/384 of the slack. That is far
below the sum of the stages' quantiles: not all stages are slow at once.
"""

from collections.abc import Sequence
from math import ceil, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.plan.shape import heads_and_tails_s

Floats = NDArray[np.float64]

RHO_MAX = 0.95
"""Utilisation beyond which a plan counts as unstable: the wait's quantile is then all noise."""
_NEWTON_STEPS = 4
_CELLS = 384
_ROUNDING = 1e-9


class StageLoad(NamedTuple):
    """One stage of a chain, for `chain_tail`.

    Attributes:
        rate_rps: rows a second that it is given.
        replicas: how many share them.
        service_s: seconds a full batch takes, by which the replicas' capacity is reckoned.
        rows: largest batch.
        latency_s: seconds a batch takes at a high quantile; None: `service_s`.
        single_s: seconds the smallest batch takes, of one burst's rows; None: as a share of a full one.
        burst: rows that arrive at once.
    """

    rate_rps: float
    replicas: int
    service_s: float
    rows: int = 1
    latency_s: float | None = None
    single_s: float | None = None
    burst: float = 1.0


def delay_probability(replicas: ArrayLike, offered: ArrayLike) -> Floats:
    """Erlang's C by broadcasting: share of rows that find all replicas busy; 1 where there are too few.

    Args:
        replicas: whole numbers >= 1.
        offered: rate x service time, in replicas.
    """
    servers, load = np.asarray(replicas, np.int64), np.asarray(offered, np.float64)
    if servers.shape != load.shape[-servers.ndim :]:  # replicas of several loads are sorted once for all
        servers, load = np.broadcast_arrays(servers, load)
    largest_first = np.argsort(-servers, axis=None, kind="stable")
    counts = servers.ravel()[largest_first]
    still = np.searchsorted(-counts, -np.arange(counts.max(initial=0) + 1), side="right")
    per_replica = 1.0 / np.maximum(load.reshape(-1, max(1, servers.size))[:, largest_first], 1e-12)
    # of Erlang's B: 1 / B(n) = 1 + n / a x 1 / B(n - 1), for those with n left
    inverse = np.ones(per_replica.shape)
    with np.errstate(over="ignore"):  # so improbable that it is 0
        for count, left in enumerate(still[1:].tolist(), start=1):
            some = inverse[:, :left]
            some *= count * per_replica[:, :left]
            some += 1.0
    blocked = np.empty(inverse.shape)
    blocked[:, largest_first] = 1.0 / inverse
    blocked = blocked.reshape(load.shape)
    rho = load / servers
    stable = blocked / np.maximum(1 - rho * (1 - blocked), 1e-300)
    return np.where(rho <= 0, 0.0, np.where(rho < 1, stable, 1.0))


def decay(utilisation: ArrayLike) -> Floats:
    """The y > 0 with rho (e^y - 1) = y; 0 where rho >= 1, infinite where it is 0.

    Newton's method on a convex function, from above its root: -2 ln rho is, and so is one step of the fixed
    point y = ln(y + rho) - ln rho from there, which helps where rho is small.
    """
    rho = np.asarray(utilisation, np.float64)
    return np.where(rho <= 0, inf, np.where(rho < 1, _root(_inside(rho)), 0.0))


def _inside(rho: Floats) -> Floats:
    return np.minimum(np.maximum(rho, 1e-12), 1 - 1e-9)


def _root(inside: Floats) -> Floats:
    """`decay` of what is between 0 and 1, by Newton's method."""
    logs = -np.log(inside)
    y = logs + np.log(2.0 * logs + inside)
    for _ in range(_NEWTON_STEPS):
        grown = inside * np.exp(y)
        y = y - (grown - inside - y) / (grown - 1)
    return y


def wait_tail(
    rate_rps: ArrayLike,
    service_s: ArrayLike,
    replicas: ArrayLike,
    times_s: ArrayLike,
    *,
    rows: ArrayLike = 1,
    single_s: ArrayLike | None = None,
    burst: ArrayLike = 1.0,
) -> Floats:
    """P(W > t): shape of the other arguments, broadcast, with one more axis for `times_s`.

    A time below 0 is exceeded for certain; from a utilisation of 1 on, every time is. Arguments as of
    `wait_quantile_s`.
    """
    some, rest_s, many, amplitude, slope, _ = _terms(rate_rps, service_s, replicas, rows, single_s, burst)
    beyond_s = np.asarray(times_s, np.float64) - rest_s[..., None]
    falling = amplitude[..., None] * np.exp(-slope[..., None] * np.maximum(beyond_s, 0.0))
    tail = np.where(beyond_s < 0, some[..., None], np.minimum(many[..., None], falling))
    return np.where(np.asarray(times_s) < 0, 1.0, tail)


def wait_quantile_s(
    rate_rps: ArrayLike,
    service_s: ArrayLike,
    replicas: ArrayLike,
    loss: ArrayLike,
    *,
    rows: ArrayLike = 1,
    single_s: ArrayLike | None = None,
    burst: ArrayLike = 1.0,
) -> Floats:
    """The time that a share `loss` of the waits is longer than, by broadcasting; inf from `RHO_MAX` on.

    Args:
        rate_rps: rows a second.
        service_s: seconds a full batch takes.
        replicas: how many share the rows.
        loss: in (0, 1).
        rows: largest batch; a free replica takes what waits, and holds nothing back.
        single_s: seconds the smallest batch takes; None: as a share of a full one.
        burst: rows that arrive at once.
    """
    some, rest_s, many, amplitude, slope, rho = _terms(rate_rps, service_s, replicas, rows, single_s, burst)
    share = np.asarray(loss, np.float64)
    longer_s = np.log(np.maximum(amplitude / share, 1.0)) / np.maximum(slope, 1e-300)
    wait_s = np.where(some <= share, 0.0, rest_s + np.where(many <= share, 0.0, longer_s))
    return np.where(rho >= RHO_MAX, inf, wait_s)


def chain_tail(stages: Sequence[StageLoad], budget_s: float, *, cells: int = _CELLS) -> float:
    """P(latency of the stages in a row > budget), in 0.15 ms a stage; 1 if one cannot carry its rate."""
    return graph_tail(_chain(len(stages)), stages, budget_s, cells=cells)


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
    delay = np.eye(1, cells + 1)[0]
    for wait in _wait_masses(stages, span_s / cells, cells + 1):
        delay = np.convolve(delay, wait)[: cells + 1]
    reached = int(np.searchsorted(np.cumsum(delay), quantile))
    return fixed_s + span_s * min(reached, cells) / cells


def graph_tail(
    after: Sequence[Sequence[int]], stages: Sequence[StageLoad], budget_s: float, *, cells: int = _CELLS
) -> float:
    """P(latency of a pipeline that branches and joins > budget); `after` is as in `steelyard.plan.shape`.

    The grid is of delays, of what comes on top of service times alone, and spans the slack of the stage that
    has most. Branches that share a stage are late together; taking them as independent where they join errs
    on the safe side (Esary, Proschan and Walkup, "Association of random variables", Annals of Mathematical
    Statistics 38, 1967).
    """
    fixed_s = [_fixed_s(stage) for stage in stages]
    heads_s, tails_s = heads_and_tails_s(after, fixed_s)
    slacks_s = [budget_s - a - z + own for a, z, own in zip(heads_s, tails_s, fixed_s, strict=True)]
    if min(slacks_s) < -_ROUNDING * budget_s:
        return 1.0
    cell_s = max(_ROUNDING * budget_s, *slacks_s) / cells
    allowance = ceil(len(stages) / 2)  # what rounding may have added still counts as in time
    size = cells + 1 + allowance
    waits = _wait_masses(stages, cell_s, size)
    within: list[Floats] = []  # of each stage: share of requests by delay at its end, cumulated
    in_time = 1.0
    for index, (needs, wait) in enumerate(zip(after, waits, strict=True)):
        start = np.ones(size)
        for need in needs:
            spare_s = heads_s[index] - fixed_s[index] - heads_s[need]
            spare = min(size - 1, int(spare_s / cell_s + _ROUNDING))
            start *= np.concatenate([within[need][spare:], np.full(spare, within[need][-1])])
        delay = np.convolve(np.diff(start, prepend=0.0), wait)[:size] if needs else wait
        within.append(np.cumsum(delay))
        if tails_s[index] == fixed_s[index]:
            last = int((budget_s - heads_s[index]) / cell_s + _ROUNDING) + allowance
            in_time *= float(within[index][min(size - 1, last)])
    return 1.0 - in_time


def _fixed_s(stage: StageLoad) -> float:
    return stage.service_s if stage.latency_s is None else stage.latency_s


def _wait_bound_s(stage: StageLoad, loss: float) -> float:
    return float(
        wait_quantile_s(
            stage.rate_rps,
            stage.service_s,
            stage.replicas,
            loss,
            rows=stage.rows,
            single_s=stage.single_s,
            burst=stage.burst,
        )
    )


def _wait_masses(stages: Sequence[StageLoad], cell_s: float, size: int) -> Floats:
    """Probability of each wait on the grid 0, h, 2 h .., rounded to it; shape (stages, size)."""
    rate, replicas, service, rows, single, burst = np.array(
        [
            (
                stage.rate_rps,
                stage.replicas,
                stage.service_s,
                stage.rows,
                _single_s(stage),
                stage.burst,
            )
            for stage in stages
        ]
    ).T
    borders_s = (np.arange(size) + 0.5) * cell_s
    tail = wait_tail(rate, service, replicas, borders_s, rows=rows, single_s=single, burst=burst)
    return -np.diff(tail, axis=1, prepend=1.0)


def _single_s(stage: StageLoad) -> float:
    share = min(stage.burst, stage.rows) / stage.rows
    return stage.service_s * share if stage.single_s is None else stage.single_s


def _chain(stages: int) -> list[tuple[int, ...]]:
    return [(index - 1,) if index else () for index in range(stages)]


def _terms(
    rate_rps: ArrayLike,
    service_s: ArrayLike,
    replicas: ArrayLike,
    rows: ArrayLike,
    single_s: ArrayLike | None,
    burst: ArrayLike,
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """P(any wait), the rest of a batch, and of what comes after it: P, amplitude, slope; utilisation.

    Bursts are the customers. One of f rows takes g = ceil(f / b) replicas, so n of them serve n / g bursts at
    a time, each in f l / (b g) as far as its share of full batches goes. If it takes more replicas than there
    are, all serve it together.
    """
    rate, batch_s, servers, size, count = (
        np.asarray(value, np.float64) for value in (rate_rps, service_s, replicas, rows, burst)
    )
    parts = np.ceil(count / size - 1e-9)
    at_once = np.maximum(1.0, np.floor(servers / parts))
    rho = rate * batch_s / (size * servers)
    share_s = batch_s * count * at_once / (size * servers)  # seconds a burst keeps its replicas busy
    smallest_s = share_s if single_s is None else np.asarray(single_s, np.float64) * parts * at_once / servers
    inside = _inside(rho)
    y = _root(inside)
    one = (1 - inside) / (inside * np.exp(y) - 1)
    many, some = delay_probability(at_once, np.array([rho * at_once, rate / count * smallest_s]))
    some = np.maximum(many, some)
    own_s = (np.ceil(parts / servers - 1e-9) - 1) * batch_s
    rest_s = np.where(some > 0, np.maximum(0.0, batch_s - share_s), 0.0) + own_s
    amplitude = np.where(rho < 1, one ** np.sqrt(at_once), 1.0)
    slope = np.where(rho < 1, at_once * y / share_s, 0.0)
    return np.where(own_s > 0, 1.0, some), rest_s, many, amplitude, slope, rho
