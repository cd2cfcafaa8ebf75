"""Runs over time as the charts draw them: one line a label, the mean of its seeds, of bounded length.

A second in which nothing is known (no request completed) stays empty. A trace of more than `POINTS_MAX`
seconds is drawn in steps of several: rates, cores, replicas and violations are the step's mean, latency is
its worst second.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.metrics.runs import RunSeries

POINTS_MAX = 1500

Values = list[float | None]
_Array = NDArray[np.float64]


class Course(NamedTuple):
    """The runs of one label on one service; the lists have one entry every `step_s` seconds.

    Attributes:
        label: what they are called on the page.
        service: which they were of.
        slo_ms: the latency bound.
        seeds: how many runs there are.
        violations: a second.
        accuracy: of what was answered; empty if nothing is known of it.
    """

    label: str
    service: str
    slo_ms: float
    seeds: int
    step_s: int
    rate_rps: Values
    p99_ms: Values
    cores: Values
    replicas: Values
    violations: Values
    accuracy: Values


def courses(runs: Sequence[RunSeries]) -> list[Course]:
    """The courses of all (service, label), in the order in which they first appear."""
    groups: dict[tuple[str, str], list[RunSeries]] = {}
    for run in runs:
        groups.setdefault((run.summary.service, run.label), []).append(run)
    longest = max((len(run.rate_rps) for run in runs), default=0)
    step_s = max(1, ceil(longest / POINTS_MAX))
    return [_course(label, service, group, step_s) for (service, label), group in groups.items()]


def _course(label: str, service: str, runs: Sequence[RunSeries], step_s: int) -> Course:
    known = [run.accuracy for run in runs if run.accuracy]
    return Course(
        label=label,
        service=service,
        slo_ms=runs[0].slo_ms,
        seeds=len(runs),
        step_s=step_s,
        rate_rps=_drawn([run.rate_rps for run in runs], step_s, _mean),
        p99_ms=_drawn([run.p99_ms for run in runs], step_s, _worst),
        cores=_drawn([run.cores for run in runs], step_s, _mean),
        replicas=_drawn([run.replicas for run in runs], step_s, _mean),
        violations=_drawn([run.violations for run in runs], step_s, _mean),
        accuracy=_drawn(known, step_s, _mean) if known else [],
    )


def _drawn(rows: Sequence[Sequence[float | None]], step_s: int, within: Callable[[_Array], _Array]) -> Values:
    """Steps of seconds by `within`, then the mean of the rows; None where no row knows anything."""
    steps = ceil(max(map(len, rows)) / step_s)
    table = np.full((len(rows), steps * step_s), np.nan)
    for index, row in enumerate(rows):
        table[index, : len(row)] = np.array(row, dtype=np.float64)
    drawn = _mean(within(table.reshape(len(rows), steps, step_s)).T)
    return [None if np.isnan(value) else round(float(value), 3) for value in drawn]


def _mean(values: _Array) -> _Array:
    """Over the last axis, of what is known."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    count = known.sum(axis=-1)
    mean: _Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _worst(values: _Array) -> _Array:
    """Over the last axis; NaN where nothing is known."""
    worst: _Array = np.fmax.reduce(values, axis=-1)
    return worst
