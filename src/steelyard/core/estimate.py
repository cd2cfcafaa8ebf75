"""How long a batch will take now: the profile's median times the live correction.

Both the profile's answers and what follows from them (which batch sizes are worth while) are kept, since they
are asked several times for each request.
"""

from steelyard.core.residuals import Residuals
from steelyard.core.types import ServiceTimes, Stage

SERVICE_S_MIN = 1e-6
"""Shorter batches than this are taken as this long: rates stay finite."""

GAIN_MIN = 1.02
"""By what factor a larger batch must do better: profiles are measured, and differ by a percent by chance."""

CACHE_MAX = 8192
"""Operating points remembered; fractional cores could otherwise make ever new ones."""


class _Point:
    """An operating point: its profiled time, and the corrected one as of some version of the corrections."""

    __slots__ = ("profiled_s", "service_s", "version")

    def __init__(self, profiled_s: float) -> None:
        self.profiled_s = profiled_s
        self.service_s = profiled_s
        self.version = -1


class Estimator:
    """Service times of one stage as of now.

    Args:
        stage: for the row limits of its variants.
        times: its profile.
    """

    def __init__(self, stage: Stage, times: ServiceTimes) -> None:
        self._times = times
        self._rows_max = {variant.name: variant.batch_rows_max for variant in stage.variants}
        self._cores_max = {variant.name: variant.cores_max for variant in stage.variants}
        self._points: dict[tuple[str, int, int, float], _Point] = {}
        self._sizes: dict[tuple[str, int, float, int], tuple[int, ...]] = {}
        self._batch_rows_max = dict(self._rows_max)
        self._batch_rows_max_else = 1
        self.residuals = Residuals()

    def adopt(self, batch_rows_max: int, by_variant: dict[str, int]) -> None:
        """Another plan's limits of rows hold, of all variants but those that have their own."""
        self._batch_rows_max = {
            name: min(own, by_variant.get(name, batch_rows_max)) for name, own in self._rows_max.items()
        }
        self._batch_rows_max_else = batch_rows_max

    def batch_rows_max(self, variant: str) -> int:
        """Rows that one batch may have now: the plan's limit or the model's own, whichever is less."""
        return self._batch_rows_max.get(variant, self._batch_rows_max_else)

    def service_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds that a batch is expected to take; at least `SERVICE_S_MIN` before the correction."""
        point = self._points.get((variant, bucket, rows, cores))
        if point is None:
            point = self._measure(variant, bucket, rows, cores)
        if point.version != self.residuals.version:
            point.version = self.residuals.version
            point.service_s = point.profiled_s * self.residuals.ratio(variant, rows, cores)
        return point.service_s

    def margin_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds between the expected time and the 0.99 quantile."""
        tail_s = self._times.service_time_s_p99(variant, bucket, rows, cores)
        spread_s = max(tail_s - self._profiled_s(variant, bucket, rows, cores), 0.0)
        return spread_s * self.residuals.ratio(variant, rows, cores)

    def sizes(self, variant: str, bucket: int, cores: float, rows_max: int) -> tuple[int, ...]:
        """Batch sizes worth choosing under backlog, ascending; the last has the highest throughput.

        A size belongs to them if it finishes more rows a second than the next smaller one, by `GAIN_MIN` at
        least: a smaller batch that does as well answers sooner and fits closer deadlines. Taken from the
        profile alone, so that they stay the same between batches.
        """
        key = (variant, bucket, cores, rows_max)
        sizes = self._sizes.get(key)
        if sizes is None:
            records: list[int] = []
            best = 0.0
            for rows in range(1, rows_max + 1):
                rate = rows / self._profiled_s(variant, bucket, rows, cores)
                if rate > best * GAIN_MIN:
                    best = rate
                    records.append(rows)
            if len(self._sizes) >= CACHE_MAX:
                self._sizes.clear()
            sizes = self._sizes[key] = tuple(records)
        return sizes

    def rows_max(self, variant: str, planned: int) -> int:
        """The lesser of `planned` rows and the model's own limit."""
        own = self._rows_max.get(variant)
        return planned if own is None or planned < own else own

    def cores_usable(self, variant: str, cores: float, further: float) -> float:
        """Cores of a replica that has `cores` and could get `further` ones, up to what the variant uses."""
        return max(cores, min(cores + further, float(self._cores_max.get(variant, cores))))

    def observe(
        self, variant: str, bucket: int, rows: int, cores: float, observed_s: float, *, now_s: float
    ) -> None:
        """Learn from a batch that took `observed_s`."""
        ratio = observed_s / self._profiled_s(variant, bucket, rows, cores)
        self.residuals.observe(variant, rows, cores, ratio, now_s=now_s)

    def _profiled_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        point = self._points.get((variant, bucket, rows, cores))
        return (point or self._measure(variant, bucket, rows, cores)).profiled_s

    def _measure(self, variant: str, bucket: int, rows: int, cores: float) -> _Point:
        """Ask the profile, and remember its answer."""
        if len(self._points) >= CACHE_MAX:
            self._points.clear()
        profiled_s = max(self._times.service_time_s(variant, bucket, rows, cores), SERVICE_S_MIN)
        point = self._points[variant, bucket, rows, cores] = _Point(profiled_s)
        return point
