"""What the revision of 2025 reckons with, on YOLOv10n: (39.9, 7.78, 1.83, 0.45) ms, l(1, 1) = 49.96 ms."""

from math import log

import pytest

from steelyard.plan.queueing import fill_wait_s
from steelyard.plan.themis import Choice, ThemisStage, capacity_rps, horizontal, vertical, vertical_with_extra
from steelyard.plan.themis2025 import RECKONINGS, exponential_fill_wait_ms, gamma_fill_wait_ms, with_margin

EXPONENTIAL = RECKONINGS["exponential"]


def yolo_ms(rows: int, cores: int) -> float:
    return 39.9 * rows / cores + 7.78 * rows + 1.83 / cores + 0.45


def test_a_margin_of_a_tenth_of_a_single_row_on_one_core() -> None:
    assert with_margin(yolo_ms)(1, 1) == pytest.approx(1.1 * 49.96)
    # l(2, 4) = 19.95 + 15.56 + 0.4575 + 0.45 = 36.4175, and 4.996 more
    assert with_margin(yolo_ms)(2, 4) == pytest.approx(36.4175 + 4.996)


def test_the_gaps_of_a_batch_by_their_own_quantiles_or_by_that_of_their_sum() -> None:
    assert exponential_fill_wait_ms(1, 50.0) == gamma_fill_wait_ms(1, 50.0) == 0.0
    # one gap at 50 rows/s: ln(100) x 20 ms = 92.1 ms, either way
    assert exponential_fill_wait_ms(2, 50.0) == pytest.approx(log(100) * 20)
    assert gamma_fill_wait_ms(2, 50.0) == pytest.approx(log(100) * 20)
    # three gaps: 276 ms if each is at its 0.99 quantile, 8.406 x 20 = 168 ms for Gamma(3)
    assert exponential_fill_wait_ms(4, 50.0) == pytest.approx(276.3, abs=0.1)
    assert gamma_fill_wait_ms(4, 50.0) == pytest.approx(168.1, abs=0.1) == 1000 * fill_wait_s(4, 50.0, 0.99)


def test_filling_is_not_busy_time_and_demand_has_headroom() -> None:
    stage = ThemisStage(yolo_ms, 4, 4)
    # l(2, 1) = 79.8 + 15.56 + 1.83 + 0.45 = 97.64 ms
    assert capacity_rps(stage, 2, 1, 50.0, EXPONENTIAL) == pytest.approx(2000 / 97.64)
    assert EXPONENTIAL.demand_rps(50.0) == 57.0  # 50 + 7.07
    assert EXPONENTIAL.demand_rps(0.0) == 0.0


def test_the_programs_on_these_sums() -> None:
    stage = ThemisStage(yolo_ms, 4, 4)
    # 57 rows/s at 1000 / 49.96 = 20.02 a replica: 3 replicas, single rows
    assert horizontal([stage], 50, 300, EXPONENTIAL) == (Choice(3, 1, 1, 50),)
    # 2 replicas must give 28.5 each: 2 cores: 19.95 + 7.78 + 0.915 + 0.45 = 29.095 ms, 34.4/s
    assert vertical([stage], 50, 300, (2,), EXPONENTIAL) == (Choice(2, 2, 1, 30),)


def test_extra_replicas_are_for_the_demand_that_is_left() -> None:
    # One replica, 1 core at most: single rows give 20.02/s, and with head-room 16 is the largest rate:
    # 16 + 4 = 20 (17 + 4.12 = 21). Batches do not help: 2 rows give 20.48/s, and 17 has 21 to carry.
    # At 50 rows/s 57 are to be carried: (57 - 20) / 20.02 -> 2 more.
    stage = ThemisStage(yolo_ms, 1, 2)
    choices, extra = vertical_with_extra([stage], 50, 300, (1,), EXPONENTIAL)
    assert choices == (Choice(1, 1, 1, 50),)
    assert extra == (2,)


def test_memory_makes_replicas_of_one_stage_dearer() -> None:
    # Single rows take 20 ms, 50/s; batches of 2 take 30 ms, 67/s, and 46.05 ms to fill at 100/s. 110 rows/s
    # need 3 replicas or 2, and the budget lets only one stage form batches: the one whose replicas are dear.
    def latency_ms(rows: int, cores: int) -> float:
        return 10.0 + 10.0 * rows / cores

    light = ThemisStage(latency_ms, 1, 2)
    heavy = light._replace(memory_gb=2.0)
    budget = 77 + 20 + 1
    for stages, saves in (((light, heavy), 1), ((heavy, light), 0)):
        chosen = horizontal(stages, 100, budget, EXPONENTIAL)
        assert chosen is not None
        assert [c.replicas for c in chosen][saves] == 2
        assert [c.replicas for c in chosen][1 - saves] == 3


def test_a_stage_with_a_fan_out_has_more_rows_to_carry() -> None:
    # 3 rows a request: 57 x 3 = 171 rows/s at 20.02: 9 replicas
    stage = ThemisStage(yolo_ms, 4, 1, fan_out=3)
    assert horizontal([stage], 50, 300, EXPONENTIAL) == (Choice(9, 1, 1, 50),)
