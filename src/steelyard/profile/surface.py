"""Service time of one variant and shape bucket over rows and cores, from measured points.

What was measured is returned as it is, but never falling in rows (a larger batch cannot be planned as
faster). In between and beyond:

* rows between two measured ones: a power law through both (straight in log rows and log time);
* whole cores between two measured ones: straight in 1 / cores (Amdahl);
* parts of a core: straight in speed (1 / time), speed 0 at no cores; so 0.5 cores take twice as long as 1. A
  quota stalls the batch once a period: up to `QUOTA_PERIOD_S` (1 - c / ceil(c)) more, which the p99 includes;
* beyond the table: the shape of the fit, attached to the table's edge; the p99 then carries the fit's
  residual.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil, exp, floor, isfinite, log
from typing import Literal, NamedTuple

from steelyard.core.errors import ProfileError
from steelyard.profile.fit import FitPoint, LatencyFit, fit

QUOTA_PERIOD_S = 0.010
"""Period of the CPU quota that enforces parts of a core (docs/adr/0003)."""

_COLUMNS_MAX = 1024


class Point(NamedTuple):
    """One measured operating point, seconds."""

    rows: int
    cores: float
    p50_s: float
    p99_s: float


class _Column(NamedTuple):
    """Times at the surface's row knots, for one core count; `margin` >= 1 multiplies the p99 of a guess."""

    p50_s: tuple[float, ...]
    p99_s: tuple[float, ...]
    margin: float = 1.0


class Surface:
    """Service times over (rows, cores).

    Args:
        points: measured ones, in any order, at least one.

    Raises:
        ProfileError: no points, a point twice, or one that is not positive, finite and p50 <= p99.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        known = _by_place(points)
        self.fit: LatencyFit = fit([FitPoint(p.rows, p.cores, p.p50_s) for p in points])
        self._rows = sorted({point.rows for point in points})
        self._cores = sorted({point.cores for point in points})
        self._columns = {cores: self._measured_column(known, cores) for cores in self._cores}
        self._margin = max(1.0, self.fit.residual_ratio)

    def p50_s(self, rows: int, cores: float) -> float:
        """Median seconds of a batch; non-falling in `rows`."""
        return self._along_rows(0, rows, cores)

    def p99_s(self, rows: int, cores: float) -> float:
        """0.99 quantile of the same; never below the median, non-falling in `rows`."""
        column = self._column(cores)
        time_s = self._along_rows(1, rows, cores) * column.margin
        if rows > self._rows[-1] and column.margin == 1.0:
            time_s *= self._margin
        stall_s = 0.0 if cores in self._cores else QUOTA_PERIOD_S * (1 - cores / ceil(cores))
        return time_s + stall_s

    def extrapolates(self, rows: int, cores: float) -> bool:
        """Whether the answer lies beyond what was measured, in rows or in (whole) cores."""
        lowest, highest = (floor(cores) or 1, ceil(cores)) if cores not in self._cores else (cores, cores)
        inside_cores = self._cores[0] <= lowest and highest <= self._cores[-1]
        return not (inside_cores and self._rows[0] <= rows <= self._rows[-1])

    def _column(self, cores: float) -> _Column:
        column = self._columns.get(cores)
        if column is None:
            if not (isfinite(cores) and cores > 0):
                raise ProfileError(f"no service time on {cores} cores")
            if len(self._columns) >= _COLUMNS_MAX:
                self._columns = {known: self._columns[known] for known in self._cores}
            make = self._whole_column if cores == floor(cores) else self._fractional_column
            column = self._columns[cores] = make(cores)
        return column

    def _measured_column(self, known: dict[tuple[int, float], Point], cores: float) -> _Column:
        """Measured points of one core count; holes take the fit's shape from the nearest row that has one."""
        measured = [rows for rows in self._rows if (rows, cores) in known]
        p50_s, p99_s = [], []
        for rows in self._rows:
            nearest = known[min(measured, key=lambda other: abs(log(other / rows))), cores]
            scale = self.fit.time_s(rows, cores) / self.fit.time_s(nearest.rows, cores)
            p50_s.append(nearest.p50_s * scale)
            p99_s.append(nearest.p99_s * scale)
        return _Column(_rising(p50_s), _rising(p99_s))

    def _whole_column(self, cores: float) -> _Column:
        at = bisect_left(self._cores, cores)
        if 0 < at < len(self._cores):
            low, high = self._cores[at - 1], self._cores[at]
            weight = (1 / low - 1 / cores) / (1 / low - 1 / high)
            return _mix(self._columns[low], self._columns[high], lambda a, b: a + (b - a) * weight)
        edge = self._cores[0] if at == 0 else self._cores[-1]
        scales = [self.fit.time_s(rows, cores) / self.fit.time_s(rows, edge) for rows in self._rows]
        p50_s, p99_s = (
            _rising([time_s * scale for time_s, scale in zip(times_s, scales, strict=True)])
            for times_s in self._columns[edge][:2]
        )
        return _Column(p50_s, p99_s, self._margin)

    def _fractional_column(self, cores: float) -> _Column:
        low, high, weight = self._neighbours(cores)
        above = self._column(high)
        if low == 0:
            return _mix(above, above, lambda time_s, _: time_s / weight)
        return _mix(self._column(low), above, lambda a, b: 1 / ((1 - weight) / a + weight / b))

    def _neighbours(self, cores: float) -> tuple[float, float, float]:
        """Whole or measured numbers of cores around a part of one, and the weight of the upper."""
        low = max([float(floor(cores)), *(known for known in self._cores if known < cores)])
        high = min([float(ceil(cores)), *(known for known in self._cores if known > cores)])
        return low, high, (cores - low) / (high - low)

    def _along_rows(self, which: Literal[0, 1], rows: int, cores: float) -> float:
        """Time of a batch by a column's p50 (0) or p99 (1)."""
        times_s = self._column(cores)[which]
        at = bisect_left(self._rows, rows)
        if at < len(self._rows) and self._rows[at] == rows:
            return times_s[at]
        if 0 < at < len(self._rows):
            low, high = self._rows[at - 1], self._rows[at]
            weight = log(rows / low) / log(high / low)
            return exp(log(times_s[at - 1]) * (1 - weight) + log(times_s[at]) * weight)
        if cores != floor(cores) and cores not in self._cores:
            fewer, more, part = self._neighbours(cores)
            speed = part / self._along_rows(which, rows, more)
            return 1 / (speed + ((1 - part) / self._along_rows(which, rows, fewer) if fewer else 0.0))
        edge = 0 if at == 0 else -1
        return times_s[edge] * self.fit.time_s(rows, cores) / self.fit.time_s(self._rows[edge], cores)


def _by_place(points: Sequence[Point]) -> dict[tuple[int, float], Point]:
    if not points:
        raise ProfileError("a profile without a measured point")
    known: dict[tuple[int, float], Point] = {}
    for point in points:
        sound = point.rows >= 1 and 0 < point.cores < float("inf")
        if not (sound and 0 < point.p50_s <= point.p99_s and isfinite(point.p99_s)):
            raise ProfileError(f"want rows >= 1, cores > 0 and 0 < p50 <= p99, all finite; got {point}")
        if (point.rows, point.cores) in known:
            raise ProfileError(f"{point.rows} rows on {point.cores:g} cores are in the profile twice")
        known[point.rows, point.cores] = point
    return known


def _rising(times_s: Sequence[float]) -> tuple[float, ...]:
    return tuple(accumulate(times_s, max))


def _mix(low: _Column, high: _Column, mix: Callable[[float, float], float]) -> _Column:
    p50_s, p99_s = (tuple(map(mix, *pair)) for pair in zip(low[:2], high[:2], strict=True))
    return _Column(p50_s, p99_s, max(low.margin, high.margin))
