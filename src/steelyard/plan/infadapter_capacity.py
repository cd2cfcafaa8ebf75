"""How many requests a second a replica carries within the SLO, from its service times: th_m(n) of InfAdapter.

The paper measures it: the highest rate whose 0.99 quantile of latency is within the SLO, single rows. Here it
is reckoned, with the wait of Poisson arrivals for one replica (`plan.tails`): the largest rate at which

    wait at the SLO's quantile + service time at its 0.99 quantile <= SLO,

and never more than 95 % of what the replica can do at all.
"""

import numpy as np
from numpy.typing import ArrayLike

from steelyard.core.types import ServiceTimes
from steelyard.plan.tails import RHO_MAX, Floats, wait_quantile_s

_HALVINGS = 40


def carried_rps(service_s: ArrayLike, service_s_p99: ArrayLike, *, slo_s: float, quantile: float) -> Floats:
    """Requests a second, by broadcasting; 0 where a request alone takes longer than the SLO.

    Args:
        service_s: seconds that one row takes.
        service_s_p99: 0.99 quantile of the same.
        slo_s: from arrival to the end of the batch.
        quantile: share of requests that must make it.
    """
    typical, tail = np.broadcast_arrays(
        np.asarray(service_s, np.float64), np.asarray(service_s_p99, np.float64)
    )
    patience_s = slo_s - tail
    low, high = np.zeros(typical.shape), RHO_MAX * (1 - 1e-9) / typical
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        holds = wait_quantile_s(middle, typical, 1, 1 - quantile) <= patience_s
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return np.where(patience_s >= 0, low, 0.0)


def capacities_rps(
    times: ServiceTimes, variant: str, cores_max: int, *, slo_s: float, quantile: float
) -> tuple[float, ...]:
    """Requests a second of one replica on 1, 2, ... `cores_max` cores."""
    cores = [float(n) for n in range(1, cores_max + 1)]
    typical = [times.service_time_s(variant, 0, 1, n) for n in cores]
    tail = [times.service_time_s_p99(variant, 0, 1, n) for n in cores]
    return tuple(carried_rps(typical, tail, slo_s=slo_s, quantile=quantile).tolist())
