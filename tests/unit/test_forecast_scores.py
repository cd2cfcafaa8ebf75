import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import TraceError
from steelyard.forecast.predictors import WindowMaximum
from steelyard.forecast.scores import Score, backtest, coverage, persistence_of, pinball_loss, score


def test_a_miss_from_below_costs_the_quantile_and_from_above_the_rest() -> None:
    # 0.9 x (12 - 10) = 1.8 and 0.1 x (10 - 7) = 0.3: mean 1.05
    assert pinball_loss([12.0, 7.0], [10.0, 10.0], 0.9) == pytest.approx(1.05)
    # the median's loss is half the absolute error: (2 + 3) / 2 / 2
    assert pinball_loss([12.0, 7.0], [10.0, 10.0], 0.5) == pytest.approx(1.25)


def test_coverage_is_the_share_that_is_not_above() -> None:
    assert coverage([9.0, 10.0, 11.0, 12.0], [10.0] * 4) == 0.5


@given(st.lists(st.floats(0, 1000), min_size=20, max_size=60), st.sampled_from([0.1, 0.5, 0.9]))
def test_no_constant_beats_the_quantile(values: list[float], quantile: float) -> None:
    best = float(np.quantile(values, quantile, method="inverted_cdf"))
    least = pinball_loss(values, [best] * len(values), quantile)
    for other in values:
        assert least <= pinball_loss(values, [other] * len(values), quantile) + 1e-9


def test_origins_see_their_past_and_are_held_against_their_future() -> None:
    # history 3 s, horizon 2 s: origins 3, 5 and 7 of [1 5 2 | 3 9 | 4 1 | 8 2]
    counts = [1, 5, 2, 3, 9, 4, 1, 8, 2]
    test = backtest(WindowMaximum(3), counts, horizon_s=2, history_s=3, every_s=2)
    assert test.predicted.tolist() == [5.0, 9.0, 9.0]
    assert test.actual.tolist() == [9.0, 4.0, 8.0]


def test_a_later_first_origin_makes_comparisons_fair() -> None:
    counts = list(range(20))
    test = backtest(WindowMaximum(2), counts, horizon_s=2, history_s=3, from_s=17)
    assert test.predicted.tolist() == [16.0, 17.0]
    assert test.actual.tolist() == [18.0, 19.0]


def test_too_short_a_history_is_said() -> None:
    with pytest.raises(TraceError, match="10 s are too few for 9 s of history and 2 s ahead"):
        backtest(WindowMaximum(2), [1] * 10, horizon_s=2, history_s=9)


def test_persistence_has_no_skill_and_the_truth_has_all() -> None:
    class Foreseeing:
        def predict(self, counts: object) -> float:
            return 5.0

    counts = [1, 5, 1, 5, 1, 5, 1, 1, 5, 1, 5, 5]
    bar = backtest(persistence_of(1), counts, horizon_s=1, history_s=1)
    assert score(bar, bar, 0.9).skill == 0.0
    always = backtest(Foreseeing(), [1, 5, 5, 5], horizon_s=1, history_s=1)
    last = backtest(persistence_of(1), [1, 5, 5, 5], horizon_s=1, history_s=1)
    # persistence misses the first of three by 4: 0.5 x 4 / 3
    assert score(always, last, 0.5) == Score(0.0, 1.0, 2 / 3, 1.0)


def test_nothing_lost_is_no_skill() -> None:
    still = backtest(persistence_of(1), [3] * 9, horizon_s=1, history_s=1)
    assert score(still, still, 0.5) == Score(0.0, 1.0, 0.0, 0.0)
