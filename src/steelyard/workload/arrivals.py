"""Arrivals of a trace a few seconds at a time, so that a long trace need not be in memory as requests.

Within a second, arrivals are a Poisson process conditioned on its count, as in `trace.arrival_times`; for a
trace of one mark the times are even the same ones, draw by draw.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.workload.trace import ArrivalTrace, Counts, CountTrace, Mark, Times, Trace, arrival_times

ARRIVALS_PER_CHUNK = 8192
"""Arrivals that a chunk aims at; a single second may have more."""


class Chunk(NamedTuple):
    """Some arrivals that follow each other.

    Attributes:
        times_s: ascending, shape (arrivals,).
        marks: what each of them is: indices into `Arrivals.marks`, shape (arrivals,).
    """

    times_s: Times
    marks: NDArray[np.int64]


class Arrivals:
    """A trace, to be read in chunks.

    Args:
        trace: of one service.

    Attributes:
        marks: the kinds of request there are.
        seconds: length of the trace.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.seconds = trace.seconds
        self.marks: tuple[Mark, ...]
        if isinstance(trace, CountTrace):
            self.marks = tuple(trace.by_mark)
        else:
            self.marks = tuple(dict.fromkeys(arrival.mark for arrival in trace.requests))

    def chunks(self, rng: np.random.Generator) -> Iterator[Chunk]:
        """All arrivals in the order of time; none of the chunks is empty."""
        trace = self._trace
        return _drawn(trace, rng) if isinstance(trace, CountTrace) else self._known(trace)

    def rows_by_second(self) -> Counts:
        """Rows that arrive in each second, shape (seconds,)."""
        trace = self._trace
        if isinstance(trace, CountTrace):
            rows = [counts * mark.rows for mark, counts in trace.by_mark.items()]
            total: Counts = np.sum(rows, axis=0, dtype=np.int64)
            return total
        total = np.zeros(trace.seconds, dtype=np.int64)
        for arrival in trace.requests:
            total[int(arrival.at_s)] += arrival.mark.rows
        return total

    def _known(self, trace: ArrivalTrace) -> Iterator[Chunk]:
        index_of = {mark: index for index, mark in enumerate(self.marks)}
        for start in range(0, len(trace.requests), ARRIVALS_PER_CHUNK):
            part = trace.requests[start : start + ARRIVALS_PER_CHUNK]
            times_s = np.array([arrival.at_s for arrival in part])
            yield Chunk(times_s, np.array([index_of[arrival.mark] for arrival in part]))


def _drawn(trace: CountTrace, rng: np.random.Generator) -> Iterator[Chunk]:
    by_mark = list(trace.by_mark.values())
    for from_s, to_s in _spans(trace.counts):
        drawn = [from_s + arrival_times(counts[from_s:to_s], rng) for counts in by_mark]
        marks = np.repeat(np.arange(len(drawn)), [len(times_s) for times_s in drawn])
        times_s = np.concatenate(drawn)
        if not len(times_s):
            continue
        if len(drawn) > 1:
            order = np.argsort(times_s, kind="stable")
            times_s, marks = times_s[order], marks[order]
        yield Chunk(times_s, marks)


def _spans(counts: Counts) -> Iterator[tuple[int, int]]:
    """Whole seconds `[from_s, to_s)` of about `ARRIVALS_PER_CHUNK` arrivals each."""
    totals = np.cumsum(counts)
    from_s, done = 0, 0
    while from_s < len(counts):
        to_s = max(from_s + 1, int(np.searchsorted(totals, done + ARRIVALS_PER_CHUNK, side="right")))
        yield from_s, to_s
        from_s, done = to_s, int(totals[to_s - 1])
