"""The parametric latency model, fitted to err little in proportion and never to promise the impossible.

    l(b, c) = alpha b / c + beta b + gamma / c + zeta        [seconds; b rows, c cores]

Latency is about linear in b at fixed c and follows Amdahl's law in c at fixed b (Themis, Sponge). Their fits
are unweighted, so small operating points, where SLOs are decided, come out worst, and coefficients turn
negative. Here errors count relative to the measured value, and coefficients are non-negative, so that more
rows never cost less and more cores never cost more where the model has to speak beyond what was measured.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import ProfileError
from steelyard.core.types import Frozen

RESIDUAL_QUANTILE = 0.95
_GAIN_MIN = 1e-9
"""A larger support must lower the squared error by more than this; so ties go to the earlier, simpler one."""


class FitPoint(NamedTuple):
    """One measured operating point; `time_s` > 0."""

    rows: int
    cores: float
    time_s: float


class LatencyFit(Frozen, frozen=True):
    """Fitted coefficients, seconds, all >= 0 and not all 0.

    Attributes:
        residual_ratio: 0.95 quantile of measured over fitted; the factor that makes a fitted value safe.
        error_ratio_mean: mean of |fitted - measured| / measured.
    """

    alpha_s: float
    beta_s: float
    gamma_s: float
    zeta_s: float
    residual_ratio: float
    error_ratio_mean: float

    def time_s(self, rows: float, cores: float) -> float:
        """Seconds for a batch of `rows` rows on `cores` cores; positive, rising in rows, falling in cores."""
        return (self.alpha_s * rows + self.gamma_s) / cores + self.beta_s * rows + self.zeta_s


def fit(points: Sequence[FitPoint]) -> LatencyFit:
    """Fit the model to measured points, least squares of relative errors under non-negativity.

    Where the points cannot tell terms apart, the cautious ones are kept: without a second core count, no gain
    from cores (beta, zeta); without a second row count, cost in proportion to rows (beta, alpha).

    Raises:
        ProfileError: no points, or a value that is not positive and finite.
    """
    if not points:
        raise ProfileError("no measured points to fit a latency model to")
    for point in points:
        if not (0 < point.time_s < float("inf") and 0 < point.cores < float("inf") and point.rows >= 1):
            raise ProfileError(f"cannot fit a latency model to {point}")
    rows, cores, times = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    basis = np.stack([rows, rows / cores, np.ones_like(rows), 1 / cores], axis=1) / times[:, None]
    beta, alpha, zeta, gamma = non_negative_least_squares(basis, np.ones_like(times))
    fitted = ((alpha * rows + gamma) / cores + beta * rows + zeta) / times
    return LatencyFit(
        alpha,
        beta,
        gamma,
        zeta,
        residual_ratio=float(np.quantile(1 / fitted, RESIDUAL_QUANTILE)),
        error_ratio_mean=float(np.mean(np.abs(fitted - 1))),
    )


def non_negative_least_squares(matrix: NDArray[Any], target: NDArray[Any]) -> tuple[float, ...]:
    """Minimise |matrix x - target| over x >= 0; shape (n, k) and (n,), for small k.

    Exact by enumeration: the optimum is the unconstrained optimum on its own support, so the best feasible
    one of the 2^k - 1 supports is it. Smaller supports, then earlier columns, win ties.
    """
    columns = matrix.shape[1]
    best, best_error = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for support in combinations(range(columns), size):
            part = matrix[:, support]
            solution = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(np.sum((part @ solution - target) ** 2))
            if solution.min() >= 0 and error < best_error - _GAIN_MIN:
                best = np.zeros(columns)
                best[list(support)] = solution
                best_error = error
    return tuple(float(value) for value in best)
