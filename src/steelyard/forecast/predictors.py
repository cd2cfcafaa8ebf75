"""What the arrival rate may come to, from counts by second: `predict(counts) -> rows a second`.

Counts are rows in whole seconds, oldest first; predictions are of the *maximum* over the next `horizon_s`
seconds, because capacity is planned for the worst second. An empty history predicts 0. All are pure.

Persistence is the bar: on the trace that Themis was evaluated on, its LSTM's error (MAPE 7.6 %) is that of
"the next ten seconds are like the last ten" (7.7 %), so nothing here is learnt off-line.
"""

from collections.abc import Callable, Sequence
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


_PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "maximum": WindowMaximum,
    "ewma": Ewma,
    "quantile": QuantileOfMaximum,
}


def known_predictors() -> tuple[str, ...]:
    """Names for `make_predictor`."""
    return tuple(sorted(_PREDICTORS))


def make_predictor(name: str) -> Predictor:
    """A predictor with its defaults, by name.

    Raises:
        SpecError: unknown name; lists the known ones.
    """
    if name not in _PREDICTORS:
        raise SpecError(f"unknown predictor {name!r}; there are: {', '.join(known_predictors())}")
    return _PREDICTORS[name]()
