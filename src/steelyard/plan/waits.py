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
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.core.errors import SpecError
from steelyard.plan.tails import wait_quantile_s
from steelyard.profile.queueing import gamma_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Load(NamedTuple):
    """What a wait depends on: arrays of one shape, an entry an option.

    Attributes:
        rate_rps: rows a second that the option's stage is given.
        rows: largest batch.
        service_s: seconds a full batch takes.
        single_s: seconds the smallest batch takes, that of one burst.
        replicas: how many share the rows.
        loss: share of rows whose wait may be longer.
        burst: rows that arrive at once.
    """

    rate_rps: Floats
    rows: Ints
    service_s: Floats
    single_s: Floats
    replicas: Ints
    loss: Floats
    burst: Floats


class WaitModel(NamedTuple):
    """A wait model.

    Attributes:
        wait_s: seconds, an entry an option; infinite where rows wait for ever.
        busy: whether it counts busy replicas: then more replicas wait less, and the loss that the SLO allows
            is divided among the stages.
    """

    wait_s: Callable[[Load], Floats]
    busy: bool = False


def none_s(load: Load) -> Floats:
    """Nothing."""
    return np.zeros(len(load.rows))


def fill_s(load: Load) -> Floats:
    """(b - 1) / rate."""
    return _per_rate(load, load.rows - 1.0)


def exponential_s(load: Load) -> Floats:
    """(b - 1) ln(1 / (1 - q)) / rate."""
    return _per_rate(load, (load.rows - 1.0) * -np.log(load.loss))


def gamma_s(load: Load) -> Floats:
    """Quantile of Gamma(b - 1) / rate."""
    pairs = zip(load.rows.tolist(), load.loss.tolist(), strict=True)
    return _per_rate(load, np.array([_gamma(rows - 1, 1.0 - loss) for rows, loss in pairs]))


def tail_s(load: Load) -> Floats:
    """Quantile of the wait for a busy replica, `steelyard.plan.tails.wait_quantile_s`."""
    return wait_quantile_s(
        load.rate_rps,
        load.service_s,
        load.replicas,
        load.loss,
        rows=load.rows,
        single_s=load.single_s,
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


def _per_rate(load: Load, gaps: ArrayLike) -> Floats:
    """So many mean gaps between rows, in seconds; rows that never come are waited for for ever."""
    count, some = np.asarray(gaps, np.float64), load.rate_rps > 0
    return np.where(some, count / np.where(some, load.rate_rps, 1.0), np.where(count > 0, inf, 0.0))


@lru_cache(maxsize=1024)
def _gamma(shape: int, quantile: float) -> float:
    return gamma_quantile(shape, quantile) if shape > 0 else 0.0
