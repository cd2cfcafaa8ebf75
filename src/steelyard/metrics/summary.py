"""Accounting and latency quantiles of one service: the same sums live, in reports and in simulations.

Rules of this file:
- Accounting is exact: `requests = completed + shed + rejected + failed + cancelled`, late requests are part
  of the completed ones, `violations = late + shed + rejected + failed`, and the violation ratio is over
  requests that were not cancelled (docs/glossary.md).
- Quantiles come from counts in logarithmic buckets (a plain form of HdrHistogram), so memory is bounded and
  sums of histograms are histograms. A quantile is at most `RESOLUTION` too high and never too low; the
  maximum is exact.
"""

import math
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from itertools import repeat
from typing import Literal

import numpy as np

from steelyard.core.types import Frozen
from steelyard.metrics.names import BUCKETS_S
from steelyard.metrics.sums import AccuracyMean

Outcome = Literal["completed", "shed", "rejected", "failed", "cancelled"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "shed", "rejected", "failed", "cancelled")

RESOLUTION = 0.01
SHORTEST_S, LONGEST_S = 1e-5, 1e4
_STEP = math.log1p(RESOLUTION)
_BUCKETS = math.ceil(math.log(LONGEST_S / SHORTEST_S) / _STEP) + 1


class Counts:
    """Ends of requests by outcome."""

    __slots__ = ("cancelled", "completed", "failed", "late", "rejected", "rows", "shed")

    def __init__(self) -> None:
        self.completed = self.shed = self.rejected = self.failed = self.cancelled = 0
        self.late = 0
        self.rows = 0

    def add(self, outcome: Outcome, *, count: int = 1, late: int = 0, rows: int = 1) -> None:
        """Count ends; `late` of them were, and all together had `rows`."""
        assert not late or outcome == "completed"
        setattr(self, outcome, getattr(self, outcome) + count)
        self.late += late
        self.rows += rows

    @property
    def requests(self) -> int:
        """All that ended."""
        return self.completed + self.shed + self.rejected + self.failed + self.cancelled

    @property
    def violations(self) -> int:
        """Requests that did not get what the SLO promises."""
        return self.late + self.shed + self.rejected + self.failed

    @property
    def violation_ratio(self) -> float:
        """Violations over requests that were not cancelled; 0 without any."""
        counted = self.requests - self.cancelled
        return self.violations / counted if counted else 0.0

    def as_dict(self) -> dict[str, int]:
        """The words of the accounting, for reports."""
        names = ("requests", "completed", "late", "shed", "rejected", "failed", "cancelled", "violations")
        return {name: getattr(self, name) for name in names}


class LatencyHistogram:
    """Latencies in logarithmic buckets from 10 us to 10,000 s; what lies outside counts in the outermost."""

    __slots__ = ("bucket_counts", "count", "max_s")

    def __init__(self) -> None:
        self.bucket_counts = array("q", bytes(8 * _BUCKETS))  # one is counted three times as fast as by numpy
        self.count = 0
        self.max_s = 0.0

    def add(self, latencies_s: Sequence[float]) -> None:
        """Count latencies, seconds >= 0."""
        self.add_at(_buckets(latencies_s), latencies_s)

    def add_at(self, indices: Sequence[int], latencies_s: Sequence[float]) -> None:
        """Count latencies, whose buckets are known."""
        counts = self.bucket_counts
        for index, count in Counter(indices).items():
            counts[index] += count
        self.count += len(indices)
        self.max_s = max(self.max_s, max(latencies_s, default=0.0))

    def merge(self, other: "LatencyHistogram") -> None:
        """Add all of another's counts."""
        counts = np.frombuffer(self.bucket_counts, dtype=np.int64)
        counts += np.frombuffer(other.bucket_counts, dtype=np.int64)
        self.count += other.count
        self.max_s = max(self.max_s, other.max_s)

    def quantile_s(self, quantile: float) -> float | None:
        """Smallest bucket bound with at least `quantile` of the counts up to it; None without counts."""
        if not self.count:
            return None
        rank = max(1, math.ceil(quantile * self.count))
        index = int(np.searchsorted(np.cumsum(np.frombuffer(self.bucket_counts, dtype=np.int64)), rank))
        return min(SHORTEST_S * math.exp(index * _STEP), self.max_s)


def _buckets(latencies_s: Sequence[float]) -> list[int]:
    """Indices i of the buckets with bounds (SHORTEST_S·(1+r)^(i-1), SHORTEST_S·(1+r)^i]."""
    ratios = np.maximum(np.array(latencies_s) / SHORTEST_S, 1.0)
    indices: list[int] = np.ceil(np.log(ratios) / _STEP - 1e-9).clip(0, _BUCKETS - 1).astype(int).tolist()
    return indices


class FixedHistogram:
    """Counts below the given bounds, and the sum: what Prometheus takes."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float] = BUCKETS_S) -> None:
        self.bounds_s = tuple(bounds_s)
        self.counts = [0] * (len(bounds_s) + 1)
        """Per bucket, not cumulated; the last is above all bounds."""
        self.sum_s = 0.0

    def add(self, values_s: Sequence[float]) -> None:
        """Count values, in the unit of the bounds: seconds, unless they are others."""
        for index, count in Counter(map(bisect_left, repeat(self.bounds_s), values_s)).items():
            self.counts[index] += count
        self.sum_s = sum(values_s, self.sum_s)


RATE_SPAN_S_MIN = 1.0
"""Rates are of this many seconds at least: one request, seen at once, is not thousands a second."""


class View(Frozen, frozen=True):
    """The last seconds of a service; latencies of completed requests, None where none completed.

    `accuracy` is the mean of what was estimated for them, None also where one is not known.
    """

    span_s: float
    count: int
    rate_rps: float
    goodput_rps: float
    violations: int
    violation_ratio: float
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    max_s: float | None
    accuracy: float | None = None


class _Slice:
    """What ended in one slice of the sliding window."""

    __slots__ = ("accuracy", "counts", "index", "latency")

    def __init__(self, index: int) -> None:
        self.index = index
        self.counts = Counts()
        self.accuracy = AccuracyMean()
        self.latency = LatencyHistogram()


class ServiceSummary:
    """Everything about one service's ended requests: since the start, and over a sliding window.

    The window moves by slices, so it spans between `window_s - slice_s` and `window_s` seconds. Memory: a
    histogram of 17 KB a slice.

    Args:
        window_s: span of the sliding window.
        slice_s: its grain.
    """

    def __init__(self, *, window_s: float = 10.0, slice_s: float = 1.0) -> None:
        assert 0 < slice_s <= window_s
        self.counts = Counts()
        self.accuracy = AccuracyMean()
        self.latency = LatencyHistogram()
        self._slice_s = slice_s
        self._slices: deque[_Slice] = deque(maxlen=round(window_s / slice_s))
        self._started_s: float | None = None

    def observe(self, outcome: Outcome, *, now_s: float, rows: int = 1) -> None:
        """Count the end of a request that was not completed. Times never go back."""
        current = self._slice(now_s)
        for counts in (self.counts, current.counts):
            counts.add(outcome, rows=rows)

    def observe_completed(
        self,
        latencies_s: Sequence[float],
        accuracies: Sequence[float | None],
        *,
        now_s: float,
        late: int = 0,
        rows: int | None = None,
    ) -> None:
        """Count completed requests, at least one; all ended in the slice of `now_s`. Times never go back.

        Args:
            latencies_s: of each of them.
            accuracies: of each of them, estimated; None where nobody knows it.
            now_s: when they ended.
            late: how many were.
            rows: of all together; None: one each.
        """
        current = self._slice(now_s)
        indices, count = _buckets(latencies_s), len(latencies_s)
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        for counts, latency, accuracy in (
            (self.counts, self.latency, self.accuracy),
            (current.counts, current.latency, current.accuracy),
        ):
            counts.add("completed", count=count, late=late, rows=count if rows is None else rows)
            latency.add_at(indices, latencies_s)
            accuracy.add_all(known, unknown=count - len(known))

    def slice_end_s(self, now_s: float) -> float:
        """When the slice that `now_s` lies in ends."""
        return (math.floor(now_s / self._slice_s) + 1) * self._slice_s

    def view(self, *, now_s: float) -> View:
        """The sliding window as it is at `now_s`."""
        self._slice(now_s)
        total, latency, accuracy = Counts(), LatencyHistogram(), AccuracyMean()
        completed_in_time = 0
        for piece in self._slices:
            for outcome in OUTCOMES:
                setattr(total, outcome, getattr(total, outcome) + getattr(piece.counts, outcome))
            total.late += piece.counts.late
            completed_in_time += piece.counts.completed - piece.counts.late
            latency.merge(piece.latency)
            accuracy.merge(piece.accuracy)
        assert self._started_s is not None
        oldest_s = max(self._slices[0].index * self._slice_s, self._started_s)
        span_s = max(now_s - oldest_s, 0.0)
        rate_span_s = max(span_s, RATE_SPAN_S_MIN)
        return View(
            span_s=span_s,
            count=total.requests,
            rate_rps=total.requests / rate_span_s,
            goodput_rps=completed_in_time / rate_span_s,
            violations=total.violations,
            violation_ratio=total.violation_ratio,
            p50_s=latency.quantile_s(0.5),
            p90_s=latency.quantile_s(0.9),
            p99_s=latency.quantile_s(0.99),
            max_s=latency.max_s if latency.count else None,
            accuracy=accuracy.mean,
        )

    def _slice(self, now_s: float) -> _Slice:
        """The slice of `now_s`, opened if need be; slices that fell out of the window go."""
        if self._started_s is None:
            self._started_s = now_s
        index = math.floor(now_s / self._slice_s)
        if not self._slices or index > self._slices[-1].index:
            self._slices.append(_Slice(index))
            oldest = index - (self._slices.maxlen or 1)
            while self._slices[0].index <= oldest:
                self._slices.popleft()
        return self._slices[-1]
