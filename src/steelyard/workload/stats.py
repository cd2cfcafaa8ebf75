"""Describe a trace in a few numbers."""

import numpy as np

from steelyard.core.types import Frozen
from steelyard.workload.trace import Trace


class TraceStats(Frozen, frozen=True):
    """What `steelyard trace info` prints.

    Attributes:
        seconds: length of the trace.
        requests: in all.
        mean_rps: requests over seconds.
        p99_rps: the 0.99 quantile of the counts a second.
        max_rps: the largest count of one second.
        peak_ratio: max over mean; 0 for a trace without requests.
        dispersion: variance of the counts over their mean (Fano factor): 1 for a steady Poisson process,
            more for bursts and trends, less for anything more regular; 0 for a trace without requests.
        silent_seconds: seconds without a request.
        gaps: seconds for which the source had no data.
    """

    seconds: int
    requests: int
    mean_rps: float
    p99_rps: float
    max_rps: int
    peak_ratio: float
    dispersion: float
    silent_seconds: int
    gaps: int


def describe(trace: Trace) -> TraceStats:
    """Compute the statistics of a trace; O(seconds + requests)."""
    counts = trace.counts
    mean = float(counts.mean())
    return TraceStats(
        seconds=trace.seconds,
        requests=int(counts.sum()),
        mean_rps=mean,
        p99_rps=float(np.quantile(counts, 0.99)),
        max_rps=int(counts.max()),
        peak_ratio=float(counts.max()) / mean if mean else 0.0,
        dispersion=float(counts.var()) / mean if mean else 0.0,
        silent_seconds=int(np.count_nonzero(counts == 0)),
        gaps=len(trace.gaps),
    )
