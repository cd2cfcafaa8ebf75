"""What a load run saw, from the client's side of the wire.

Latency counts from the *intended* arrival: a request that leaves late because the server made the generator
wait is charged to the server, which a closed loop would hide (coordinated omission). The generator's own
lateness, from intended arrival to the moment the request is handed to the connection, is reported beside it;
a run in which its 0.99 quantile passes `LATENESS_MAX_S` says more about the generator than about the server,
and is void.
"""

from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from steelyard.core.types import Frozen

LATENESS_MAX_S = 0.002

OK = 200
OVERRUN = -1
TIMEOUT = -2
CONNECTION = -3
_WORDS = {OVERRUN: "overrun", TIMEOUT: "timeout", CONNECTION: "connection"}

Seconds = NDArray[np.float64]


class Outcomes:
    """One row for each intended arrival, filled in as answers come; arrays of shape (offered,).

    Attributes:
        at_s: intended arrival, seconds from the start of the run, ascending.
        lateness_s: how late the request was handed over; nan if it never was.
        latency_s: intended arrival to the answer's last byte; nan without an answer.
        bound_s: latency beyond which a request is late; inf without a bound.
        status: HTTP status, or `OVERRUN`, `TIMEOUT`, `CONNECTION`; 0 while open.
    """

    def __init__(self, at_s: Seconds, bound_s: Seconds) -> None:
        self.at_s = at_s
        self.bound_s = bound_s
        self.lateness_s = np.full(len(at_s), np.nan)
        self.latency_s = np.full(len(at_s), np.nan)
        self.status = np.zeros(len(at_s), dtype=np.int16)


class Series(Frozen, frozen=True):
    """The run by second of intended arrival; quantiles of completed requests, None without any."""

    offered: list[int]
    completed: list[int]
    violations: list[int]
    p50_ms: list[float | None]
    p99_ms: list[float | None]


class LoadResult(Frozen, frozen=True):
    """The output of `steelyard load`; see the module for what latency and lateness count.

    Attributes:
        offered: intended arrivals.
        completed: answered with 200.
        late: completed, but later than the SLO or the request's own bound.
        violations: late, or not completed.
        violation_ratio: violations over offered; 0 when nothing was offered.
        errors: requests that were not completed, by HTTP status, or `overrun` (more in flight than allowed,
            never sent), `timeout`, `connection`.
        latency_ms: p50, p90, p99, max of completed requests; None without any.
        goodput_rps: completed in time, over the seconds of the trace.
        lateness_ms: p50, p99, max of the generator's own lateness.
        void: the generator was too late for the run to count.
        seconds: length of the trace.
        slo_ms: the SLO, None without one.
        per_second: the same over time.
    """

    offered: int
    completed: int
    late: int
    violations: int
    violation_ratio: float
    errors: dict[str, int]
    latency_ms: dict[str, float | None]
    goodput_rps: float
    lateness_ms: dict[str, float | None]
    void: bool
    seconds: float
    slo_ms: float | None
    per_second: Series


def summarise(outcomes: Outcomes, *, seconds: float, slo_s: float | None) -> LoadResult:
    """Count and rank the outcomes of a finished run of `seconds`."""
    completed = outcomes.status == OK
    late = completed & (outcomes.latency_s > outcomes.bound_s)
    violations = late | ~completed
    offered = len(outcomes.at_s)
    failures = Counter(outcomes.status[~completed].tolist())
    lateness = outcomes.lateness_s[np.isfinite(outcomes.lateness_s)]
    lateness_p99_s = quantile(lateness, 0.99)
    return LoadResult(
        offered=offered,
        completed=int(completed.sum()),
        late=int(late.sum()),
        violations=int(violations.sum()),
        violation_ratio=float(violations.sum()) / offered if offered else 0.0,
        errors={_WORDS.get(status, str(status)): count for status, count in sorted(failures.items())},
        latency_ms=_ranks(outcomes.latency_s[completed], p50=0.5, p90=0.9, p99=0.99, max=1.0),
        goodput_rps=float((completed & ~late).sum()) / seconds,
        lateness_ms=_ranks(lateness, p50=0.5, p99=0.99, max=1.0),
        void=lateness_p99_s is not None and lateness_p99_s > LATENESS_MAX_S,
        seconds=seconds,
        slo_ms=None if slo_s is None else slo_s * 1e3,
        per_second=_series(outcomes, completed, violations, int(np.ceil(seconds))),
    )


def quantile(values: Seconds, share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None of none.

    An observed value, never one between two: the p99 of a small sample must not be milder than what was seen.
    """
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else None


def _ranks(values_s: Seconds, **shares: float) -> dict[str, float | None]:
    return {name: _ms(quantile(values_s, share)) for name, share in shares.items()}


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s * 1e3, 3)


def _series(
    outcomes: Outcomes, completed: NDArray[np.bool_], violations: NDArray[np.bool_], seconds: int
) -> Series:
    second = outcomes.at_s.astype(np.int64)

    def count(mask: NDArray[np.bool_]) -> list[int]:
        return [int(n) for n in np.bincount(second[mask], minlength=seconds)]

    bounds = np.searchsorted(second, np.arange(seconds + 1)).tolist()
    by_second = [outcomes.latency_s[low:high][completed[low:high]] for low, high in pairwise(bounds)]
    return Series(
        offered=count(np.ones(len(second), dtype=np.bool_)),
        completed=count(completed),
        violations=count(violations),
        p50_ms=[_ms(quantile(latencies, 0.5)) for latencies in by_second],
        p99_ms=[_ms(quantile(latencies, 0.99)) for latencies in by_second],
    )
