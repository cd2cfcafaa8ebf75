"""Arrival traces: how many requests arrive in each second, or exactly when each one arrives.

A trace is one of two values. `CountTrace` knows a count for every second, apart for each kind of request
(`Mark`); `ArrivalTrace` knows every arrival's time. Both can be cut, scaled and turned into arrivals.

The rules of this file: a slice is in seconds, half-open and taken before scaling; scaling keeps totals by
carrying the fraction to the next second (or arrival) instead of rounding each one; within a second, arrivals
whose times are unknown are a Poisson process conditioned on its count, which is sorted uniforms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import TraceError

Counts = NDArray[np.int64]
Times = NDArray[np.float64]

SECONDS_MAX = 10_000_000
"""Longest trace, 116 days: a time stamp in the wrong column or unit ends here instead of in memory."""

COUNT_MAX = 10_000_000
"""Most requests that a line, a second of a kind, or a trace of exact arrivals may stand for."""


class Mark(NamedTuple):
    """What a request of a trace is, besides its time; empty and None mean the service's own.

    `latency_s` is the request's own budget from its arrival, seconds; `rows` its leading dimension.
    """

    service: str = ""
    slo_class: str = ""
    latency_s: float | None = None
    rows: int = 1


class Arrival(NamedTuple):
    """One request: seconds from the start of the trace, and what it is."""

    at_s: float
    mark: Mark = Mark()


@dataclass(frozen=True, slots=True, eq=False)
class CountTrace:
    """Requests a second, by mark; every array has the shape (seconds,).

    `gaps` lists the seconds without data in the source; what the counts say there was the reader's choice.
    """

    by_mark: Mapping[Mark, Counts]
    gaps: tuple[int, ...] = ()

    @property
    def counts(self) -> Counts:
        """Requests of every mark together, shape (seconds,)."""
        total: Counts = np.sum(list(self.by_mark.values()), axis=0, dtype=np.int64)
        return total

    @property
    def seconds(self) -> int:
        """Length of the trace."""
        return len(next(iter(self.by_mark.values())))

    def slice(self, from_s: int, to_s: int) -> "CountTrace":
        """The seconds `[from_s, to_s)`; time starts at 0 again.

        Raises:
            TraceError: the slice is empty or leaves the trace.
        """
        _check_slice(from_s, to_s, self.seconds)
        by_mark = {mark: counts[from_s:to_s] for mark, counts in self.by_mark.items()}
        return CountTrace(by_mark, tuple(gap - from_s for gap in self.gaps if from_s <= gap < to_s))

    def scale(self, factor: float) -> "CountTrace":
        """Every count times `factor`; the total of each mark is kept to within one request.

        Raises:
            TraceError: the factor is not a positive number, or makes a second of more than `COUNT_MAX`.
        """
        _check_factor(factor, max(int(c.max(initial=0)) for c in self.by_mark.values()), "a second")
        return CountTrace(
            {mark: carry(c * np.float64(factor)) for mark, c in self.by_mark.items()}, self.gaps
        )

    def arrivals(self, rng: np.random.Generator) -> list[Arrival]:
        """Every request in order of time; marks draw in the order in which the trace names them."""
        drawn = [Arrival(t, m) for m, c in self.by_mark.items() for t in arrival_times(c, rng).tolist()]
        return sorted(drawn, key=lambda arrival: arrival.at_s) if len(self.by_mark) > 1 else drawn


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalTrace:
    """Requests with their exact times, ascending in `[0, seconds)`."""

    requests: tuple[Arrival, ...]
    seconds: int
    gaps: tuple[int, ...] = ()

    @property
    def counts(self) -> Counts:
        """Requests a second, shape (seconds,)."""
        starts = np.fromiter((floor(a.at_s) for a in self.requests), dtype=np.int64, count=len(self.requests))
        return np.bincount(starts, minlength=self.seconds).astype(np.int64)

    def slice(self, from_s: int, to_s: int) -> "ArrivalTrace":
        """The seconds `[from_s, to_s)`; time starts at 0 again.

        Raises:
            TraceError: the slice is empty or leaves the trace.
        """
        _check_slice(from_s, to_s, self.seconds)
        kept = (Arrival(a.at_s - from_s, a.mark) for a in self.requests if from_s <= a.at_s < to_s)
        return ArrivalTrace(tuple(kept), to_s - from_s)

    def scale(self, factor: float) -> "ArrivalTrace":
        """`factor` times as many requests: thinned evenly, or with copies spread until the next arrival.

        Raises:
            TraceError: the factor is not a positive number, or makes more than `COUNT_MAX` arrivals.
        """
        _check_factor(factor, len(self.requests), "with exact times")
        ends = [a.at_s for a in self.requests[1:]]
        ends += [float(floor(self.requests[-1].at_s) + 1)] if self.requests else []
        copies = carry(np.full(len(self.requests), factor))
        scaled = (
            Arrival(a.at_s + (end_s - a.at_s) * i / n, a.mark)
            for a, end_s, n in zip(self.requests, ends, copies.tolist(), strict=True)
            for i in range(n)
        )
        return ArrivalTrace(tuple(scaled), self.seconds)

    def arrivals(self, rng: np.random.Generator) -> list[Arrival]:
        """Every request in order of time; nothing is drawn, the times are known."""
        del rng
        return list(self.requests)


Trace = CountTrace | ArrivalTrace


def count_trace(counts: Sequence[int] | Counts) -> CountTrace:
    """A trace of one kind of request from its counts a second.

    Raises:
        TraceError: there are none, or one is negative.
    """
    array = np.asarray(counts, dtype=np.int64)
    if array.ndim != 1 or array.size == 0:
        raise TraceError("a trace needs at least one second")
    if array.min() < 0:
        second = int(np.argmax(array < 0))
        raise TraceError(f"second {second}: want a count of 0 or more, got {array[second]}")
    return CountTrace({Mark(): array})


def arrival_trace(requests: Sequence[Arrival]) -> ArrivalTrace:
    """A trace from exact arrivals in any order, as long as whole seconds that hold them all.

    Raises:
        TraceError: there are none, or a time is negative or beyond `SECONDS_MAX`.
    """
    if not requests:
        raise TraceError("a trace needs at least one arrival")
    ordered = tuple(sorted(requests, key=lambda arrival: arrival.at_s))
    for arrival in (ordered[0], ordered[-1]):
        if not 0 <= arrival.at_s < SECONDS_MAX:
            raise TraceError(f"want arrival times in [0, {SECONDS_MAX}) seconds, got {arrival.at_s:g}")
    return ArrivalTrace(ordered, floor(ordered[-1].at_s) + 1)


def carry(amounts: NDArray[np.floating]) -> Counts:
    """Whole numbers whose running total stays within one of that of `amounts` and ends at its floor.

    The tiny allowance makes ten times 0.1 a whole request in spite of binary fractions.
    """
    totals = np.floor(np.cumsum(amounts) + 1e-9).astype(np.int64)
    return np.diff(totals, prepend=np.int64(0))


def arrival_times(counts: Counts, rng: np.random.Generator) -> Times:
    """Ascending times for counts a second: Poisson within each second, conditioned on its count.

    Given its number of points, a homogeneous Poisson process on an interval is that many sorted uniforms
    (Ross, Stochastic Processes, 2nd ed., theorem 2.3.1).
    """
    starts = np.repeat(np.arange(len(counts), dtype=np.float64), counts)
    return np.sort(starts + rng.random(len(starts)))


def poisson_times(rate_rps: float, seconds: float, rng: np.random.Generator) -> Times:
    """Ascending times of a Poisson process of `rate_rps` on `[0, seconds)`; its count is random too.

    Raises:
        TraceError: rate or duration is not a positive number.
    """
    for name, value in (("rate", rate_rps), ("seconds", seconds)):
        if not (isfinite(value) and value > 0):
            raise TraceError(f"{name}: want a positive number, got {value:g}")
    if seconds > SECONDS_MAX:
        raise TraceError(f"seconds: want at most {SECONDS_MAX}, got {seconds:g}")
    return np.sort(rng.random(int(rng.poisson(rate_rps * seconds))) * seconds)


def _check_slice(from_s: int, to_s: int, seconds: int) -> None:
    if not 0 <= from_s < to_s <= seconds:
        raise TraceError(f"want a slice A:B with 0 <= A < B <= {seconds}, got {from_s}:{to_s}")


def _check_factor(factor: float, largest: int, what: str) -> None:
    if not (isfinite(factor) and factor > 0):
        raise TraceError(f"want a positive scale, got {factor:g}")
    if largest * factor > COUNT_MAX:
        raise TraceError(f"want at most {COUNT_MAX} requests {what}, {largest} times {factor:g} is more")
