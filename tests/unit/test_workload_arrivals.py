"""Arrivals in chunks: all of them, in order, the same as drawn at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.workload.arrivals import ARRIVALS_PER_CHUNK, Arrivals
from steelyard.workload.trace import Arrival, CountTrace, Mark, arrival_times, arrival_trace, count_trace


def test_one_mark_draws_as_all_at_once() -> None:
    trace = count_trace([ARRIVALS_PER_CHUNK // 2] * 5)
    chunks = list(Arrivals(trace).chunks(np.random.default_rng(1)))
    at_once = arrival_times(trace.counts, np.random.default_rng(1))
    assert [len(chunk.times_s) for chunk in chunks] == [8192, 8192, 4096]
    assert np.concatenate([chunk.times_s for chunk in chunks]) == pytest.approx(at_once, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12))
def test_every_second_has_its_counts_of_each_mark(pairs: list[tuple[int, int]]) -> None:
    marks = (Mark(), Mark(rows=3))
    counts = np.array(pairs, dtype=np.int64).T
    arrivals = Arrivals(CountTrace(dict(zip(marks, counts, strict=True))))
    chunks = list(arrivals.chunks(np.random.default_rng(2)))
    times_s = np.concatenate([np.array([])] + [chunk.times_s for chunk in chunks])
    kinds = np.concatenate([np.array([], dtype=np.int64)] + [chunk.marks for chunk in chunks])
    assert (np.diff(times_s) >= 0).all()
    for index in range(2):
        seconds = times_s[kinds == index].astype(np.int64)
        assert np.bincount(seconds, minlength=len(pairs)).tolist() == counts[index].tolist()
    assert arrivals.rows_by_second().tolist() == (counts[0] + 3 * counts[1]).tolist()


def test_silence_has_no_chunks() -> None:
    assert list(Arrivals(count_trace([0] * 100_000)).chunks(np.random.default_rng(0))) == []


def test_known_times_are_kept() -> None:
    big = Mark(rows=4)
    trace = arrival_trace([Arrival(0.25), Arrival(1.5, big), Arrival(1.75)])
    (chunk,) = Arrivals(trace).chunks(np.random.default_rng(0))
    assert chunk.times_s.tolist() == [0.25, 1.5, 1.75]
    assert [Arrivals(trace).marks[index] for index in chunk.marks] == [Mark(), big, Mark()]
    assert Arrivals(trace).rows_by_second().tolist() == [1, 5]


def test_chunks_of_known_times_follow_each_other() -> None:
    times_s = np.linspace(0.0, 9.9, 20_000)
    trace = arrival_trace([Arrival(float(time_s)) for time_s in times_s])
    chunks = list(Arrivals(trace).chunks(np.random.default_rng(0)))
    assert len(chunks) == 3
    assert np.concatenate([chunk.times_s for chunk in chunks]).tolist() == times_s.tolist()
