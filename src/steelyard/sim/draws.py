"""Everything random in a simulation: generators by name, and service times as they come true.

A generator is seeded by the run's seed and the name of what it is for, hashed by SHA-256: runs repeat under
another `PYTHONHASHSEED`, and what one stage draws does not depend on what another one does.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from steelyard.profile.formula import over_median
from steelyard.profile.tables import StageTimes, service_times

_BLOCK = 1024
_TAIL = log(over_median("lognormal", 1.0, "p99"))
"""The 0.99 quantile of a standard normal."""


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for whatever the names say."""
    digest = sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


class Durations:
    """Draws service times of one stage.

    A declared latency is drawn from its distribution; a measured one from the log-normal through its median
    and its 0.99 quantile. So is a declared log-normal one: the two are the same on whole cores, and on parts
    of a core the quota's stalls are in the 0.99 quantile only.

    Args:
        times: what is known of the stage.
        seed: of the run.
    """

    def __init__(self, times: StageTimes, seed: int) -> None:
        rng = generator(seed, times.service, times.stage, "service times")
        self._times = service_times(times)
        self._declared = times.declared
        self._normal = _stream(rng.standard_normal)
        self._exponential = _stream(rng.standard_exponential)
        self._points: dict[tuple[str, int, float], tuple[float, float | None]] = {}

    def draw_s(self, variant: str, rows: int, cores: float) -> float:
        """Seconds that the next batch takes.

        Raises:
            ProfileError: nothing is known of the variant there.
        """
        point = self._points.get((variant, rows, cores))
        if point is None:
            point = self._points[variant, rows, cores] = self._point(variant, rows, cores)
        scale_s, sigma = point
        if sigma is None:
            return scale_s * next(self._exponential)
        return scale_s * exp(sigma * next(self._normal)) if sigma else scale_s

    def median_s(self, variant: str, rows: int, cores: float) -> float:
        """Median seconds of a batch.

        Raises:
            ProfileError: nothing is known of the variant there.
        """
        return self._times.service_time_s(variant, 0, rows, cores)

    def _point(self, variant: str, rows: int, cores: float) -> tuple[float, float | None]:
        """(seconds, sigma of the log-normal factor on them, or None for an exponential one)."""
        median_s = self._times.service_time_s(variant, 0, rows, cores)
        declared = self._declared.get(variant)
        if declared is not None and declared.distribution == "fixed":
            return median_s, 0.0
        if declared is not None and declared.distribution == "exponential":
            return median_s / log(2), None
        p99_s = self._times.service_time_s_p99(variant, 0, rows, cores)
        return median_s, max(0.0, log(p99_s / median_s) / _TAIL)


def _stream(draw: Callable[[int], NDArray[np.float64]]) -> Iterator[float]:
    """Draws without end, a block at a time."""
    while True:
        yield from draw(_BLOCK).tolist()
