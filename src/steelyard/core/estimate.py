"""How long a batch will take now: the profile's median times the live correction.

Both the profile's answers and what follows from them (which batch sizes are worth while) are kept, since they
are asked several times for each request.
"""

from steelyard.core.residuals import Residuals
from steelyard.core.types import ServiceTimes, Stage

SERVICE_S_MIN = 1e-6
"""Shorter batches than this are taken as this long: rates stay finite."""

CACHE_MAX = 8192
"""Operating points remembered; fractional cores could otherwise make ever new ones."""


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
        self._medians: dict[tuple[str, int, int, float], float] = {}
        self._sizes: dict[tuple[str, int, float, int], tuple[int, ...]] = {}
        self.residuals = Residuals()

    def service_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds that a batch is expected to take; at least `SERVICE_S_MIN`."""
        return self._profiled_s(variant, bucket, rows, cores) * self.residuals.ratio(variant, rows, cores)

    def margin_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Seconds between the expected time and the 0.99 quantile."""
        tail_s = self._times.service_time_s_p99(variant, bucket, rows, cores)
        spread_s = max(tail_s - self._profiled_s(variant, bucket, rows, cores), 0.0)
        return spread_s * self.residuals.ratio(variant, rows, cores)

    def sizes(self, variant: str, bucket: int, cores: float, rows_max: int) -> tuple[int, ...]:
        """Batch sizes worth choosing under backlog, ascending; the last has the highest throughput.

        A size belongs to them if no smaller one finishes as many rows a second: a smaller batch that does
        also fits closer deadlines. Taken from the profile alone, so that they stay the same between batches.
        """
        key = (variant, bucket, cores, rows_max)
        sizes = self._sizes.get(key)
        if sizes is None:
            records: list[int] = []
            best = 0.0
            for rows in range(1, rows_max + 1):
                rate = rows / self._profiled_s(variant, bucket, rows, cores)
                if rate > best:
                    best = rate
                    records.append(rows)
            if len(self._sizes) >= CACHE_MAX:
                self._sizes.clear()
            sizes = self._sizes[key] = tuple(records)
        return sizes

    def rows_max(self, variant: str, planned: int) -> int:
        """Rows one batch may have: the plan's limit or the model's own, whichever is less."""
        return min(planned, self._rows_max.get(variant, planned))

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
        key = (variant, bucket, rows, cores)
        median_s = self._medians.get(key)
        if median_s is None:
            if len(self._medians) >= CACHE_MAX:
                self._medians.clear()
            median_s = max(self._times.service_time_s(variant, bucket, rows, cores), SERVICE_S_MIN)
            self._medians[key] = median_s
        return median_s
