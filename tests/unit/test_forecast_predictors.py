import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import SpecError
from steelyard.forecast.predictors import (
    Ewma,
    QuantileOfMaximum,
    WindowMaximum,
    known_predictors,
    make_predictor,
)


def test_persistence_is_the_maximum_of_the_last_seconds() -> None:
    assert WindowMaximum(3).predict([9, 1, 2, 5, 4]) == 5.0
    assert WindowMaximum(3).predict([]) == 0.0


def test_a_mean_weighs_by_age() -> None:
    # half life 1 s: (0.25 x 8 + 0.5 x 4 + 1 x 2) / 1.75
    assert Ewma(1.0).predict([8, 4, 2]) == pytest.approx(6.0 / 1.75)
    assert Ewma(1.0).predict([]) == 0.0


def test_a_quantile_needs_a_history_before_it_says_more_than_persistence() -> None:
    assert QuantileOfMaximum(2, samples_min=100).predict([1, 2, 3, 4] * 10) == 4.0


def test_a_quantile_scales_the_last_maximum_by_how_maxima_have_grown() -> None:
    # 1, 3, 7, 15 ...: with one added each is double the last, so every ratio is 2 and 15 becomes 30.
    counts = [2.0**n - 1 for n in range(1, 30)]
    predictor = QuantileOfMaximum(1, quantile=0.9, samples_min=20)
    assert predictor.predict(counts) == pytest.approx(2 * counts[-1])


@given(st.lists(st.integers(0, 500), max_size=60))
@pytest.mark.parametrize("name", known_predictors())
def test_every_prediction_is_a_rate(name: str, counts: list[int]) -> None:
    predictor = make_predictor(name)
    value = predictor.predict(counts)
    assert 0.0 <= value < float("inf")
    assert value == predictor.predict(counts)


@given(st.integers(0, 500), st.integers(1, 60))
@pytest.mark.parametrize("name", known_predictors())
def test_a_constant_rate_is_predicted_exactly(name: str, count: int, seconds: int) -> None:
    assert make_predictor(name).predict([count] * seconds) == pytest.approx(count)


def test_an_unknown_predictor_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="there are: ewma, maximum, quantile"):
        make_predictor("lstm")
