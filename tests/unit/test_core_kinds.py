"""What kinds of replicas can do. 10 ms for one row on a core, 20 ms for four; `small` takes half as long."""

import pytest

from steelyard.core.estimate import Estimator
from steelyard.core.kinds import Kind, Kinds
from steelyard.core.types import Stage, Variant
from steelyard.testing.builders import TableTimes

BIG = Variant("big", 0.9, 4, 4, cold_start_s=1.0)
SMALL = Variant("small", 0.6, 2, 4, cold_start_s=1.0)
TIMES = TableTimes({1: 0.010, 4: 0.020}, factors={"small": 0.5})
ONE = Kind(("big",), cores_alone=2.0, cores_shared=1.0)
TWO = Kind(("big", "small"), cores_alone=1.0, cores_shared=1.0)


def kinds_of(kinds: list[Kind], of_live: list[int]) -> tuple[Kinds, Estimator]:
    estimator = Estimator(Stage("st", (BIG, SMALL)), TIMES)
    estimator.adopt(4, {})
    made = Kinds(estimator)
    made.adopt(kinds, of_live)
    return made, estimator


def test_rates_are_of_best_batches_on_the_cores_that_all_could_have_at_once() -> None:
    kinds, _ = kinds_of([ONE, TWO], [0, 1, 0])
    rates = kinds.rates(0)
    # big: 4 rows in 20 ms; small: 2 rows in (10 + 10 / 3) / 2 = 6.67 ms, which is 300 rows a second.
    assert rates.kinds == [pytest.approx((200.0, 0.020)), pytest.approx((300.0, 0.020 / 3))]
    assert rates.live_rps == pytest.approx(200 + 300 + 200)


def test_how_soon_is_of_the_live_ones_with_all_that_is_grantable_and_at_most_a_batch() -> None:
    kinds, _ = kinds_of([ONE, TWO], [0])
    assert kinds.rows_everywhere == 2
    # Four rows: big on two cores 20 / 2 ms; small takes 2 of them at once, in 6.67 ms, but is not live.
    soonest = kinds.soonest(4, 0)
    assert soonest.kinds == pytest.approx([0.010, 0.020 / 3])
    assert soonest.live_s == pytest.approx(0.010)
    assert kinds_of([TWO], [])[0].soonest(1, 0).live_s == float("inf")


def test_corrections_count_once_they_are_told() -> None:
    kinds, estimator = kinds_of([ONE], [0])
    before_s = kinds.soonest(1, 0).live_s
    estimator.line("big", 0, 2.0).observe(1, 2 * before_s, now_s=1.0)  # twice as long as profiled
    assert kinds.soonest(1, 0).live_s == before_s
    kinds.forget()
    assert kinds.soonest(1, 0).live_s == pytest.approx(2 * before_s)
