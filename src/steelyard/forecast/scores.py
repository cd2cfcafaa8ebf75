"""How good a predictor is: it is run over a history, and its predictions are held against what came.

A prediction of the q-quantile is scored by the pinball loss, whose expectation is least for the true
quantile: q (x - p) where the truth x is above the prediction p, (1 - q) (p - x) where it is below. Coverage
is the share of truths that are not above; for a calibrated predictor it is q. Source: Koenker and Bassett,
Regression Quantiles, Econometrica 46, 1978.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steelyard.core.errors import TraceError
from steelyard.forecast.predictors import Counts, Predictor, WindowMaximum

HISTORY_S = 120
"""What a snapshot shows of the past, seconds."""


class Backtest(NamedTuple):
    """Predictions and what came, both of shape (origins,), rows a second."""

    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]


class Score(NamedTuple):
    """Of one predictor at one quantile.

    Attributes:
        pinball: mean loss, rows a second.
        coverage: share of truths not above the prediction.
        persistence: mean loss of the last window's maximum.
        skill: 1 - pinball / persistence: above 0 is better than persistence; 0 where both are 0.
    """

    pinball: float
    coverage: float
    persistence: float
    skill: float


def pinball_loss(actual: ArrayLike, predicted: ArrayLike, quantile: float) -> float:
    """Mean pinball loss over equal shapes, in their unit."""
    over = np.asarray(actual, dtype=np.float64) - np.asarray(predicted, dtype=np.float64)
    return float(np.mean(np.maximum(quantile * over, (quantile - 1) * over)))


def coverage(actual: ArrayLike, predicted: ArrayLike) -> float:
    """Share of truths that are not above their prediction."""
    return float(np.mean(np.asarray(actual) <= np.asarray(predicted)))


def backtest(
    predictor: Predictor,
    counts: Counts,
    *,
    horizon_s: int,
    history_s: int = HISTORY_S,
    every_s: int = 1,
    from_s: int | None = None,
) -> Backtest:
    """Predict the maximum of the next `horizon_s` seconds at each origin, from the `history_s` before it.

    Args:
        predictor: asked once an origin.
        counts: by second.
        horizon_s: whole seconds ahead.
        history_s: seconds that the predictor is shown.
        every_s: seconds between two origins.
        from_s: the first origin; that of the first full history if omitted.

    Raises:
        TraceError: there is not a single origin.
    """
    first = history_s if from_s is None else from_s
    origins = range(first, len(counts) - horizon_s + 1, every_s)
    if not origins:
        raise TraceError(f"{len(counts)} s are too few for {first} s of history and {horizon_s} s ahead")
    listed = list(counts)
    predicted = [predictor.predict(listed[max(0, at - history_s) : at]) for at in origins]
    actual = [max(listed[at : at + horizon_s]) for at in origins]
    return Backtest(np.array(predicted, dtype=np.float64), np.array(actual, dtype=np.float64))


def score(of: Backtest, persistence: Backtest, quantile: float) -> Score:
    """Score a backtest against that of persistence at the same origins."""
    loss, bar = (pinball_loss(test.actual, test.predicted, quantile) for test in (of, persistence))
    return Score(loss, coverage(of.actual, of.predicted), bar, 1 - loss / bar if bar > 0 else 0.0)


def persistence_of(horizon_s: int) -> Predictor:
    """The bar: the next maximum is the last one."""
    return WindowMaximum(horizon_s)
