"""What the arrival rate may come to, from counts by second: `predict(counts) -> rows a second`.

Counts are rows in whole seconds, oldest first; predictions are of the *maximum* over the next `horizon_s`
seconds, because capacity is planned for the worst second. An empty history predicts 0. All are pure.

Persistence is the bar: on the trace that Themis was evaluated on, its LSTM's error (MAPE 7.6 %) is that of
"the next ten seconds are like the last ten" (7.7 %), so nothing here is learnt off-line. `scores` measures
any predictor against it.

What a predictor is given bounds its memory; `memory.Memory` keeps more than a snapshot shows. Those that need
more history than they are given fall back to persistence.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import ceil
from typing import Protocol

from steelyard.core.errors import SpecError

Counts = Sequence[float]


class Predictor(Protocol):
    """Predicts the maximum rate of the near future."""

    def predict(self, counts: Counts) -> float:
        """Rows a second, >= 0."""
        ...


class WindowMaximum:
    """Persistence: the maximum of the last `horizon_s` seconds."""

    def __init__(self, horizon_s: int = 10) -> None:
        self._horizon = horizon_s

    def predict(self, counts: Counts) -> float:
        """The largest of the last counts."""
        return float(max(counts[-self._horizon :], default=0.0))


class Ewma:
    """Exponentially weighted mean: a smooth rate, no maximum; `half_life_s` is where a count weighs half."""

    def __init__(self, half_life_s: float = 5.0) -> None:
        self._keep = 0.5 ** (1.0 / half_life_s)

    def predict(self, counts: Counts) -> float:
        """Sum k^i x_i / sum k^i with i the age in seconds: unbiased from the first count on."""
        total = weight = 0.0
        for count in counts:
            total = total * self._keep + count
            weight = weight * self._keep + 1.0
        return total / weight if weight else 0.0


class QuantileOfMaximum:
    """A quantile of the next maximum: the last maximum times the quantile of how maxima have followed maxima.

    For every second t of the history, r_t = max(next h) / max(last h), both with one added. The prediction is
    max(last h) x the q-quantile of r. Until `samples_min` ratios are known it is plain persistence.
    """

    def __init__(self, horizon_s: int = 5, *, quantile: float = 0.9, samples_min: int = 20) -> None:
        self._horizon = horizon_s
        self._quantile = quantile
        self._samples_min = samples_min

    def predict(self, counts: Counts) -> float:
        """O(n h) for n counts."""
        h = self._horizon
        latest = float(max(counts[-h:], default=0.0))
        maxima = [max(counts[end - h : end]) for end in range(h, len(counts) + 1)]
        ratios = sorted(
            (after + 1.0) / (before + 1.0) for before, after in zip(maxima, maxima[h:], strict=False)
        )
        if len(ratios) < self._samples_min:
            return latest
        rank = min(len(ratios) - 1, ceil(self._quantile * len(ratios)) - 1)
        return latest * ratios[rank]


class Seasonal:
    """What followed one period ago, moved by how the level has changed since then (seasonal naive, additive).

    max(x[t - P : t - P + h]) + mean(x[t - L : t]) - mean(x[t - P - L : t - P]), at least 0, with P the
    period, L `level_s` and h the horizon. Until P + L seconds are known it is persistence. Source: Hyndman
    and Athanasopoulos, Forecasting: Principles and Practice, 3rd edition, 5.2 (the seasonal naive method).

    Args:
        period_s: after which the rate repeats itself, in whole seconds; a day by default.
        horizon_s: whole seconds ahead, at most the period.
        level_s: whole seconds that a level is averaged over.
    """

    def __init__(self, period_s: int = 86_400, *, horizon_s: int = 10, level_s: int = 10) -> None:
        if not 1 <= horizon_s <= period_s or level_s < 1:
            raise SpecError(
                f"want 1 <= horizon <= period and a level of at least 1 s, "
                f"not {horizon_s}, {period_s} and {level_s} s"
            )
        self._period = period_s
        self._horizon = horizon_s
        self._level = level_s
        self._persistence = WindowMaximum(horizon_s)

    @property
    def memory_s(self) -> int:
        """Seconds of history that it uses."""
        return self._period + self._level

    def predict(self, counts: Counts) -> float:
        """O(h + L), whatever the length of the history."""
        then = len(counts) - self._period
        if then < self._level:
            return self._persistence.predict(counts)
        change = sum(counts[-self._level :]) - sum(counts[then - self._level : then])
        return max(0.0, max(counts[then : then + self._horizon]) + change / self._level)


_PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "maximum": WindowMaximum,
    "ewma": Ewma,
    "quantile": QuantileOfMaximum,
    "seasonal": Seasonal,
}


def known_predictors() -> tuple[str, ...]:
    """Names for `make_predictor`."""
    return tuple(sorted(_PREDICTORS))


def make_predictor(name: str) -> Predictor:
    """A predictor with its defaults, by name.

    Raises:
        SpecError: unknown name; lists the known ones, the nearest first.
    """
    if name not in _PREDICTORS:
        near = get_close_matches(name, known_predictors(), cutoff=0.3)
        listed = ", ".join([*near, *(known for known in known_predictors() if known not in near)])
        raise SpecError(f"unknown predictor {name!r}; there are: {listed}")
    return _PREDICTORS[name]()
