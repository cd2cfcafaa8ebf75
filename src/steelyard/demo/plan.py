"""How large the demo's surge is, and which SLO: both from what this machine was measured to do.

The base takes well under one core and the surge more than one, so that one core is wasted or too few and two
are wasted most of the time: the shape on which moving cores must pay. Everything follows from the profile
and a seed.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from steelyard.core.errors import ProfileError
from steelyard.core.types import Frozen
from steelyard.workload.synth import counts_of, surge

BASE_SHARE, SURGE_SHARE = 0.40, 1.30
"""Of what one core can answer."""

SLO_FACTOR = 8
"""The SLO in latencies of a single line on one core; rounded up to 10 ms."""

BATCH_MAX = 4
SECONDS_MIN = 12


class Cell(Frozen, frozen=True):
    """One profiled point: median milliseconds for a batch on some cores."""

    batch: int
    cores: float
    p50_ms: float


class Surge(Frozen, frozen=True):
    """What is replayed.

    Attributes:
        one_line_ms: median latency of one line on one core.
        capacity_rps: lines a second that one core answers at its best batch.
        best_batch: that batch.
        slo_ms: the objective.
        counts: requests in each second.
        from_s: second at which the surge begins.
        to_s: second before which it ends.
    """

    one_line_ms: float
    capacity_rps: float
    best_batch: int
    slo_ms: float
    counts: list[int]
    from_s: int
    to_s: int


def plan_surge(cells: Sequence[Cell], *, seconds: int, seed: int) -> Surge:
    """Scale the surge to the machine: base for 30 % of the time, surge for 40 %, base for the rest.

    Raises:
        ProfileError: the profile lacks one core, or the trace is too short to show anything.
    """
    one_core = {cell.batch: cell.p50_ms for cell in cells if cell.cores == 1 and cell.batch <= BATCH_MAX}
    if 1 not in one_core:
        raise ProfileError("the profile has no single line on one core")
    best_batch = max(one_core, key=lambda batch: (batch / one_core[batch], -batch))
    capacity_rps = 1000 * best_batch / one_core[best_batch]
    return scaled(
        one_core[1], capacity_rps, best_batch, BASE_SHARE, SURGE_SHARE, SLO_FACTOR, seconds=seconds, seed=seed
    )


def scaled(
    one_ms: float,
    capacity_rps: float,
    best_batch: int,
    base_share: float,
    surge_share: float,
    slo_factor: float,
    *,
    seconds: int,
    seed: int,
) -> Surge:
    """A surge in shares of a capacity, and an SLO in latencies of one request, rounded up to 10 ms.

    Raises:
        ProfileError: the trace is too short to show anything.
    """
    if seconds < SECONDS_MIN:
        raise ProfileError(f"--seconds: want at least {SECONDS_MIN}, got {seconds}")
    from_s, to_s = round(seconds * 0.3), round(seconds * 0.7)
    rates = surge(
        seconds,
        base_rps=base_share * capacity_rps,
        surge_rps=surge_share * capacity_rps,
        from_s=from_s,
        to_s=to_s,
    )
    return Surge(
        one_line_ms=one_ms,
        capacity_rps=capacity_rps,
        best_batch=best_batch,
        slo_ms=float(ceil(slo_factor * one_ms / 10) * 10),
        counts=counts_of(rates, np.random.default_rng(seed)).counts.tolist(),
        from_s=from_s,
        to_s=to_s,
    )
