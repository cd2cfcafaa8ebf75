"""Service times as planners, machines and the simulator ask for them (`core.types.ServiceTimes`), by source.

All are pure and deterministic. They are asked on the request path, so answers are remembered, up to a limit.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from steelyard.core.errors import ProfileError
from steelyard.profile.formula import Distribution, Formula, Stat, over_median
from steelyard.profile.surface import Point, Surface
from steelyard.profile.types import DeclaredLatency, Profile

MEMO_MAX = 65536


class _RememberedTimes(ABC):
    """Looks up the surface of a variant and bucket, and remembers what it answered."""

    def __init__(self) -> None:
        self._memo: dict[tuple[str, int, int, float, bool], float] = {}

    @abstractmethod
    def surface(self, variant: str, bucket: int) -> Surface | Formula:
        """What is known of one variant in one shape bucket."""

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Median seconds to run one batch of `rows` rows on `cores` cores.

        Raises:
            ProfileError: nothing is known of the variant there.
        """
        return self._ask(variant, bucket, rows, cores, tail=False)

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """0.99 quantile of the same.

        Raises:
            ProfileError: nothing is known of the variant there.
        """
        return self._ask(variant, bucket, rows, cores, tail=True)

    def extrapolates(self, variant: str, bucket: int, rows: int, cores: float) -> bool:
        """Whether the answer lies beyond what was measured."""
        return self.surface(variant, bucket).extrapolates(rows, cores)

    def _ask(self, variant: str, bucket: int, rows: int, cores: float, *, tail: bool) -> float:
        key = (variant, bucket, rows, cores, tail)
        time_s = self._memo.get(key)
        if time_s is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            surface = self.surface(variant, bucket)
            time_s = self._memo[key] = surface.p99_s(rows, cores) if tail else surface.p50_s(rows, cores)
        return time_s


class ProfileTable(_RememberedTimes):
    """Measured service times of one stage's variants; see `surface.py` for what happens between measurements.

    Args:
        profiles: one for each variant.

    Raises:
        ProfileError: no profile, two of one variant, or cells that are not positive or contradict themselves.
    """

    def __init__(self, profiles: Sequence[Profile]) -> None:
        super().__init__()
        if not profiles:
            raise ProfileError("no profile; run `steelyard profile` first")
        self._surfaces: dict[str, dict[int, Surface]] = {}
        for profile in profiles:
            if profile.variant in self._surfaces:
                raise ProfileError(f"two profiles of variant {profile.variant}")
            self._surfaces[profile.variant] = _surfaces(profile)

    def surface(self, variant: str, bucket: int) -> Surface:
        """Measured times in one bucket; for an unmeasured bucket, those of the next larger, else the largest.

        Raises:
            ProfileError: the variant has no profile.
        """
        buckets = self._of(variant)
        return buckets[min((known for known in buckets if known >= bucket), default=max(buckets))]

    def extrapolates(self, variant: str, bucket: int, rows: int, cores: float) -> bool:
        """Whether the answer lies beyond what was measured: in bucket, rows or cores."""
        return bucket not in self._of(variant) or super().extrapolates(variant, bucket, rows, cores)

    def _of(self, variant: str) -> dict[int, Surface]:
        try:
            return self._surfaces[variant]
        except KeyError:
            known = ", ".join(self._surfaces)
            raise ProfileError(f"no profile of variant {variant}; known are {known}") from None


class CoefficientTimes(_RememberedTimes):
    """l(b, c) = alpha b / c + beta b + gamma / c + zeta [ms] for whatever variant and bucket is asked for.

    Raises:
        ProfileError: a coefficient is not finite, or `spread` is negative.
    """

    def __init__(
        self,
        alpha_ms: float,
        beta_ms: float,
        gamma_ms: float,
        zeta_ms: float,
        *,
        spread: float = 0.05,
        stat: Stat = "p50",
        distribution: Distribution = "lognormal",
    ) -> None:
        super().__init__()
        coefficients_ms = (alpha_ms, beta_ms, gamma_ms, zeta_ms)
        self._formula = Formula(coefficients_ms, spread=spread, stat=stat, distribution=distribution)

    def surface(self, variant: str, bucket: int) -> Formula:  # noqa: ARG002  one formula for all of them
        """The formula."""
        return self._formula


class DeclaredTimes(_RememberedTimes):
    """Service times stated in the spec, for whatever variant and bucket is asked for.

    Raises:
        ProfileError: neither coefficients nor a table is given, or both, or a value is not positive and
        finite.
    """

    def __init__(self, declared: DeclaredLatency) -> None:
        super().__init__()
        if (declared.coefficients_ms is None) == (not declared.table):
            raise ProfileError("declare a latency by coefficients or by a table, one of the two")
        self._surface: Surface | Formula
        if declared.coefficients_ms is None:
            self._surface = Surface(_declared_points(declared))
        else:
            self._surface = Formula(
                declared.coefficients_ms,
                spread=declared.spread,
                stat=declared.stat,
                distribution=declared.distribution,
            )

    def surface(self, variant: str, bucket: int) -> Surface | Formula:  # noqa: ARG002  declared once for all
        """The declared formula or table."""
        return self._surface


def _surfaces(profile: Profile) -> dict[int, Surface]:
    buckets: dict[int, list[Point]] = {}
    for cell in profile.cells:
        buckets.setdefault(cell.bucket, []).append(Point(cell.rows, cell.cores, cell.p50_s, cell.p99_s))
    if not buckets:
        raise ProfileError(f"profile of variant {profile.variant}: no measured cell")
    try:
        return {bucket: Surface(points) for bucket, points in buckets.items()}
    except ProfileError as error:
        raise ProfileError(f"profile of variant {profile.variant}: {error}") from error


def _declared_points(declared: DeclaredLatency) -> list[Point]:
    to_median = 1 / over_median(declared.distribution, declared.spread, declared.stat)
    to_p99 = over_median(declared.distribution, declared.spread, "p99")
    points = []
    for rows, cores, latency_ms, p99_ms in declared.table:
        p50_s = latency_ms / 1000 * to_median
        points.append(Point(rows, cores, p50_s, p50_s * to_p99 if p99_ms is None else p99_ms / 1000))
    return points
