"""Service times from published coefficients, with the same questions answered as by a measured `Surface`."""

from math import ceil, exp, isfinite, log
from typing import Literal

from steelyard.core.errors import ProfileError
from steelyard.profile.surface import QUOTA_PERIOD_S

Stat = Literal["p50", "p95", "p99"]
Distribution = Literal["fixed", "lognormal", "exponential"]

_NORMAL_QUANTILE = {"p50": 0.0, "p95": 1.6448536269514722, "p99": 2.3263478740408408}
_TAIL = {"p50": 0.5, "p95": 0.05, "p99": 0.01}


def over_median(distribution: Distribution, spread: float, stat: Stat) -> float:
    """A quantile of a service time over its median.

    fixed: 1. lognormal: exp(z sigma), z the normal quantile. exponential: ln(1 / (1 - q)) / ln 2.

    Raises:
        ProfileError: `spread` is negative or not finite.
    """
    if not (isfinite(spread) and spread >= 0):
        raise ProfileError(f"want a spread >= 0, not {spread}")
    if distribution == "fixed":
        return 1.0
    if distribution == "exponential":
        return log(1 / _TAIL[stat]) / log(2)
    return exp(_NORMAL_QUANTILE[stat] * spread)


class Formula:
    """l(b, c) = alpha b / c + beta b + gamma / c + zeta; coefficients may be negative, as published ones are.

    Below one core it is that of one core, divided by the share; a quota's stalls are in the p99, as in
    `Surface`.

    Args:
        coefficients_ms: (alpha, beta, gamma, zeta), milliseconds.
        spread: sigma of a log-normal factor with median 1.
        stat: which statistic the coefficients give.
        distribution: shape of the service time, from which median and p99 follow.

    Raises:
        ProfileError: a coefficient is not finite, or `spread` is negative.
    """

    def __init__(
        self,
        coefficients_ms: tuple[float, float, float, float],
        *,
        spread: float = 0.05,
        stat: Stat = "p50",
        distribution: Distribution = "lognormal",
    ) -> None:
        if not all(map(isfinite, coefficients_ms)):
            raise ProfileError(f"want finite latency coefficients, not {coefficients_ms}")
        to_median = 1 / over_median(distribution, spread, stat)
        self._coefficients_s = tuple(value / 1000 * to_median for value in coefficients_ms)
        self._to_p99 = over_median(distribution, spread, "p99")

    def p50_s(self, rows: int, cores: float) -> float:
        """Median seconds of a batch.

        Raises:
            ProfileError: the formula gives no positive time there.
        """
        alpha, beta, gamma, zeta = self._coefficients_s
        whole = max(cores, 1.0)
        time_s = (alpha * rows + gamma) / whole + beta * rows + zeta
        if not (time_s > 0 and cores > 0):
            raise ProfileError(f"declared latency is {time_s * 1000:g} ms for {rows} rows on {cores:g} cores")
        return time_s / cores if cores < 1 else time_s

    def p99_s(self, rows: int, cores: float) -> float:
        """0.99 quantile of the same.

        Raises:
            ProfileError: the formula gives no positive time there.
        """
        return self.p50_s(rows, cores) * self._to_p99 + QUOTA_PERIOD_S * (1 - cores / ceil(cores))

    def extrapolates(self, rows: int, cores: float) -> bool:
        """Never: a formula is declared for every batch of at least one row, on any cores."""
        return rows < 1 or cores <= 0
