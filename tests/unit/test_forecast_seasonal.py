import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import SpecError
from steelyard.forecast.memory import Memory
from steelyard.forecast.predictors import Seasonal, make_predictor


def test_it_is_what_followed_a_period_ago_moved_by_the_level() -> None:
    # period 5, level 2, horizon 2: the last two have mean 15, those a period before (10, 10) mean 10: 5
    # higher. Then came 30 and 40: 40 + 5.
    counts = [10.0, 10.0, 30.0, 40.0, 12.0, 14.0, 16.0]
    assert Seasonal(5, horizon_s=2, level_s=2).predict(counts) == 45.0


def test_a_lower_level_lowers_it_down_to_nothing() -> None:
    # the level fell from 100 to 2, and 20 came a period ago: 20 - 98 < 0
    assert Seasonal(3, horizon_s=1, level_s=1).predict([100.0, 20.0, 20.0, 2.0]) == 0.0


def test_without_a_period_of_history_it_is_persistence() -> None:
    predictor = Seasonal(5, horizon_s=2, level_s=2)
    assert predictor.predict([9.0, 1.0, 7.0, 3.0, 5.0, 2.0]) == 5.0  # 5 + 2 are needed, 6 are there
    assert predictor.predict([]) == 0.0


@given(st.lists(st.integers(0, 300), min_size=6, max_size=6), st.integers(3, 8), st.integers(0, 100))
def test_what_repeats_itself_is_predicted_exactly(season: list[int], periods: int, higher: int) -> None:
    # the same season again and again, the last time at a level that is higher throughout
    counts = season * periods + [x + higher for x in season]
    # origin at the season's end: a period ago the first two of it followed
    assert Seasonal(6, horizon_s=2, level_s=6).predict(counts) == pytest.approx(
        max(season[:2]) + higher + higher
    )


def test_it_uses_no_more_than_its_memory() -> None:
    predictor = Seasonal(5, horizon_s=2, level_s=2)
    counts = [float(x * x % 17) for x in range(50)]
    assert predictor.memory_s == 7
    assert predictor.predict(counts) == predictor.predict(counts[-7:])


@pytest.mark.parametrize(("period", "horizon", "level"), [(5, 6, 1), (5, 0, 1), (5, 2, 0)])
def test_a_horizon_is_within_the_period(period: int, horizon: int, level: int) -> None:
    with pytest.raises(SpecError, match="want 1 <= horizon <= period"):
        Seasonal(period, horizon_s=horizon, level_s=level)


def test_an_unknown_predictor_has_the_nearest_first() -> None:
    with pytest.raises(SpecError, match="unknown predictor 'seasonl'; there are: seasonal, "):
        make_predictor("seasonl")


def test_a_memory_joins_overlapping_views() -> None:
    memory = Memory(5)
    memory.add([1, 2, 3], end_s=3)
    memory.add([2, 3, 4, 5], end_s=5)
    assert memory.counts == (1, 2, 3, 4, 5)
    memory.add([4, 5, 6], end_s=6)
    assert memory.counts == (2, 3, 4, 5, 6)


def test_a_memory_takes_no_second_twice() -> None:
    memory = Memory(5)
    memory.add([1, 2], end_s=2)
    memory.add([1, 2], end_s=2)
    memory.add([1], end_s=1)
    assert memory.counts == (1, 2)


def test_seconds_that_no_view_showed_hold_the_last_count() -> None:
    memory = Memory(10)
    memory.add([1, 2], end_s=2)
    memory.add([7], end_s=6)
    assert memory.counts == (1, 2, 2, 2, 2, 7)
    memory.add([9], end_s=10**9)
    assert memory.counts == (7,) * 9 + (9,)


def test_a_memory_has_room() -> None:
    with pytest.raises(SpecError, match="at least 1 s"):
        Memory(0)
