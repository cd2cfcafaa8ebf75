"""Wait models by name: how long a row of a stage waits, as planners and papers reckon it.

All of them are functions of the same arrays, so that a whole table of (rows, cores, replicas) is reckoned at
once; `WAITS` is the table that a problem's `wait` is looked up in.

| name | the wait | who says so |
|---|---|---|
| `none` | nothing | the fluid bound |
| `fill` | (b - 1) / rate: rows come evenly, a replica is free | FA2, Themis 2024 |
| `exponential` | (b - 1) ln(1 / (1 - q)) / rate: each gap at its quantile | Themis 2025, InferLine there |
| `gamma` | the quantile of b - 1 Poisson gaps together | Themis 2025, option |
| `tail` | batches form of what is queued; the wait is for a busy replica, at a quantile | Steelyard |

The first four know no busy replicas: they hold for any number that carries the rate.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from math import inf, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import SpecError
from steelyard.plan.tails import batch_wait_quantile_s
from steelyard.profile.queueing import gamma_quantile

Floats = NDArray[np.float64]


class Load(NamedTuple):
    """What a wait depends on; the arrays are of shapes that broadcast to one another.

    Attributes:
        rate_rps: rows a second that the stage is given.
        rows: largest batch.
        service_s: seconds a full batch takes.
        replicas: how many share the rows.
        quantile: share of rows whose wait is to be no longer.
        burst: rows that arrive at once.
    """

    rate_rps: float
    rows: Floats
    service_s: Floats
    replicas: Floats
    quantile: float
    burst: float = 1.0


class WaitModel(NamedTuple):
    """A wait model.

    Attributes:
        wait_s: seconds, of the broadcast shape; infinite where rows wait for ever.
        busy: whether it counts busy replicas: then more replicas wait less, and the loss that the SLO allows
            is divided among the stages.
    """

    wait_s: Callable[[Load], Floats]
    busy: bool = False


def none_s(load: Load) -> Floats:
    """Nothing."""
    return np.zeros(np.broadcast_shapes(load.rows.shape, load.service_s.shape, load.replicas.shape))


def fill_s(load: Load) -> Floats:
    """(b - 1) / rate."""
    return none_s(load) + _gaps_s(load, 1.0)


def exponential_s(load: Load) -> Floats:
    """(b - 1) ln(1 / (1 - q)) / rate."""
    return none_s(load) + _gaps_s(load, log(1.0 / (1.0 - load.quantile)))


def gamma_s(load: Load) -> Floats:
    """Quantile of Gamma(b - 1) / rate."""
    shapes = [_gamma(int(rows) - 1, load.quantile) for rows in load.rows.ravel()]
    gaps = np.array(shapes).reshape(load.rows.shape)
    return none_s(load) + (gaps / load.rate_rps if load.rate_rps > 0 else np.where(gaps > 0, inf, 0.0))


def tail_s(load: Load) -> Floats:
    """Quantile of the wait for a busy replica, `steelyard.plan.tails.batch_wait_quantile_s`."""
    return none_s(load) + batch_wait_quantile_s(
        load.rate_rps,
        load.rows,
        load.service_s,
        load.replicas,
        1.0 - load.quantile,
        burst=load.burst,
    )


WAITS: dict[str, WaitModel] = {
    "none": WaitModel(none_s),
    "fill": WaitModel(fill_s),
    "exponential": WaitModel(exponential_s),
    "gamma": WaitModel(gamma_s),
    "tail": WaitModel(tail_s, busy=True),
}


def wait_model(name: str) -> WaitModel:
    """The model of that name.

    Raises:
        SpecError: there is none; the message names the nearest.
    """
    if name not in WAITS:
        nearest = get_close_matches(name, WAITS, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise SpecError(f"no wait model {name!r}: {hint}known are {', '.join(WAITS)}")
    return WAITS[name]


def _gaps_s(load: Load, each: float) -> Floats:
    gaps = load.rows - 1.0
    if load.rate_rps > 0:
        return np.asarray(gaps * each / load.rate_rps)
    return np.where(gaps > 0, inf, 0.0)


@lru_cache(maxsize=1024)
def _gamma(shape: int, quantile: float) -> float:
    return gamma_quantile(shape, quantile) if shape > 0 else 0.0
