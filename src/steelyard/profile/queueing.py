"""Formulas of queueing theory: what a wait is expected to be, and what the simulator is checked against.

Notation: arrivals are Poisson of rate `arrival_rate_rps`, a server takes `service_time_s`, `servers` work in
parallel, utilisation rho = rate x time / servers < 1. A wait is from arrival to the start of service; its
q-quantile is 0 where fewer than 1 - q of the arrivals wait at all. Unstable systems (rho >= 1) wait for ever:
inf.

Sources: Kleinrock, Queueing Systems I, Wiley 1975 (M/M/1, M/M/c, Pollaczek-Khinchine); Franx, "A simple
solution for the M/D/c waiting time distribution", Operations Research Letters 29, 2001; Allen, Probability,
Statistics and Queueing Theory, 1990 (Allen-Cunneen); Abramowitz and Stegun 6.5 (incomplete gamma).
"""

from collections.abc import Callable
from math import ceil, exp, floor, inf, isfinite, lgamma, log

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import ProfileError

_TERMS_MAX = 10_000
_VALUE_MAX = 1e9


def mm1_wait_mean_s(arrival_rate_rps: float, service_time_s: float) -> float:
    """M/M/1 mean wait: rho s / (1 - rho); exponential service with mean `service_time_s`."""
    return mmc_wait_mean_s(arrival_rate_rps, service_time_s, 1)


def mm1_latency_quantile_s(arrival_rate_rps: float, service_time_s: float, quantile: float) -> float:
    """M/M/1 quantile of wait plus service, which is exponential: -ln(1 - q) s / (1 - rho)."""
    rho = _utilisation(arrival_rate_rps, service_time_s, 1)
    _check_quantile(quantile)
    return -log(1 - quantile) * service_time_s / (1 - rho) if rho < 1 else inf


def erlang_b(servers: int, offered: float) -> float:
    """Share of arrivals lost by `servers` servers without a queue; `offered` = rate x time, in servers.

    Recursion B(0) = 1, B(c) = a B(c-1) / (c + a B(c-1)): stable for any number of servers.
    """
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """Share of arrivals of an M/M/c queue that wait: B / (1 - rho (1 - B)); 1 if it is not stable."""
    rho = offered / servers
    if rho >= 1:
        return 1.0
    blocked = erlang_b(servers, offered)
    return blocked / (1 - rho * (1 - blocked))


def mmc_wait_mean_s(arrival_rate_rps: float, service_time_s: float, servers: int) -> float:
    """M/M/c mean wait: C s / (c - a), with C of Erlang and a = rate x time."""
    rho = _utilisation(arrival_rate_rps, service_time_s, servers)
    offered = rho * servers
    return erlang_c(servers, offered) * service_time_s / (servers - offered) if rho < 1 else inf


def mmc_wait_quantile_s(
    arrival_rate_rps: float, service_time_s: float, servers: int, quantile: float
) -> float:
    """M/M/c quantile of the wait: P(W > t) = C exp(-(c - a) t / s), so ln(C / (1 - q)) s / (c - a)."""
    rho = _utilisation(arrival_rate_rps, service_time_s, servers)
    _check_quantile(quantile)
    if rho >= 1:
        return inf
    offered = rho * servers
    waiting = erlang_c(servers, offered)
    if waiting <= 1 - quantile:
        return 0.0
    return log(waiting / (1 - quantile)) * service_time_s / (servers - offered)


def md1_wait_mean_s(arrival_rate_rps: float, service_time_s: float) -> float:
    """M/D/1 mean wait: rho s / (2 (1 - rho)), half of M/M/1's (Pollaczek-Khinchine)."""
    return mg1_wait_mean_s(arrival_rate_rps, service_time_s, 0.0)


def mg1_wait_mean_s(arrival_rate_rps: float, service_time_s: float, service_cv2: float) -> float:
    """M/G/1 mean wait: rho s (1 + cv^2) / (2 (1 - rho)); cv^2 is variance over mean^2."""
    rho = _utilisation(arrival_rate_rps, service_time_s, 1)
    return rho * service_time_s * (1 + service_cv2) / (2 * (1 - rho)) if rho < 1 else inf


def ggc_wait_mean_s(
    arrival_rate_rps: float, service_time_s: float, servers: int, arrival_cv2: float, service_cv2: float
) -> float:
    """G/G/c mean wait after Allen and Cunneen: M/M/c's times (arrival cv^2 + service cv^2) / 2."""
    return mmc_wait_mean_s(arrival_rate_rps, service_time_s, servers) * (arrival_cv2 + service_cv2) / 2


def mdc_wait_quantile_s(
    arrival_rate_rps: float, service_time_s: float, servers: int, quantile: float
) -> float:
    """M/D/c quantile of the wait, exact: servers with one fixed service time, as replicas nearly are.

    Raises:
        ProfileError: an argument is out of range, or rho is so near 1 that the queue has no bounded solution
        here.
    """
    rho = _utilisation(arrival_rate_rps, service_time_s, servers)
    _check_quantile(quantile)
    if rho >= 1:
        return inf
    offered = rho * servers
    queued = np.cumsum(_mdc_states(offered, servers))[servers:]  # Q_j = P(at most j wait), j = 0, 1 ...
    return _invert(lambda time: _mdc_cdf(time, queued, offered, servers), quantile) * service_time_s


def gamma_quantile(shape: float, quantile: float, scale: float = 1.0) -> float:
    """Quantile of the gamma distribution, `scale` x the t with P(shape, t) = q."""
    _check_quantile(quantile)
    if not (isfinite(shape) and shape > 0):
        raise ProfileError(f"want a gamma shape > 0, not {shape}")
    return _invert(lambda value: gamma_cdf(shape, value), quantile) * scale


def gamma_cdf(shape: float, value: float) -> float:
    """Regularised lower incomplete gamma function P(shape, value): series below the mean, fraction above."""
    if value <= 0:
        return 0.0
    front = exp(shape * log(value) - value - lgamma(shape))
    if value < shape + 1:
        term = total = 1 / shape
        for step in range(1, _TERMS_MAX):
            term *= value / (shape + step)
            total += term
            if term < total * 1e-16:
                break
        return min(1.0, front * total)
    return max(0.0, 1 - front * _upper_fraction(shape, value))


def fill_wait_mean_s(rows: int, arrival_rate_rps: float) -> float:
    """Mean wait of a batch's first row for the rows that complete it: (rows - 1) / rate, as in Themis."""
    return (rows - 1) / arrival_rate_rps if rows > 1 else 0.0


def fill_wait_quantile_s(rows: int, arrival_rate_rps: float, quantile: float) -> float:
    """Quantile of the same wait: the sum of rows - 1 exponential gaps, gamma of that shape."""
    return gamma_quantile(rows - 1, quantile, 1 / arrival_rate_rps) if rows > 1 else 0.0


def _invert(cdf: Callable[[float], float], quantile: float) -> float:
    """The smallest value, 0 or more, at which a distribution function reaches `quantile`."""
    if cdf(0.0) >= quantile:
        return 0.0
    low, high = 0.0, 1.0
    while cdf(high) < quantile:
        low, high = high, 2 * high
        if high > _VALUE_MAX:
            raise ProfileError(f"no value reaches quantile {quantile}")
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if cdf(middle) < quantile:
            low = middle
        else:
            high = middle
    return high


def _upper_fraction(shape: float, value: float) -> float:
    """Continued fraction of Gamma(shape, value) / (value^shape e^-value), by Lentz's method."""
    tiny = 1e-300
    b = value + 1 - shape
    c, d = 1 / tiny, 1 / b
    result = d
    for step in range(1, _TERMS_MAX):
        a = -step * (step - shape)
        b += 2
        d = 1 / (a * d + b or tiny)
        c = b + a / c or tiny
        result *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return result


def _mdc_states(offered: float, servers: int) -> NDArray[np.float64]:
    """Stationary P(n in system), n = 0 .. N, of M/D/c.

    In one service time everyone served at its start leaves, and Poisson(offered) arrive: p_j = sum_{i <= c}
    p_i a_j + sum_{i > c} p_i a_{j - i + c}, solved on states up to N with the rest's mass < 1e-12.
    """
    rho = offered / servers
    decay = max(1e-3, 2 * (1 - rho))  # the tail falls at least like exp(-2 (1 - rho) n) near saturation
    size = min(4000, servers + ceil(offered + 10 * offered**0.5 + 30 / decay))
    arrivals = _poisson(offered, size)
    step = np.zeros((size, size))
    for state in range(size):
        left = max(0, state - servers)
        step[state, left:] = arrivals[: size - left]
    step[:, -1] += 1 - step.sum(axis=1)  # what would go beyond stays at the edge
    balance = step.T - np.eye(size)
    balance[-1] = 1.0
    states = np.maximum(0.0, np.linalg.solve(balance, np.eye(size)[-1]))
    if states[-1] > 1e-6:
        raise ProfileError(f"M/D/c at utilisation {rho:.4f} is too near saturation to solve")
    return np.asarray(states / states.sum())


def _mdc_cdf(time: float, queued: NDArray[np.float64], offered: float, servers: int) -> float:
    """P(W <= t) after Franx; `time` in service times, (k - 1) <= t < k.

    sum over j < k c of Q_{k c - 1 - j} x Poisson_j(offered (k - t)), Q_j = P(at most j wait): no alternating
    signs.
    """
    periods = floor(time) + 1
    terms = periods * servers
    weights = _poisson(offered * (periods - time), terms)
    at = np.minimum(np.arange(terms - 1, -1, -1), len(queued) - 1)
    return float(queued[at] @ weights)


def _poisson(mean: float, size: int) -> NDArray[np.float64]:
    """P(N = n) for n < size."""
    counts = np.arange(size)
    logs = np.array([lgamma(count + 1) for count in counts])
    return np.asarray(np.exp(counts * log(mean) - mean - logs))


def _utilisation(arrival_rate_rps: float, service_time_s: float, servers: int) -> float:
    if not (
        isfinite(arrival_rate_rps)
        and arrival_rate_rps > 0
        and isfinite(service_time_s)
        and service_time_s > 0
    ):
        raise ProfileError(f"want rate and time > 0, not {arrival_rate_rps} and {service_time_s}")
    if servers < 1:
        raise ProfileError(f"want at least one server, not {servers}")
    return arrival_rate_rps * service_time_s / servers


def _check_quantile(quantile: float) -> None:
    if not 0 < quantile < 1:
        raise ProfileError(f"want a quantile in (0, 1), not {quantile}")
