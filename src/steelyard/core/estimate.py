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

LINES_MAX = 1024
"""Lines remembered; fractional cores could otherwise make ever new ones."""


class Line:
    """One variant on so many cores, for one shape of rows: times by rows.

    Whoever asks again and again keeps the line, until another plan holds: corrections reach it.

    Attributes:
        rows_max: rows that one batch may have now: the plan's limit or the model's own, whichever is less.
    """

    __slots__ = (
        "_bucket", "_cores", "_profiled_s", "_residuals", "_rows_best", "_service_s", "_sizes", "_times",
        "_version", "rows_max", "variant",
    )  # fmt: skip

    def __init__(
        self,
        times: ServiceTimes,
        residuals: Residuals,
        variant: str,
        bucket: int,
        cores: float,
        *,
        rows_max: int,
    ) -> None:
        self._times = times
        self._residuals = residuals
        self.variant = variant
        self._bucket = bucket
        self._cores = cores
        self._profiled_s: dict[int, float] = {}
        self._service_s: dict[int, float] = {}
        self._version = residuals.version
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._rows_best = 0
        self.rows_max = rows_max

    @property
    def rows_best(self) -> int:
        """The batch size of most rows a second, of those that are allowed now."""
        if not self._rows_best:
            self._rows_best = self.sizes(self.rows_max)[-1]
        return self._rows_best

    def limit(self, rows_max: int) -> None:
        """Another plan holds."""
        self.rows_max = rows_max
        self._rows_best = 0

    def service_s(self, rows: int) -> float:
        """Seconds that a batch is expected to take; at least `SERVICE_S_MIN` before the correction."""
        if self._version != self._residuals.version:
            self._version = self._residuals.version
            self._service_s.clear()
        service_s = self._service_s.get(rows)
        if service_s is None:
            ratio = self._residuals.ratio(self.variant, rows, self._cores)
            service_s = self._service_s[rows] = self.profiled_s(rows) * ratio
        return service_s

    def profiled_s(self, rows: int) -> float:
        """Seconds as profiled."""
        profiled_s = self._profiled_s.get(rows)
        if profiled_s is None:
            profiled_s = self._times.service_time_s(self.variant, self._bucket, rows, self._cores)
            profiled_s = self._profiled_s[rows] = max(profiled_s, SERVICE_S_MIN)
        return profiled_s

    def observe(self, rows: int, observed_s: float, *, now_s: float) -> None:
        """Learn from a batch that took `observed_s`."""
        ratio = observed_s / self.profiled_s(rows)
        self._residuals.observe(self.variant, rows, self._cores, ratio, now_s=now_s)

    def sizes(self, rows_max: int) -> tuple[int, ...]:
        """Batch sizes worth choosing under backlog, ascending; the last has the highest throughput.

        A size belongs to them if it finishes more rows a second than the next smaller one, by `GAIN_MIN` at
        least: a smaller batch that does as well answers sooner and fits closer deadlines. Taken from the
        profile alone, so that they stay the same between batches.
        """
        sizes = self._sizes.get(rows_max)
        if sizes is None:
            records: list[int] = []
            best = 0.0
            for rows in range(1, rows_max + 1):
                rate = rows / self.profiled_s(rows)
                if rate > best * GAIN_MIN:
                    best = rate
                    records.append(rows)
            sizes = self._sizes[rows_max] = tuple(records)
        return sizes


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
        self._lines: dict[tuple[str, int, float], Line] = {}
        self._batch_rows_max = dict(self._rows_max)
        self._batch_rows_max_else = 1
        self.residuals = Residuals()

    def adopt(self, batch_rows_max: int, by_variant: dict[str, int]) -> None:
        """Another plan's limits of rows hold, of all variants but those that have their own."""
        self._batch_rows_max = {
            name: min(own, by_variant.get(name, batch_rows_max)) for name, own in self._rows_max.items()
        }
        self._batch_rows_max_else = batch_rows_max
        for line in self._lines.values():
            line.limit(self.batch_rows_max(line.variant))

    def batch_rows_max(self, variant: str) -> int:
        """Rows that one batch may have now: the plan's limit or the model's own, whichever is less."""
        return self._batch_rows_max.get(variant, self._batch_rows_max_else)

    def line(self, variant: str, bucket: int, cores: float) -> Line:
        """Times of a variant on so many cores, by rows."""
        line = self._lines.get((variant, bucket, cores))
        if line is None:
            if len(self._lines) >= LINES_MAX:
                self._lines.clear()
            rows_max = self.batch_rows_max(variant)
            line = Line(self._times, self.residuals, variant, bucket, cores, rows_max=rows_max)
            self._lines[variant, bucket, cores] = line
        return line

    def service_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds that a batch is expected to take (`Line.service_s`)."""
        return self.line(variant, bucket, cores).service_s(rows)

    def margin_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds between the expected time and the 0.99 quantile."""
        tail_s = self._times.service_time_s_p99(variant, bucket, rows, cores)
        spread_s = max(tail_s - self.line(variant, bucket, cores).profiled_s(rows), 0.0)
        return spread_s * self.residuals.ratio(variant, rows, cores)

    def sizes(self, variant: str, bucket: int, cores: float, rows_max: int) -> tuple[int, ...]:
        """Batch sizes worth choosing under backlog (`Line.sizes`)."""
        return self.line(variant, bucket, cores).sizes(rows_max)

    def rows_max(self, variant: str, planned: int) -> int:
        """The lesser of `planned` rows and the model's own limit."""
        own = self._rows_max.get(variant)
        return planned if own is None or planned < own else own

    def cores_usable(self, variant: str, cores: float, further: float) -> float:
        """Cores of a replica that has `cores` and could get `further` ones, up to what the variant uses."""
        return max(cores, min(cores + further, float(self._cores_max.get(variant, cores))))
